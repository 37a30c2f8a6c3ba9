"""What never reaches the application is answered in its words, and lost disks are noticed."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.harness.native import MIB, Native, read_response
from tests.harness.server import Server
from tests.live.wire import Connection

pytestmark = pytest.mark.live


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"BROKEN\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: one\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br\r\n\r\n", 501),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    ],
)
def test_a_request_that_cannot_be_read_gets_an_error_in_json(
    server: Server, head: bytes, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(head)
        answered, headers, body = read_response(sock)
    document = json.loads(body)
    assert (answered, document["status"]) == (status, status)
    assert document["error"]
    assert document["code"]
    assert headers["access-control-allow-origin"] == "*"
    assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "field", "status"),
    [
        ("/files/" + "x" * 9000, "Host: a", 414),
        ("/files/x", "X-Long: " + "x" * 9000, 431),
        ("/files/x", "Host: b", 400),
        ("/files/x", "Content-Length: one", 400),
        ("/files/x", "Transfer-Encoding: br", 501),
    ],
    ids=["long path", "long field", "two hosts", "no length", "unknown coding"],
)
def test_a_head_that_cannot_be_read_is_answered_without_a_body(
    server: Server, path: str, field: str, status: int
) -> None:
    with Connection(server) as connection:
        connection.send(f"HEAD {path} HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n".encode())
        answer = connection.read(to_head=True)
        connection.wait_for_end()  # and no byte more
    assert answer.status == status
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"]


def test_the_next_request_of_a_connection_is_known_by_its_own_method(server: Server) -> None:
    with Connection(server) as connection:
        connection.send(b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.read(to_head=True).status == 200
        connection.send(b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert connection.read().json["status"] == 400
    with Connection(server) as connection:
        connection.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.read().status == 200
        connection.send(b"HEAD /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert connection.read(to_head=True).status == 400
        connection.wait_for_end()


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://app.example.com,https://b.example.com", None),
        ("none", None),
    ],
)
def test_pages_of_the_one_origin_may_read_why_a_request_cannot_be_read(
    start_server: StartServer, origins: str, allowed: str | None
) -> None:
    """Which page has sent it is not known: of several origins none can be named."""
    server = start_server(CORS_ORIGINS=origins, WORKERS=1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, _ = read_response(sock)
    assert status == 414
    assert headers.get("access-control-allow-origin") == allowed


def test_a_root_whose_disk_is_missing_is_not_taken_for_a_new_one(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server()
    native = Native(server)
    upload = native.init(size=MIB)
    server.stop()
    server.uploads.rename(tmp_path / "unmounted")
    server.uploads.mkdir()
    server.start(ready=False)
    refused = native.init_raw({"filename": "a", "total_size": 1})
    assert refused.status_code == 503
    assert "is its disk mounted?" in refused.json()["error"]
    assert list(server.uploads.iterdir()) == []
    server.uploads.rmdir()
    (tmp_path / "unmounted").rename(server.uploads)
    assert native.put(upload, 0, b"x" * MIB)["uploaded_parts"] == 1
