"""PATCH /files/{id}: bytes at the offset (tus 1.0.0, Core Protocol, "PATCH")."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import requests

from tests.harness.native import KIB, MIB, read_response
from tests.harness.server import Server
from tests.harness.tus import CONTENT_TYPE, Tus, TusUpload, checksum, finished_file
from tests.harness.wire import events, nothing_stored, rows, wait_until
from tests.protocols.conftest import LIMIT_BYTES

Content = Callable[[int], bytes]


def stored(server: Server, upload: TusUpload) -> bytes:
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    return path.read_bytes()


def staged(server: Server, upload: TusUpload) -> bytes:
    (path,) = [path for path in server.staged_files() if upload.id in path.name]
    return path.read_bytes()


def unchanged(tus: Tus, upload: TusUpload, offset: int) -> None:
    assert tus.offset(upload) == offset


# ---- success ----------------------------------------------------------------


def test_success_is_204_with_the_new_offset(tus: Tus, content: Content) -> None:
    upload = tus.create(10)
    response = tus.patch_raw(upload, 0, content(4))
    assert response.status_code == 204
    assert response.content == b""
    assert "Content-Length" not in response.headers
    assert response.headers["Upload-Offset"] == "4"
    assert response.headers["Tus-Resumable"] == "1.0.0"


def test_the_new_offset_is_the_old_one_and_what_was_received(tus: Tus, content: Content) -> None:
    upload, offset = tus.create(100_000), 0
    for length in (1, 0, 4096, 70_000, 2):
        assert tus.patch(upload, offset, content(length)) == offset + length
        offset += length
        assert tus.offset(upload) == offset


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_file_comes_out_as_it_went_in(
    server: Server, tus: Tus, content: Content, framing: str
) -> None:
    data = content(2 * MIB + 7)
    upload, offset = tus.create(len(data)), 0
    while offset < len(data):
        piece = data[offset : offset + random.randint(1, MIB)]
        body = piece if framing == "length" else iter([piece[:10], piece[10:] or b"\0"[:0]])
        response = tus.patch_raw(upload, offset, body)
        assert response.status_code == 204, response.text
        offset += len(piece)
        assert response.headers["Upload-Offset"] == str(offset)
    assert stored(server, upload) == data


def test_the_last_byte_completes_the_upload_once(
    server: Server, tus: Tus, content: Content
) -> None:
    upload = tus.create(10)
    tus.patch(upload, 0, content(4))
    assert "completed" not in events(server, upload.id)
    tus.patch(upload, 4, content(6))
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")
    for _ in range(3):
        assert tus.patch(upload, 10, b"") == 10
    assert events(server, upload.id) == ["created", "completed", "processing_started", "finalized"]


def test_an_empty_body_at_the_right_offset_is_204(server: Server, tus: Tus) -> None:
    upload = tus.create(10)
    assert tus.patch(upload, 0, b"") == 0
    assert tus.patch(upload, 0, b"12345") == 5
    assert tus.patch(upload, 5, b"") == 5
    response = tus.patch_raw(upload, 5, iter([]))
    assert (response.status_code, response.headers["Upload-Offset"]) == (204, "5")
    assert events(server, upload.id) == ["created"]


def test_it_may_be_a_small_answer_on_a_connection_that_goes_on(tus: Tus, content: Content) -> None:
    data, upload = content(300 * KIB), tus.create(600 * KIB)
    with tus.open_patch(upload, 0, len(data)) as sock:
        sock.sendall(data)
        status, headers, _ = read_response(sock)
        assert (status, headers["upload-offset"]) == (204, str(len(data)))
        sock.sendall(tus.patch_head(upload, len(data), len(data)) + data)
        status, headers, _ = read_response(sock)
        assert (status, headers["upload-offset"]) == (204, str(2 * len(data)))


# ---- the offset -------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 3, 5, 10, 2**62, "9" * 30])
def test_another_offset_is_409_and_writes_nothing(server: Server, tus: Tus, offset: object) -> None:
    upload = tus.create(10)
    tus.patch(upload, 0, b"abcd")
    response = tus.patch_raw(upload, offset, b"XXX")
    assert response.status_code == 409
    assert response.json()["code"] == "offset_mismatch"
    assert tus.offset(upload) == 4
    assert staged(server, upload)[:4] == b"abcd"
    assert b"X" not in staged(server, upload)


@pytest.mark.parametrize("offset", [None, "", "-1", "+4", "4.0", "four", "0x4"])
def test_an_offset_that_is_no_non_negative_integer_is_400(tus: Tus, offset: object) -> None:
    upload = tus.create(10)
    assert tus.patch_raw(upload, offset, b"abc").status_code == 400
    unchanged(tus, upload, 0)


# ---- the content type -------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "text/plain", ""])
def test_another_content_type_is_415(tus: Tus, kind: str | None) -> None:
    upload = tus.create(10)
    response = tus.patch_raw(upload, 0, b"abc", Content_Type=kind)
    assert response.status_code == 415
    unchanged(tus, upload, 0)


def test_the_content_type_may_have_parameters(tus: Tus) -> None:
    upload = tus.create(10)
    assert tus.patch(upload, 0, b"abc", Content_Type=f"{CONTENT_TYPE}; charset=x") == 3


# ---- the length -------------------------------------------------------------


def test_a_body_longer_than_what_remains_is_413_before_it_is_read(
    tus: Tus, content: Content
) -> None:
    upload = tus.create(10)
    tus.patch(upload, 0, b"abcd")
    with tus.open_patch(upload, 4, 7) as sock:  # nothing of the body is sent
        status, _, _ = read_response(sock)
    assert status == 413
    unchanged(tus, upload, 4)


def test_a_chunked_body_longer_than_what_remains_is_413_as_soon_as_it_is_passed(
    server: Server, tus: Tus
) -> None:
    upload = tus.create(10)
    with tus.open_patch(upload, 0, None) as sock:
        sock.sendall(b"b\r\n" + b"X" * 11 + b"\r\n")  # and no end
        status, _, _ = read_response(sock)
    assert status == 413
    assert tus.offset(upload) == 9
    assert "completed" not in events(server, upload.id)


@pytest.mark.parametrize("piece_bytes", [1, 7, 300 * KIB, 34 * MIB])
def test_of_a_chunked_body_that_is_too_long_all_is_kept_but_the_last_byte(
    server: Server, tus: Tus, content: Content, piece_bytes: int
) -> None:
    length = max(100, piece_bytes)
    data = content(length)
    upload = tus.create(length)
    pieces = [data[at : at + piece_bytes] for at in range(0, length, piece_bytes)]
    try:
        assert tus.patch_raw(upload, 0, iter([*pieces, b"surplus"])).status_code == 413
    except requests.ConnectionError:
        pass  # ended while the client was still sending
    wait_until(lambda: tus.offset(upload) == length - 1, "all but one byte are kept")
    assert tus.patch_raw(upload, length - 1, iter([data[-1:], b"x"])).status_code == 413
    assert tus.offset(upload) == length - 1
    assert events(server, upload.id) == ["created"]
    assert tus.patch(upload, length - 1, data[-1:]) == length
    assert stored(server, upload) == data


def test_of_a_chunked_body_that_is_too_long_and_to_be_verified_nothing_is_kept(tus: Tus) -> None:
    upload = tus.create(5)
    for promised in (b"bytes", b"bytes!"):
        body = iter([b"byt", b"es!"])
        response = tus.patch_raw(upload, 0, body, Upload_Checksum=checksum(promised))
        assert response.status_code == 413
    unchanged(tus, upload, 0)


def test_a_complete_upload_takes_no_more(server: Server, tus: Tus) -> None:
    upload = tus.create(5, b"bytes")
    for offset, body, status in [(5, b"x", 413), (5, b"", 204), (4, b"s", 409), (0, b"", 409)]:
        assert tus.patch_raw(upload, offset, body).status_code == status
    assert tus.patch_raw(upload, 5, iter([b"x"])).status_code == 413
    assert tus.patch_raw(upload, 5, iter([])).status_code == 204
    assert stored(server, upload) == b"bytes"
    assert events(server, upload.id).count("completed") == 1


def test_a_deferred_length_is_set_by_a_patch(server: Server, tus: Tus) -> None:
    upload = tus.create(None)
    tus.patch(upload, 0, b"abc")
    assert tus.patch(upload, 3, b"def", Upload_Length=8) == 6
    assert tus.head(upload).headers["Upload-Length"] == "8"
    assert tus.patch(upload, 6, b"gh", Upload_Length=8) == 8
    assert stored(server, upload) == b"abcdefgh"
    assert events(server, upload.id).count("completed") == 1


def test_a_deferred_length_may_come_with_an_empty_body_at_the_end(server: Server, tus: Tus) -> None:
    upload = tus.create(None)
    tus.patch(upload, 0, b"abc")
    response = tus.patch_raw(upload, 3, b"", Upload_Length=3)
    assert response.status_code == 204
    assert "Upload-Expires" not in response.headers
    assert stored(server, upload) == b"abc"


def test_a_length_that_is_set_is_never_changed(tus: Tus) -> None:
    deferred, told = tus.create(None), tus.create(8)
    tus.patch(deferred, 0, b"abc", Upload_Length=8)
    tus.patch(told, 0, b"abc", Upload_Length=8)
    for upload in (deferred, told):
        for length in (7, 9, 3):
            response = tus.patch_raw(upload, 3, b"", Upload_Length=length)
            assert response.status_code == 400
        assert tus.head(upload).headers["Upload-Length"] == "8"
        unchanged(tus, upload, 3)


@pytest.mark.parametrize("length", ["", "-1", "x", "2"])
def test_a_length_that_cannot_be_is_400(tus: Tus, length: str) -> None:
    upload = tus.create(None)
    tus.patch(upload, 0, b"abc")
    assert tus.patch_raw(upload, 3, b"", Upload_Length=length).status_code == 400
    assert tus.head(upload).headers["Upload-Defer-Length"] == "1"


@pytest.mark.parametrize(
    ("offset", "told", "status"),
    [
        (2, {}, 409),
        (4, {}, 409),
        ("x", {}, 400),
        (3, {"Content_Type": "text/plain"}, 415),
        (3, {"Tus_Resumable": "0.2.2"}, 412),
        (3, {"Upload_Length": 8}, 413),
        (3, {"X_API_Key": "wrong"}, 401),
    ],
)
def test_a_refused_patch_sets_no_length(
    tus: Tus, offset: object, told: dict[str, object], status: int
) -> None:
    upload = tus.create(None)
    tus.patch(upload, 0, b"abc")
    headers = {"Upload_Length": 100, **told}
    assert tus.patch_raw(upload, offset, b"defghi", **headers).status_code == status
    head = tus.head(upload)
    assert head.headers["Upload-Defer-Length"] == "1"
    assert head.headers["Upload-Offset"] == "3"
    assert tus.patch(upload, 3, b"def", Upload_Length=6) == 6


def test_a_body_longer_than_a_length_it_tells_itself_is_413(tus: Tus) -> None:
    upload = tus.create(None)
    assert tus.patch_raw(upload, 0, b"abcdef", Upload_Length=5).status_code == 413
    unchanged(tus, upload, 0)


def test_an_upload_of_deferred_length_ends_at_the_limit(limited: Server, content: Content) -> None:
    tus = Tus(limited)
    upload = tus.create(None)
    tus.patch(upload, 0, content(LIMIT_BYTES - 1))
    assert tus.patch_raw(upload, LIMIT_BYTES - 1, b"xx").status_code == 413
    too_long = tus.patch_raw(upload, LIMIT_BYTES - 1, b"x", Upload_Length=LIMIT_BYTES + 1)
    assert too_long.status_code == 413
    unchanged(tus, upload, LIMIT_BYTES - 1)
    assert tus.patch_raw(upload, LIMIT_BYTES - 1, iter([b"xx"])).status_code == 413
    unchanged(tus, upload, LIMIT_BYTES)  # what there was room for
    assert tus.patch(upload, LIMIT_BYTES, b"", Upload_Length=LIMIT_BYTES) == LIMIT_BYTES


# ---- what is not there ------------------------------------------------------


def test_an_unknown_upload_is_404(tus: Tus) -> None:
    for name in ("00000000-0000-4000-8000-000000000000", "x", "%00"):
        response = tus.patch_raw(TusUpload(f"/files/{name}"), 0, b"abc")
        assert response.status_code == 404
        assert response.headers["Tus-Resumable"] == "1.0.0"


def test_unknown_uploads_leave_no_leases_behind(server: Server, tus: Tus) -> None:
    tus.patch_raw(TusUpload("/files/nobody-knows-me"), 0, b"abc")
    query = "SELECT * FROM leases WHERE upload_id = ?"
    assert rows(server, query, "nobody-knows-me") == []


def test_refusals_leave_no_leases_behind(server: Server, tus: Tus) -> None:
    upload = tus.create(10)
    tus.patch_raw(upload, 5, b"abc")
    tus.patch_raw(upload, 0, b"abc", Upload_Length=9)
    tus.patch_raw(upload, 0, b"x" * 11)
    tus.patch_raw(upload, 0, b"")
    assert rows(server, "SELECT * FROM leases WHERE upload_id = ?", upload.id) == []


@pytest.mark.parametrize("version", [None, "0.2.2", "2"])
def test_another_version_is_412_and_nothing_is_done(tus: Tus, version: str | None) -> None:
    upload = tus.create(10)
    response = tus.patch_raw(upload, 0, b"abc", Tus_Resumable=version)
    assert response.status_code == 412
    assert response.headers["Tus-Version"] == "1.0.0"
    unchanged(tus, upload, 0)


# ---- X-HTTP-Method-Override ---------------------------------------------------


def allowed(response: requests.Response) -> set[str]:
    return {name.strip() for name in response.headers["Allow"].split(",")}


def test_a_post_can_stand_for_a_patch(server: Server, tus: Tus) -> None:
    upload = tus.create(6)
    headers = {"Content-Type": CONTENT_TYPE, "X-HTTP-Method-Override": "PATCH"}
    response = tus.request("POST", upload, {"Upload-Offset": 0, **headers}, b"abc")
    assert (response.status_code, response.headers["Upload-Offset"]) == (204, "3")
    response = tus.request("POST", upload, {"Upload-Offset": 0, **headers}, b"abc")
    assert response.status_code == 409
    response = tus.request(
        "POST", upload, {"Upload-Offset": 3, "Tus-Resumable": None, **headers}, b"abc"
    )
    assert response.status_code == 412
    tus.request("POST", upload, {"Upload-Offset": 3, **headers}, b"def")
    assert stored(server, upload) == b"abcdef"


def test_a_post_can_stand_for_a_get(server: Server, tus: Tus, content: Content) -> None:
    data = content(1000)
    upload = tus.create(1000, data)
    assert stored(server, upload) == data
    headers = {"X-HTTP-Method-Override": "GET", "Tus-Resumable": None}
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")
    response = tus.request("POST", upload, headers)
    assert (response.status_code, response.content) == (200, data)
    response = tus.request("POST", upload, {"Range": "bytes=10-19", **headers})
    assert (response.status_code, response.content) == (206, data[10:20])


@pytest.mark.parametrize("path", ["/files", "/files/some-upload", "//files//some-upload"])
def test_a_post_can_stand_for_options(tus: Tus, path: str) -> None:
    headers = {"X-HTTP-Method-Override": "OPTIONS", "Tus-Resumable": None}
    response = tus.request("POST", tus.server.url + path, headers)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["Tus-Version"] == "1.0.0"


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "HEAD", "GET", "PUT", "post", "FROBNICATE"])
def test_a_post_that_stands_for_another_method_creates_nothing(tus: Tus, method: str) -> None:
    with nothing_stored(tus.server):
        told = {"Upload-Length": 5, "X-HTTP-Method-Override": method}
        response = tus.request("POST", "/files", told)
    assert response.status_code == 405
    assert allowed(response) == {"OPTIONS", "POST"}
    assert response.headers["Tus-Resumable"] == "1.0.0"


@pytest.mark.parametrize("method", ["", "POST"])
def test_a_post_may_say_that_it_is_one(tus: Tus, method: str) -> None:
    told = {"Upload-Length": 5, "X-HTTP-Method-Override": method}
    assert tus.request("POST", "/files", told).status_code == 201


def test_only_a_post_can_stand_for_another_method(tus: Tus) -> None:
    upload = tus.create(6)
    told = {"X-HTTP-Method-Override": "DELETE", "Upload-Offset": 0, "Content-Type": CONTENT_TYPE}
    assert tus.request("PATCH", upload, told, b"abc").status_code == 204
    assert tus.offset(upload) == 3
    other = tus.request("POST", "/upload/init", {"X-HTTP-Method-Override": "DELETE"})
    assert other.status_code == 400  # the other protocols know of none


def test_a_post_can_stand_for_a_head(tus: Tus) -> None:
    upload = tus.create(6)
    headers = {"X-HTTP-Method-Override": "HEAD", "Tus-Resumable": None}
    response = tus.request("POST", upload, headers)
    assert (response.status_code, response.headers["Upload-Offset"]) == (200, "0")
    assert response.headers["Cache-Control"] == "no-store"
    response = tus.request("POST", "/files/unknown", headers)
    assert (response.status_code, response.content) == (404, b"")


@pytest.mark.parametrize("method", [None, "", "POST", "patch", "PUT", "PATCH, DELETE"])
def test_a_post_that_stands_for_nothing_is_405(tus: Tus, method: str | None) -> None:
    upload = tus.create(6)
    response = tus.request("POST", upload, {"X-HTTP-Method-Override": method})
    assert response.status_code == 405
    assert allowed(response) == {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH"}
