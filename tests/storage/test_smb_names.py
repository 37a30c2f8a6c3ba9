"""SMB: names that servers refuse are stored under others, which clients never see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.names import MAX_COMPONENT_BYTES
from app.storage.smb_names import share_path, stored_name


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("movie.mp4", "movie.mp4"),
        ("with blanks and.full.stops", "with blanks and.full.stops"),
        (" a blank before", " a blank before"),
        ("a blank behind ", "a blank behind\uf028"),
        ("a full stop behind.", "a full stop behind\uf029"),
        ("several behind...", "several behind..\uf029"),
        ('a: "b"?', "a\uf022 \uf020b\uf020\uf025"),
        ("*<|>", "\uf021\uf023\uf027\uf024"),
        ("grüße 🎬", "grüße 🎬"),
    ],
)
def test_forbidden_characters_are_stored_as_macos_and_linux_do(name, stored):
    assert stored_name(name) == stored


def test_a_name_that_would_get_too_long_has_underscores_instead():
    assert stored_name("?" * 255) == "_" * 255
    assert stored_name("a" * 254 + ".") == "a" * 254 + "_"
    assert stored_name("a" * 252 + ".") == "a" * 252 + "\uf029"


def test_a_path_has_backslashes():
    assert share_path(["videos", "2024", "a:b"]) == "videos\\2024\\a\uf022b"


#: As ``domain.names`` lets through.
component = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/\\"), min_size=1
).filter(lambda name: name not in {".", ".."} and len(name.encode()) <= MAX_COMPONENT_BYTES)


@given(component)
def test_no_stored_name_is_refused_or_too_long(name):
    stored = stored_name(name)
    assert not set('"*:<>?|\\/') & set(stored)
    assert stored[-1] not in " ."
    assert len(stored.encode()) <= MAX_COMPONENT_BYTES


@pytest.mark.parametrize("character", '"*:<>?|')
def test_a_name_with_a_forbidden_character_is_published_and_read(smb, character):
    staged = smb.filled(b"content", f"a{character}b/c{character}.mp4")
    key = smb.publish(staged)
    assert smb.leftovers() == [key]
    assert smb.storage.location(key).endswith(f"/a{character}b/{staged.upload_id}_c{character}.mp4")
    assert smb.read(key) == b"content"
    smb.storage.delete(key)


@pytest.mark.parametrize("name", ["a./b.", "a /b ", "...a/...", "CON/aux.txt", "x/~1.txt"])
def test_a_name_that_windows_would_change_is_published_and_read(smb, name):
    key = smb.publish(smb.filled(b"content", name))
    assert smb.leftovers() == [key]
    assert smb.read(key) == b"content"
    smb.storage.delete(key)


def test_folders_that_differ_in_case_only_are_one_on_the_share(smb):
    """As they are everywhere on SMB; the files are told apart by their ids."""
    first, second = smb.filled(b"1", "Videos/a"), smb.filled(b"2", "VIDEOS/a")
    smb.publish(first)
    smb.publish(second)
    assert smb.read(first.target_key) == b"1"
    assert smb.read(second.target_key) == b"2"
    assert [path.name for path in smb.root.iterdir() if path.name != ".staging"] == ["Videos"]
    smb.storage.delete(first.target_key)
    smb.storage.delete(second.target_key)
