"""How a file presents itself: names that survive every client, types that run nothing."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.http import parse_options_header

from app.domain.names import parse_client_name
from app.errors import InvalidName
from app.protocols.file_headers import content_disposition, file_headers

UNKNOWN = "application/octet-stream"

#: What gunicorn lets through as a header's value: no line can be broken.
HEADER_VALUE = re.compile(r"[ \t\x21-\x7e\x80-\xff]*")


def is_client_name(name: str) -> bool:
    try:
        return parse_client_name(name).filename == name
    except InvalidName:
        return False


def headers(declared: str | None, filename: str = "file.bin") -> dict[str, str]:
    return dict(file_headers(filename, declared))


def disposition(declared: str) -> str:
    return headers(declared)["Content-Disposition"].partition(";")[0]


@given(st.text(min_size=1).filter(is_client_name), st.booleans())
@example('a"b\\c.txt', False)
@example("100%.txt", False)
@example("résumé 履歴書.pdf", True)
@example("‮txt.exe", False)
@example(";filename=evil.exe", False)
@example(" leading and trailing ", False)
@example("..html", False)
def test_any_name_comes_back_from_its_header(name: str, inline: bool) -> None:
    value = content_disposition(name, inline=inline)
    assert HEADER_VALUE.fullmatch(value)
    assert value.isascii()
    kind, options = parse_options_header(value)
    assert kind == ("inline" if inline else "attachment")
    assert options["filename"] == name
    # A client that knows nothing of RFC 8187 gets a name that cannot mislead it.
    simple = re.search(r'filename=("[^"]*"|[^";]*)', value)
    assert simple is not None
    plain = simple[1].strip('"')
    assert plain.strip(" ._") or plain == name
    assert not re.search(r'["\\%/\x00-\x1f\x7f-\uffff]', plain)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("movie.mp4", "filename=movie.mp4"),
        ("my movie.mp4", 'filename="my movie.mp4"'),
        ("naïve.txt", "filename=naive.txt; filename*=UTF-8''na%C3%AFve.txt"),
        ("映画.mp4", "filename=download.mp4; filename*=UTF-8''%E6%98%A0%E7%94%BB.mp4"),
        ("映画", "filename=download; filename*=UTF-8''%E6%98%A0%E7%94%BB"),
        ("100%.txt", "filename=100_.txt; filename*=UTF-8''100%25.txt"),
        ('say "hi".txt', "filename=\"say _hi_.txt\"; filename*=UTF-8''say%20%22hi%22.txt"),
        (".bashrc", "filename=.bashrc"),
        ("it's (1)*.txt", 'filename="it\'s (1)*.txt"'),
    ],
)
def test_names_as_they_are_written(name: str, expected: str) -> None:
    assert content_disposition(name, inline=False) == f"attachment; {expected}"


def test_percent_encoded_names_decode_to_the_name() -> None:
    _, _, extended = content_disposition("a b%20'c'*.txt€", inline=False).partition("UTF-8''")
    assert unquote(extended) == "a b%20'c'*.txt€"
    assert not re.search(r"[^A-Za-z0-9!#$&+.^_`|~%-]", extended)


@pytest.mark.parametrize(
    "declared",
    [
        "image/png",
        "IMAGE/PNG",
        "video/mp4",
        "audio/flac",
        "text/plain; charset=utf-8",
        "image/avif",
    ],
)
def test_types_that_run_nothing_are_shown_in_a_sandbox(declared: str) -> None:
    told = headers(declared)
    assert told["Content-Type"] == declared
    assert told["Content-Disposition"].startswith("inline;")
    assert told["Content-Security-Policy"] == "sandbox"
    assert told["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "declared",
    [
        "text/html",
        "text/html; charset=utf-8",
        "TEXT/HTML",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/xml",
        "application/xml",
        "application/pdf",
        "application/zip",
        "multipart/x-mixed-replace; boundary=x",
        "message/rfc822",
    ],
)
def test_every_other_type_is_an_attachment(declared: str) -> None:
    told = headers(declared)
    assert told["Content-Type"] == declared
    assert told["Content-Disposition"].startswith("attachment;")


@pytest.mark.parametrize(
    "declared",
    [
        "text/javascript",
        "application/javascript; charset=utf-8",
        "Application/X-JavaScript",
        "text/ecmascript",
        "text/javascript1.5",
        "text/jscript",
        "text/livescript",
        "text/css",
    ],
)
def test_what_pages_load_even_from_attachments_loses_its_type(declared: str) -> None:
    assert headers(declared)["Content-Type"] == UNKNOWN


@pytest.mark.parametrize(
    "declared",
    [
        None,
        "",
        "png",
        "image/",
        "/png",
        "image/png;",
        "image/png; a",
        "image/png, text/html",
        "image /png",
        "image/png\r\nSet-Cookie: a=b",
        "image/png\n",
        "imäge/png",
        "image/png; a=é",
        'image/png; a="b',
        "a/" + "b" * 300,
        "image/png" + "; a=b" * 60,
    ],
)
def test_a_malformed_type_is_not_repeated(declared: str | None) -> None:
    told = headers(declared)
    assert told["Content-Type"] == UNKNOWN
    assert told["Content-Disposition"].startswith("attachment;")


@given(st.text(max_size=60))
def test_no_type_breaks_a_header(declared: str) -> None:
    told = headers(declared)
    assert told["X-Content-Type-Options"] == "nosniff"
    for value in told.values():
        assert HEADER_VALUE.fullmatch(value)
        assert value.isascii()
