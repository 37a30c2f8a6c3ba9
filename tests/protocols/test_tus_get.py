"""GET /files/{id}: the file, finished or as far as it has come. How files are sent is
tried in ``test_downloads.py`` and ``tests/live/test_growing.py``; here is what is tus's own."""

from __future__ import annotations

from collections.abc import Callable

from tests.conftest import StartServer
from tests.harness.native import MIB, Native
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, metadata
from tests.harness.wire import connect, events, wait_until

Content = Callable[[int], bytes]


def finished(server: Server, tus: Tus, data: bytes, **pairs: str) -> TusUpload:
    upload = tus.create(len(data), data, Upload_Metadata=metadata(**pairs))
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")
    return upload


def test_a_finished_file_is_sent_with_all_that_describes_it(
    server: Server, tus: Tus, content: Content
) -> None:
    data = content(MIB)
    upload = finished(server, tus, data, filename="grüße.bin", filetype="application/zip")
    response = tus.request("GET", upload, {"Tus-Resumable": None})
    assert response.status_code == 200
    assert response.content == data
    assert response.headers["Content-Length"] == str(MIB)
    assert response.headers["Content-Type"] == "application/zip"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    disposition = response.headers["Content-Disposition"]
    assert disposition.startswith("attachment")
    assert "filename*=UTF-8''gr%C3%BC%C3%9Fe.bin" in disposition
    assert response.headers["ETag"]
    assert response.headers["Tus-Resumable"] == "1.0.0"


def test_ranges_of_a_finished_file_are_sent(server: Server, tus: Tus, content: Content) -> None:
    data = content(1000)
    upload = finished(server, tus, data)
    response = tus.request("GET", upload, {"Range": "bytes=10-19"})
    assert (response.status_code, response.content) == (206, data[10:20])
    assert response.headers["Content-Range"] == "bytes 10-19/1000"
    assert tus.request("GET", upload, {"Range": "bytes=1000-"}).status_code == 416
    etag = response.headers["ETag"]
    fresh = tus.request("GET", upload, {"Range": "bytes=10-19", "If-Range": etag})
    stale = tus.request("GET", upload, {"Range": "bytes=10-19", "If-Range": '"other"'})
    assert (fresh.status_code, stale.status_code) == (206, 200)


def test_an_unfinished_file_is_sent_as_it_grows(server: Server, tus: Tus, content: Content) -> None:
    data = content(2000)
    upload = tus.create(2000)
    tus.patch(upload, 0, data[:1000])
    with connect(server) as sock:
        sock.sendall(
            f"GET {upload.path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {tus.key}\r\n\r\n".encode()
        )
        with sock.makefile("rb") as answer:
            assert answer.readline().split()[1] == b"200"
            headers = [line.lower() for line in iter(answer.readline, b"\r\n")]
            assert not any(line.startswith(b"content-length") for line in headers)
            assert b"transfer-encoding: chunked\r\n" in headers
            received = b""
            while len(received) < 1000:
                received += answer.read(int(answer.readline(), 16))
                answer.readline()
            tus.patch(upload, 1000, data[1000:])
            while size := int(answer.readline(), 16):
                received += answer.read(size)
                answer.readline()
    assert received == data


def test_an_upload_made_of_others_cannot_be_read_before_it_is_made(tus: Tus) -> None:
    partial = tus.partial(b"abc", sent=1)
    response = tus.create_raw({"Upload-Concat": f"final;{partial.url}"})
    waiting = tus.request("GET", response.headers["Location"])
    assert waiting.status_code in (409, 503)
    assert waiting.headers["Tus-Resumable"] == "1.0.0"


def test_unknown_and_foreign_files_are_404(tus: Tus, native: Native) -> None:
    upload = native.init(size=0)
    native.complete_raw(upload)
    for path in ("/files/unknown", "/files/%00", f"/files/{upload.id}"):
        assert tus.request("GET", path).status_code == 404


def test_reading_can_be_turned_off(start_server: StartServer) -> None:
    server = start_server(DOWNLOADS="off", WORKERS=1)
    tus = Tus(server)
    upload = tus.create(5, b"bytes")
    response = tus.request("GET", upload)
    assert response.status_code == 405
    assert "GET" not in response.headers["Allow"]
    assert tus.offset(upload) == 5
