"""A client of the native API that can also misbehave."""

from __future__ import annotations

import hashlib
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.harness.server import API_KEY, Server

KIB = 1024
MIB = 1024 * KIB

#: Longer than any wait the contract allows, so that a hang is a failure.
TIMEOUT_SECONDS = 60


@dataclass
class Upload:
    """An upload as init answered it."""

    id: str
    size: int
    chunk_size: int
    tokens: list[str]
    raw: dict[str, Any] = field(repr=False)

    def span(self, part: int) -> tuple[int, int]:
        """Return offset and length of a part."""
        offset = part * self.chunk_size
        return offset, min(self.chunk_size, self.size - offset)


class Native:
    """Talks to a server. Methods that end in ``_raw`` return the response, whatever it is."""

    def __init__(self, server: Server, key: str = API_KEY) -> None:
        self.server = server
        self.session = requests.Session()
        self.headers = {"X-API-Key": key}

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request with the API key, unless ``headers`` are given."""
        options.setdefault("headers", self.headers)
        options.setdefault("timeout", TIMEOUT_SECONDS)
        return self.session.request(method, self.server.url + path, **options)

    def init_raw(self, document: object) -> requests.Response:
        """POST any JSON document to init."""
        return self.request("POST", "/upload/init", json=document)

    def init(self, filename: str = "movie.mp4", size: int = 3 * MIB, **fields: Any) -> Upload:
        """Create an upload."""
        response = self.init_raw({"filename": filename, "total_size": size, **fields})
        assert response.status_code == 200, response.text
        raw = response.json()
        tokens = [part["token"] for part in raw["parts"]]
        return Upload(raw["file_id"], size, raw["chunk_size"], tokens, raw)

    def put_raw(
        self,
        upload: Upload,
        part: int,
        data: Any,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        """PUT a part; a generator as ``data`` is sent with chunked encoding."""
        sent = {"Authorization": f"Bearer {token or upload.tokens[part]}"} | (headers or {})
        return self.request("PUT", f"/upload/{upload.id}/part/{part}", data=data, headers=sent)

    def put(self, upload: Upload, part: int, data: bytes) -> dict[str, Any]:
        """PUT a part, which must succeed; return the answer."""
        response = self.put_raw(upload, part, data)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        assert answer["checksum_sha256"] == hashlib.sha256(data).hexdigest()
        return answer

    def put_all(self, upload: Upload, content: bytes) -> None:
        """PUT all parts of ``content``."""
        for part in range(len(upload.tokens)):
            offset, length = upload.span(part)
            self.put(upload, part, content[offset : offset + length])

    def status(self, upload: Upload | str, include_parts: str | None = "true") -> dict[str, Any]:
        """Return the status document."""
        upload_id = upload if isinstance(upload, str) else upload.id
        query = "" if include_parts is None else f"?include_parts={include_parts}"
        response = self.request("GET", f"/upload/{upload_id}/status{query}")
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def pending(self, upload: Upload) -> list[int]:
        """Return the parts that the server still waits for."""
        parts = self.status(upload)["parts"]
        return [part["part"] for part in parts if part["status"] == "pending"]

    def complete_raw(self, upload: Upload) -> requests.Response:
        """POST complete."""
        return self.request("POST", f"/upload/{upload.id}/complete")

    def complete(self, upload: Upload) -> dict[str, Any]:
        """Complete an upload, which must succeed at once; return the answer."""
        response = self.complete_raw(upload)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def cancel_raw(self, upload: Upload) -> requests.Response:
        """DELETE an upload."""
        return self.request("DELETE", f"/upload/{upload.id}")

    # -- misbehaviour --------------------------------------------------------

    def open_part(
        self, upload: Upload, part: int, *, length: int | None = None, token: str | None = None
    ) -> socket.socket:
        """Connect and send the head of a part PUT, nothing of its body."""
        if length is None:
            length = upload.span(part)[1]
        sock = socket.create_connection(("127.0.0.1", self.server.port), timeout=TIMEOUT_SECONDS)
        sock.sendall(
            f"PUT /upload/{upload.id}/part/{part} HTTP/1.1\r\n"
            f"Host: 127.0.0.1\r\nAuthorization: Bearer {token or upload.tokens[part]}\r\n"
            f"Content-Length: {length}\r\n\r\n".encode()
        )
        return sock

    def send_then_cut(self, upload: Upload, part: int, data: bytes, *, how: str = "fin") -> None:
        """Send the beginning of a part, then end the connection by FIN or RST."""
        sock = self.open_part(upload, part)
        sock.sendall(data)
        cut(sock, how)


def cut(sock: socket.socket, how: str) -> None:
    """End a connection: ``fin`` as a client that exits, ``rst`` as a network that breaks."""
    if how == "rst":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_response(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one response with a Content-Length; return status, headers in lower case, and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    length = int(headers.get("content-length", 0))
    while len(body) < length:
        body += _some(sock)
    return int(status_line.split()[1]), headers, body


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("the server ended the connection within an answer")
    return data
