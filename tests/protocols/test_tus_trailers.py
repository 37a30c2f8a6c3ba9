"""Checksums behind a body, and those of odd bodies (tus 1.0.0, Checksum)."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable

import pytest

from tests.harness.native import read_response
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, checksum, finished_file
from tests.harness.wire import wait_until
from tests.live.wire import chunked

Content = Callable[[int], bytes]


def crc32(data: bytes) -> str:
    return f"crc32 {base64.b64encode(zlib.crc32(data).to_bytes(4, 'big')).decode()}"


def checksum_by(algorithm: str, data: bytes) -> str:
    return crc32(data) if algorithm == "crc32" else checksum(data, algorithm)


def send_with_trailer(
    tus: Tus, upload: TusUpload, offset: int, data: bytes, trailer: str | None, **headers: object
) -> tuple[int, dict[str, str], bytes]:
    """Send a chunked PATCH that announces a checksum behind the body, and perhaps brings it."""
    headers.setdefault("Trailer", "Upload-Checksum")
    fields = "" if trailer is None else f"Upload-Checksum: {trailer}\r\n"
    with tus.open_patch(upload, offset, None, **headers) as sock:
        sock.sendall(chunked(data, end=False) + f"0\r\n{fields}\r\n".encode())
        return read_response(sock)


def test_the_example_of_the_specification_is_accepted(tus: Tus) -> None:
    upload = tus.create(11)
    told = "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="
    assert tus.patch(upload, 0, b"hello world", Upload_Checksum=told) == 11


def test_an_empty_body_has_a_checksum_too(tus: Tus) -> None:
    upload = tus.create(3)
    for offset in (0, 3):
        assert tus.patch(upload, offset, b"", Upload_Checksum=checksum(b"")) == offset
        wrong = tus.patch_raw(upload, offset, b"", Upload_Checksum=checksum(b"x"))
        assert wrong.status_code == 460
        if offset == 0:
            tus.patch(upload, 0, b"abc")


def test_a_body_that_is_too_long_is_413_whatever_its_checksum(tus: Tus) -> None:
    upload = tus.create(3)
    for body in (b"abcd", iter([b"ab", b"cd"])):
        response = tus.patch_raw(upload, 0, body, Upload_Checksum=checksum(b"abcd"))
        assert response.status_code == 413
    assert tus.offset(upload) == 0


def test_a_wrong_offset_is_409_whatever_the_checksum(tus: Tus) -> None:
    upload = tus.create(10)
    response = tus.patch_raw(upload, 5, b"abc", Upload_Checksum=checksum(b"abc"))
    assert response.status_code == 409


# ---- trailers -----------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5", "crc32"])
def test_a_checksum_may_come_behind_the_body(
    server: Server, tus: Tus, content: Content, algorithm: str
) -> None:
    data = content(300_000)
    upload = tus.create(len(data))
    status, headers, _ = send_with_trailer(tus, upload, 0, data, checksum_by(algorithm, data))
    assert (status, headers["upload-offset"]) == (204, str(len(data)))
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    assert path.read_bytes() == data


def test_a_trailer_that_does_not_match_is_460_and_the_body_discarded(tus: Tus) -> None:
    upload = tus.create(10)
    status, _, _ = send_with_trailer(tus, upload, 0, b"abcde", checksum(b"abcdX"))
    assert status == 460
    assert tus.offset(upload) == 0


@pytest.mark.parametrize("trailer", [None, "sha1", "sha512 YQ==", "sha1 YQ=="])
def test_an_announced_trailer_that_is_missing_or_malformed_is_400(
    tus: Tus, trailer: str | None
) -> None:
    upload = tus.create(10)
    status, _, _ = send_with_trailer(tus, upload, 0, b"abcde", trailer)
    assert status == 400
    assert tus.offset(upload) == 0


def test_a_trailer_of_a_body_with_a_length_never_comes(tus: Tus) -> None:
    upload = tus.create(10)
    assert tus.patch_raw(upload, 0, b"abc", Trailer="Upload-Checksum").status_code == 400
    assert tus.offset(upload) == 0


def test_a_checksum_before_and_behind_the_body_is_400(tus: Tus) -> None:
    upload = tus.create(10)
    told = checksum(b"abc")
    status, _, _ = send_with_trailer(tus, upload, 0, b"abc", told, Upload_Checksum=told)
    assert status == 400
    assert tus.offset(upload) == 0


def test_other_trailers_are_ignored(tus: Tus) -> None:
    upload = tus.create(10)
    with tus.open_patch(upload, 0, None, Trailer="X-Timing") as sock:
        sock.sendall(chunked(b"abc", end=False) + b"0\r\nX-Timing: 5\r\n\r\n")
        assert read_response(sock)[0] == 204
    assert tus.offset(upload) == 3


def test_a_connection_goes_on_behind_a_trailer(tus: Tus) -> None:
    upload = tus.create(6)
    body = chunked(b"abc", end=False)
    with tus.open_patch(upload, 0, None, Trailer="Upload-Checksum") as sock:
        sock.sendall(body + f"0\r\nUpload-Checksum: {checksum(b'abc')}\r\n\r\n".encode())
        assert read_response(sock)[0] == 204
        sock.sendall(tus.patch_head(upload, 3, 3) + b"def")
        assert read_response(sock)[0] == 204
    assert tus.offset(upload) == 6
