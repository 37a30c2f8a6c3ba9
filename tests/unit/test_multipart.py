"""Forms: whatever way they are framed and come in pieces, fields and file are the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import (
    BodyStalled,
    LonghaulError,
    MalformedRequest,
    ShuttingDown,
    UnknownContentType,
)
from app.ingest.form_files import LastFile, SoughtFile
from app.ingest.multipart import MAX_FIELDS_BYTES, MAX_PARTS, Form
from app.ingest.pump import Ended, Transfer, no_guard, pump
from app.storage.spool import Spool
from tests.harness.bodies import PieceBody, cut_at

BOUNDARY = "----WebKitFormBoundaryAbCd0123456789"

#: What follows a file, whole or in part: the nastiest content there is.
NASTY = [
    b"",
    b"\r",
    b"\r\n",
    b"--",
    b"\r\n--",
    f"\r\n--{BOUNDARY}".encode()[:-1],
    f"--{BOUNDARY}--\r\n".encode(),
    b"\r\n\r\n",
    b"\0" * 100,
    bytes(range(256)) * 30,
]

FIELDS = [("resumableChunkNumber", "1"), ("resumableFilename", "größe.txt"), ("empty", "")]

Part = tuple[str, bytes]


class Collector:
    """A sink, and what a form tells of its fields."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.content = bytearray()

    def add(self, name: str, value: str) -> None:
        self.fields.append((name, value))

    def write(self, buffer: memoryview) -> None:
        self.content += buffer


def field(name: str, value: str) -> bytes:
    """Return a part as browsers write it."""
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()


