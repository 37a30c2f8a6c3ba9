"""Upload-Checksum: all of a request or nothing (tus 1.0.0, Checksum)."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from tests.harness.native import MIB, cut, read_response
from tests.harness.server import Server
from tests.harness.tus import Tus, checksum, encoded, finished_file
from tests.harness.wire import wait_until

Content = Callable[[int], bytes]


def crc32(data: bytes) -> str:
    """Return a checksum of four bytes, the most significant first."""
    return f"crc32 {encoded(zlib.crc32(data).to_bytes(4, 'big'))}"


def in_chunks(data: bytes, *trailers: str, size: int = 1000) -> bytes:
    """Return a body in chunked encoding, with what comes behind it."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return chunks + b"0\r\n" + "".join(f"{line}\r\n" for line in trailers).encode() + b"\r\n"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_a_body_with_its_checksum_counts(tus: Tus, content: Content, algorithm: str) -> None:
    data = content(2 * MIB + 1)
    upload = tus.create(3 * MIB)
    assert tus.patch(upload, 0, data, Upload_Checksum=checksum(data, algorithm)) == len(data)


def test_crc32_is_one_of_the_algorithms(tus: Tus, content: Content) -> None:
    data = content(10_000)
    assert tus.patch(tus.create(20_000), 0, data, Upload_Checksum=crc32(data)) == len(data)


@pytest.mark.parametrize("wrong", [checksum(b"other"), checksum(b"other", "md5"), crc32(b"other")])
def test_a_mismatch_is_460_and_nothing_of_the_request_is_kept(
    server: Server, tus: Tus, content: Content, wrong: str
) -> None:
    data = content(3 * MIB)
    upload = tus.create(len(data))
    assert tus.patch(upload, 0, data[:MIB]) == MIB
    damaged = b"damaged" + data[MIB + 7 :]
    assert tus.patch_raw(upload, MIB, damaged, Upload_Checksum=wrong).status_code == 460
    assert tus.offset(upload) == MIB
    tus.patch(upload, MIB, data[MIB:], Upload_Checksum=checksum(data[MIB:]))
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "header", [f"sha512 {encoded(b'x' * 64)}", f"SHA1 {encoded(b'x' * 20)}", "sha1", "sha1 x y", ""]
)
def test_an_unknown_algorithm_or_a_malformed_digest_is_400_and_nothing_is_kept(
    tus: Tus, content: Content, header: str
) -> None:
    upload = tus.create(1000)
    assert tus.patch_raw(upload, 0, content(100), Upload_Checksum=header).status_code == 400
    assert tus.offset(upload) == 0


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_nothing_is_kept_of_a_body_that_was_cut(tus: Tus, content: Content, how: str) -> None:
    data = content(MIB)
    upload = tus.create(len(data))
    sock = tus.open_patch(upload, 0, len(data), Upload_Checksum=checksum(data))
    sock.sendall(data[:500_000])
    cut(sock, how)
    assert tus.patch(upload, 0, data, Upload_Checksum=checksum(data)) == len(data)


def test_a_checksum_may_come_behind_the_body(server: Server, tus: Tus, content: Content) -> None:
    data = content(MIB)
    upload = tus.create(len(data))
    with tus.open_patch(upload, 0, None, Trailer="Upload-Checksum") as sock:
        sock.sendall(in_chunks(data, f"Upload-Checksum: {checksum(data, 'sha256')}"))
        status, headers, _ = read_response(sock)
    assert (status, headers["upload-offset"]) == (204, str(len(data)))
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("trailers", "expected"),
    [
        ([f"Upload-Checksum: {checksum(b'other')}"], 460),
        (["Upload-Checksum: sha512 eA=="], 400),
        (["Upload-Checksum: nonsense"], 400),
        (["X-Other: 1"], 400),
        ([], 400),
    ],
    ids=["other bytes", "unknown algorithm", "malformed", "another trailer", "missing"],
)
def test_without_the_right_trailer_that_was_announced_nothing_is_kept(
    tus: Tus, content: Content, trailers: list[str], expected: int
) -> None:
    upload = tus.create(10_000)
    with tus.open_patch(upload, 0, None, Trailer="Upload-Checksum") as sock:
        sock.sendall(in_chunks(content(5000), *trailers))
        status, _, _ = read_response(sock)
    assert status == expected
    assert tus.offset(upload) == 0


@pytest.mark.parametrize(
    ("header", "trailers", "expected"),
    [
        (checksum(b"other"), [], 460),
        ("sha512 eA==", [], 400),
        (None, [f"Upload-Checksum: {checksum(b'other')}"], 460),
        (None, [], 400),
    ],
    ids=["mismatch", "unknown algorithm", "mismatch behind the body", "missing trailer"],
)
def test_a_refused_body_does_not_set_the_length_that_came_with_it(
    server: Server,
    tus: Tus,
    content: Content,
    header: str | None,
    trailers: list[str],
    expected: int,
) -> None:
    data = content(8000)
    upload = tus.create(None)
    tus.patch(upload, 0, data[:3000])
    told = {"Trailer": "Upload-Checksum"} if header is None else {"Upload-Checksum": header}
    with tus.open_patch(upload, 3000, None, Upload_Length=9000, **told) as sock:
        sock.sendall(in_chunks(data[3000:], *trailers))
        assert read_response(sock)[0] == expected
    head = tus.head(upload)
    assert head.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in head.headers
    right = checksum(data[3000:])
    assert tus.patch(upload, 3000, data[3000:], Upload_Length=8000, Upload_Checksum=right) == 8000
    assert tus.head(upload).headers["Upload-Length"] == "8000"
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    assert path.read_bytes() == data


def test_the_last_byte_completes_nothing_if_its_checksum_is_wrong(
    server: Server, tus: Tus, content: Content
) -> None:
    upload = tus.create(1000)
    wrong = checksum(b"other")
    assert tus.patch_raw(upload, 0, content(1000), Upload_Checksum=wrong).status_code == 460
    assert tus.offset(upload) == 0
    assert finished_file(server, upload) is None
