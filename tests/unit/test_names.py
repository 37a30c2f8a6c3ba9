"""Clients' names: which are taken, what is refused by name, and where the file is stored."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from app.domain.names import (
    DEFAULT_DIRECTORY,
    MAX_COMPONENT_BYTES,
    MAX_NAME_BYTES,
    ClientName,
    parse_client_name,
    target_key,
)
from app.errors import InvalidName

#: A busy machine is no failure.
UNTIMED = settings(deadline=None)

FILE_ID = "550e8400-e29b-41d4-a716-446655440000"

#: What the id and its underscore take of a stored name.
PREFIX_BYTES = 37

#: All that may stand in a component: no slash, backslash, control or surrogate.
components = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"),
    min_size=1,
    max_size=80,
).filter(lambda text: text not in {".", ".."} and text.casefold() != ".staging")


def names(**lengths):
    """Names of one or more components that are refused for nothing but their length."""
    return st.lists(components, min_size=1, **lengths).map("/".join)


def stored(name):
    return target_key(FILE_ID, parse_client_name(name))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("videos/2024/movie.mp4", f"videos/2024/{FILE_ID}_movie.mp4"),
        ("videos/2024/december/movie.mp4", f"videos/2024/december/{FILE_ID}_movie.mp4"),
        ("movie.mp4", f"files/{FILE_ID}_movie.mp4"),
        ("no extension", f"files/{FILE_ID}_no extension"),
        (".hidden", f"files/{FILE_ID}_.hidden"),
        ("...", f"files/{FILE_ID}_..."),
        ("a..b/..c/d..", f"a..b/..c/{FILE_ID}_d.."),
        ("~/x", f"~/{FILE_ID}_x"),
        ("C:movie.mp4", f"files/{FILE_ID}_C:movie.mp4"),
        ("files/x", f"files/{FILE_ID}_x"),
    ],
)
def test_a_file_is_stored_in_the_folders_of_its_name_with_the_id_before_it(name, key):
    assert stored(name) == key


@pytest.mark.parametrize(
    "name",
    ["my holiday film.mp4", " x ", "grüße aus köln.txt", "日本語.txt", "🎬.mp4", "a'b\"c$d.txt"],
)
def test_spaces_and_unicode_are_kept(name):
    assert parse_client_name(name) == ClientName("", name)
    assert stored(f"{name}/{name}") == f"{name}/{FILE_ID}_{name}"


def test_names_become_nfc():
    name = parse_client_name("Ko\u0308ln/Gru\u0308\u00dfe.txt")
    assert name == ClientName("K\u00f6ln", "Gr\u00fc\u00dfe.txt")


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("..", ".."),
        ("../movie.mp4", ".."),
        ("videos/../../etc/passwd", ".."),
        ("videos/..", ".."),
        (".", "."),
        ("videos/./movie.mp4", "."),
        ("", ""),
        ("videos//movie.mp4", ""),
        ("videos/", ""),
        ("/", "/"),
        ("/etc/passwd", "/etc/passwd"),
        ("//server/share", "//server/share"),
        ("a\0b", "a\0b"),
        ("videos/a\0", "a\0"),
        ("a\nb", "a\nb"),
        ("\t", "\t"),
        ("a\x7fb", "a\x7fb"),
        ("a\x85b", "a\x85b"),
        ("..\\..\\windows", "..\\..\\windows"),
        ("videos/a\\b", "a\\b"),
        ("C:\\movie.mp4", "C:\\movie.mp4"),
        ("\ud800", "\ud800"),
        (".staging/x", ".staging"),
        ("videos/.Staging/x", ".Staging"),
        ("x/.STAGING", ".STAGING"),
        ("a" * 256, "a" * 256),
        ("videos/" + "ü" * 128, "ü" * 128),
    ],
)
def test_a_hostile_component_is_refused_and_named(name, component):
    with pytest.raises(InvalidName) as raised:
        parse_client_name(name)
    assert raised.value.component == component
    shown = component.encode("ascii", "backslashreplace").decode()
    assert repr(shown[:70])[1:-1] in raised.value.message
    assert raised.value.message.isprintable()


@pytest.mark.parametrize("component", ["a" * 255, "ü" * 127 + "a", "🎬" * 63 + "abc"])
def test_a_component_may_have_255_bytes(component):
    assert parse_client_name(f"{component}/x").directory == component
    assert parse_client_name(component).filename == component


def test_what_counts_is_the_length_that_is_stored():
    shorter_in_nfc = "u\u0308" * 127  # 3 bytes each as sent, 2 as stored
    assert parse_client_name(shorter_in_nfc).filename == "\u00fc" * 127
    longer_in_nfc = "\u0958" * 64  # 3 bytes each as sent, 6 as stored
    with pytest.raises(InvalidName, match="longer"):
        parse_client_name(longer_in_nfc)


def test_a_name_with_its_folders_has_a_limit_too():
    fits = "/".join(["a" * 99] * 9)
    assert len(fits) == MAX_NAME_BYTES - 1
    assert parse_client_name(fits + "a").filename == "a" * 100
    with pytest.raises(InvalidName, match="folders"):
        parse_client_name(fits + "aa")


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("a" * 218, "a" * 218),
        ("a" * 219, "a" * 218),
        ("a" * 251 + ".mp4", "a" * 214 + ".mp4"),
        ("a" * 248 + ".tar.gz", "a" * 215 + ".gz"),
        ("ü" * 125 + ".mp4", "ü" * 107 + ".mp4"),
        ("🎬" * 62 + ".mp4", "🎬" * 53 + ".mp4"),
        ("." + "a" * 254, "." + "a" * 217),
        ("a." + "b" * 253, "a." + "b" * 216),
    ],
)
def test_a_name_too_long_with_the_id_loses_the_end_of_its_stem(filename, expected):
    name = parse_client_name(filename)
    assert name.filename == filename
    assert target_key(FILE_ID, name) == f"files/{FILE_ID}_{expected}"


def test_folders_count_for_the_longest_name_wherever_they_come_from():
    folders = "/".join(["d" * 200] * 4)
    room = MAX_NAME_BYTES - len(f"{folders}/")
    fitting = parse_client_name("n" * room)
    assert fitting.below(folders).directory == folders
    assert parse_client_name(f"{folders}/{'n' * room}") == fitting.below(folders)
    with pytest.raises(InvalidName, match="with its folders"):
        parse_client_name("n" * (room + 1)).below(folders)


@UNTIMED
@given(names(max_size=6))
@example("a" * 250 + ".mp4")
def test_every_accepted_name_is_stored_below_its_folders_within_the_limits(text):
    try:
        name = parse_client_name(text)
    except InvalidName:
        assume(False)
    key = target_key(FILE_ID, name)
    folders, _, filename = key.rpartition("/")
    assert folders == (name.directory or DEFAULT_DIRECTORY)
    assert filename.startswith(f"{FILE_ID}_")
    assert all(0 < len(part.encode()) <= MAX_COMPONENT_BYTES for part in key.split("/"))
    assert unicodedata.is_normalized("NFC", key)
    if len(name.filename.encode()) + PREFIX_BYTES <= MAX_COMPONENT_BYTES:
        assert filename == f"{FILE_ID}_{name.filename}"


@UNTIMED
@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\."), min_size=1)
)
def test_a_shortened_name_is_the_beginning_of_the_whole_one_with_its_extension(stem):
    long = unicodedata.normalize("NFC", stem * 255).encode()
    stem = long[: MAX_COMPONENT_BYTES - 4].decode(errors="ignore")
    kept = stored(f"{stem}.mp4").removeprefix(f"files/{FILE_ID}_")
    assert kept.endswith(".mp4")
    assert stem.startswith(kept.removesuffix(".mp4"))
    if len(stem.encode()) + 4 + PREFIX_BYTES > MAX_COMPONENT_BYTES:
        # Not a character more was cut off than had to be.
        longest = max(len(character.encode()) for character in stem)
        assert len(kept.encode()) + PREFIX_BYTES > MAX_COMPONENT_BYTES - longest


@UNTIMED
@given(names(max_size=3))
def test_a_parsed_name_is_parsed_to_itself(text):
    try:
        name = parse_client_name(text)
    except InvalidName:
        assume(False)
    again = f"{name.directory}/{name.filename}" if name.directory else name.filename
    assert parse_client_name(again) == name


@UNTIMED
@given(st.text())
def test_any_text_is_either_taken_or_refused_with_a_message_that_can_be_shown(text):
    try:
        name = parse_client_name(text)
    except InvalidName as refused:
        assert refused.message.isascii()
        assert refused.message.isprintable()
        assert len(refused.message) < 300
    else:
        assert "\0" not in name.directory + name.filename


@UNTIMED
@given(names(max_size=3), st.uuids(), st.uuids())
def test_two_uploads_never_meet(text, first, second):
    assume(first != second)
    try:
        name = parse_client_name(text)
    except InvalidName:
        assume(False)
    assert target_key(str(first), name) != target_key(str(second), name)