def file(content: bytes, *headers: str, name: str = "file", filename: str = "a b.bin") -> bytes:
    """Return the part of a file."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
    lines = [disposition, "Content-Type: application/octet-stream", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def form(*parts: bytes, end: bytes = b"--\r\n", boundary: str = BOUNDARY) -> bytes:
    """Frame parts."""
    delimiter = f"\r\n--{boundary}".encode()
    framed = b"".join(delimiter + b"\r\n" + part for part in parts) + delimiter + end
    return framed[2:]


def read(
    body: PieceBody, lengths: Sequence[int] = (), *, boundary: str = BOUNDARY
) -> tuple[Collector, Transfer]:
    """Read a form as the server does, its file into the collector."""
    collector = Collector()
    reading = Form(body, boundary, {"file"}, collector.add)
    reading.read_to_file(1, no_guard)
    transfer = pump(reading.file(lengths), collector, limit_bytes=2**20, idle_timeout_seconds=1)
    return collector, transfer


@given(
    content=st.sampled_from(NASTY) | st.binary(max_size=200),
    places=st.lists(st.integers(1, 900), max_size=12),
    known=st.booleans(),
    chunked=st.booleans(),
    behind=st.booleans(),
    end=st.sampled_from([b"--", b"--\r\n"]),
)
@example(content=b"", places=[], known=True, chunked=False, behind=False, end=b"--\r\n")
def test_fields_and_file_are_the_same_however_they_come(
    content: bytes, places: list[int], known: bool, chunked: bool, behind: bool, end: bytes
) -> None:
    parts = [field(*pair) for pair in FIELDS]
    parts = [file(content), *parts] if behind else [*parts, file(content)]
    body = PieceBody(cut_at(form(*parts, end=end), places), chunked=chunked)
    collector, transfer = read(body, [len(content)] if known else [])
    assert transfer.ended is Ended.WHOLE
    assert bytes(collector.content) == content
    assert collector.fields == FIELDS


@pytest.mark.parametrize("known", [True, False], ids=["of known length", "of unknown length"])
@pytest.mark.parametrize("content", [b"", b"\r\n--x", b"0123456789"])
def test_a_form_may_break_at_every_byte(content: bytes, *, known: bool) -> None:
    whole = form(*[field(*pair) for pair in FIELDS], file(content))
    for place in range(1, len(whole)):
        body = PieceBody(cut_at(whole, [place]))
        collector, transfer = read(body, [len(content)] if known else [])
        assert (bytes(collector.content), collector.fields) == (content, FIELDS)
        assert transfer.ended is Ended.WHOLE
    single_bytes = PieceBody(cut_at(whole, range(len(whole))))
    collector, _ = read(single_bytes, [len(content)] if known else [])
    assert (bytes(collector.content), collector.fields) == (content, FIELDS)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_form_that_is_cut_anywhere_never_passes_for_whole(*, known: bool, chunked: bool) -> None:
    content = b"0123456789\r\n"
    whole = form(field("a", "b"), file(content), end=b"--")
    for place in range(len(whole)):
        body = PieceBody([whole[:place]], chunked=chunked, cut=len(whole) - place)
        try:
            _, transfer = read(body, [len(content)] if known else [])
        except MalformedRequest:
            continue
        assert transfer.ended is Ended.CUT


@pytest.mark.parametrize("chunked", [True, False])
def test_a_form_whose_sender_ends_too_early_is_refused(*, chunked: bool) -> None:
    content = b"0123456789\r\n"
    whole = form(field("a", "b"), file(content), end=b"--")
    for place in range(len(whole)):
        with pytest.raises(MalformedRequest):
            read(PieceBody([whole[:place]], chunked=chunked), [len(content)])


def test_the_file_passes_untouched_where_its_length_tells_its_end() -> None:
    def kind(*parts: bytes, lengths: Sequence[int], end: bytes = b"--\r\n") -> type:
        reading = Form(PieceBody([form(*parts, end=end)]), BOUNDARY, {"file"}, Collector().add)
        reading.read_to_file(1, no_guard)
        return type(reading.file(lengths))

    before = field("a", "b")
    assert kind(before, file(b"abc"), lengths=[2, 3, 4]) is LastFile
    assert kind(before, file(b"abc"), lengths=[3], end=b"--") is LastFile
    assert kind(file(b"abc"), before, lengths=[3]) is SoughtFile
    assert kind(before, file(b"abc"), lengths=[]) is SoughtFile
    assert kind(before, file(b"abc"), lengths=[3], end=b"--\r\nmore") is SoughtFile
    # Three bytes and a line's end, or five bytes? The parser finds out.
    assert kind(before, file(b"abc"), lengths=[3, 5]) is SoughtFile


def test_a_file_in_place_of_another_length_is_found_out() -> None:
    """The form is as long as one with the right file, but ends in another place."""
    wrong = form(file(b"abc"), field("x", ""))
    length = len(wrong) - len(form(file(b"")))
    with pytest.raises(MalformedRequest):
        read(PieceBody([wrong[:-4] + b"xx--"]), [length])


@pytest.mark.parametrize("known", [True, False])
def test_a_part_may_tell_its_length_and_must_not_lie(*, known: bool) -> None:
    lengths = [3] if known else []
    collector, _ = read(PieceBody([form(file(b"abc", "Content-Length: 3"))]), lengths)
    assert collector.content == b"abc"
    for lie in (2, 4):
        with pytest.raises(MalformedRequest):
            read(PieceBody([form(file(b"abc", f"Content-Length: {lie}"))]), lengths)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        form(),
        form(field("a", "b")),
        form(field("a", "b"), b"no headers at all"),
        form(b'Content-Disposition: attachment; name="a"\r\n\r\nb', file(b"abc")),
        form(b"\r\nno disposition", file(b"abc")),
        form(field("a", "b"), file(b"abc", name="other")),
        form(file(b"abc"), file(b"abc")),
        form(b'Content-Disposition: form-data; name="a"\r\n\r\n\xff', file(b"abc")),
        form(b'Content-Disposition: form-data; name="\xff"\r\n\r\na', file(b"abc")),
        form(*[field("a", "b")] * MAX_PARTS, file(b"abc")),
        form(field("a", "b" * MAX_FIELDS_BYTES), file(b"abc")),
        form(file(b"abc"), field("a", "b" * MAX_FIELDS_BYTES)),
        form(file(b"abc"), end=b"--" + b" " * MAX_FIELDS_BYTES),
        b"x" * (MAX_FIELDS_BYTES + 1),
        form(field("a" * 5000, "b"), file(b"abc")),
        form(file(b"abc", *[f"X-{number}: 1" for number in range(9)])),
        form(field("a", "b"), file(b"abc")).replace(b"\r\n", b"\n"),
        form(field("a", "b"), file(b"abc"), boundary="other"),
    ],
    ids=repr,
)
def test_what_is_no_form_with_one_file_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read(PieceBody([body]))


def test_a_file_as_text_is_refused_by_its_type() -> None:
    with pytest.raises(UnknownContentType, match="base64"):
        read(PieceBody([form(field("file", "data:;base64,AAAA"))]))


@pytest.mark.parametrize("name", ["Content-Encoding", "content-transfer-encoding"])
def test_a_coded_file_is_refused_by_its_type(name: str) -> None:
    for coding in ("gzip", "BASE64", "quoted-printable", "identity, br"):
        with pytest.raises(UnknownContentType, match="send it as it is"):
            read(PieceBody([form(file(b"abc", f"{name}: {coding}"))]), [3])
    for coding in ("", "identity", "Binary", "8bit"):
        collector, _ = read(PieceBody([form(file(b"abc", f"{name}: {coding}"))]), [3])
        assert collector.content == b"abc"


@pytest.mark.parametrize(
    "body",
    [
        form(*[field("a", "b")] * MAX_PARTS, file(b"abc")),
        form(file(b"abc", *[f"X-{number}: 1" for number in range(9)])),
    ],
)
def test_a_form_over_a_limit_is_told_which_ones_there_are(body: bytes) -> None:
    with pytest.raises(MalformedRequest, match=f"over {MAX_PARTS} parts, or .* headers"):
        read(PieceBody([body]))


@pytest.mark.parametrize("boundary", ["", "x" * 71, "a\nb"])
def test_a_boundary_has_to_be_one(boundary: str) -> None:
    with pytest.raises(MalformedRequest):
        read(PieceBody([form(file(b"abc"), boundary=boundary)]), boundary=boundary)


def test_the_longest_boundary_is_taken() -> None:
    boundary = "'()+_,-./:=? " + "x" * 57
    collector, _ = read(PieceBody([form(file(b"a"), boundary=boundary)]), boundary=boundary)
    assert collector.content == b"a"


def test_a_form_that_stands_still_within_its_fields_is_given_up() -> None:
    class Still(PieceBody):
        def idle_seconds(self) -> float:
            return 2.0

    with pytest.raises(BodyStalled):
        read(Still([b"--"], chunked=True, cut=1))


def test_a_form_stops_within_its_fields_when_it_is_told_to() -> None:
    def guard(_idle_seconds: float) -> LonghaulError | None:
        return ShuttingDown()

    reading = Form(PieceBody([b"--"]), BOUNDARY, {"file"}, Collector().add)
    with pytest.raises(ShuttingDown):
        reading.read_to_file(1, guard)


def test_what_a_field_is_refused_for_ends_the_reading() -> None:
    def refuse(name: str, value: str) -> None:
        raise MalformedRequest(name)

    body = PieceBody([form(file(b"abc"), field("a", "b"))])
    reading = Form(body, BOUNDARY, {"file"}, refuse)
    reading.read_to_file(1, no_guard)
    with pytest.raises(MalformedRequest, match="a"):
        pump(reading.file([3]), Collector(), limit_bytes=9, idle_timeout_seconds=1)


def test_a_spooled_file_is_read_again_and_leaves_nothing(tmp_path: Path) -> None:
    content = random.randbytes(3_000_000)
    collector = Collector()
    body = PieceBody(cut_at(form(file(content), field("a", "b")), range(0, 10**7, 99_991)))
    reading = Form(body, BOUNDARY, {"file"}, collector.add)
    reading.read_to_file(1, no_guard)
    with Spool(tmp_path / "made") as spool:
        spooled = reading.spooled(spool, len(content), 1, no_guard)
        assert collector.fields == [("a", "b")]
        assert spooled.length == len(content)
        transfer = pump(spooled, collector, limit_bytes=len(content), idle_timeout_seconds=1)
        assert list((tmp_path / "made").iterdir()) == []
    assert transfer.ended is Ended.WHOLE
    assert collector.content == content


@pytest.mark.parametrize(
    ("body", "limit_bytes"),
    [
        (PieceBody([form(file(b"abc"), field("a", "b"))]), 2),
        (PieceBody([form(file(b"abc"))[:-9]], cut=9), 3),
        (PieceBody([form(file(b"abc"))[:-9]]), 3),
    ],
    ids=["too long", "cut", "ended early"],
)
def test_what_cannot_be_spooled_whole_is_refused(
    tmp_path: Path, body: PieceBody, limit_bytes: int
) -> None:
    reading = Form(body, BOUNDARY, {"file"}, Collector().add)
    reading.read_to_file(1, no_guard)
    with Spool(tmp_path) as spool, pytest.raises(MalformedRequest):
        reading.spooled(spool, limit_bytes, 1, no_guard)
