"""A tus client that does what tests tell it, right or wrong."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import socket
import termios
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from tests.harness.native import TIMEOUT_SECONDS, cut
from tests.harness.server import API_KEY, Server
from tests.harness.stores import StoredFile
from tests.harness.wire import wait_until

CONTENT_TYPE = "application/offset+octet-stream"


def encoded(text: str | bytes) -> str:
    """Return base64, as metadata and checksums have it."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def metadata(**pairs: str) -> str:
    """Return a value of Upload-Metadata."""
    return ",".join(f"{key} {encoded(value)}" for key, value in pairs.items())


def checksum(data: bytes, algorithm: str = "sha1") -> str:
    """Return a value of Upload-Checksum."""
    return f"{algorithm} {encoded(hashlib.new(algorithm, data).digest())}"


@dataclass(frozen=True, slots=True)
class TusUpload:
    """An upload as its client knows it."""

    url: str

    @property
    def path(self) -> str:
        """The path of its URL."""
        return urlsplit(self.url).path

    @property
    def id(self) -> str:
        """What the ledger calls it."""
        return self.url.rpartition("/")[2]


class Tus:
    """Requests against one server. ``headers`` None leaves a header out that is usually there."""

    def __init__(self, server: Server, key: str | None = API_KEY) -> None:
        self.server = server
        self.key = key
        self.usual = {"Tus-Resumable": "1.0.0"} | ({} if key is None else {"X-API-Key": key})

    def request(
        self,
        method: str,
        target: str | TusUpload = "/files",
        headers: Mapping[str, object] | None = None,
        data: bytes | Iterable[bytes] | None = None,
    ) -> requests.Response:
        """Send one request to a path, an URL or an upload."""
        url = target.url if isinstance(target, TusUpload) else target
        if url.startswith("/"):
            url = self.server.url + url
        return requests.request(
            method,
            url,
            headers=self._headers(headers or {}),
            data=data,
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
        )

    def _headers(self, headers: Mapping[str, object]) -> dict[str, str]:
        merged = {**self.usual, **headers}
        return {name: str(value) for name, value in merged.items() if value is not None}

    def create_raw(
        self, headers: Mapping[str, object] | None = None, data: bytes | None = None
    ) -> requests.Response:
        """POST a creation."""
        usual = {} if data is None else {"Content-Type": CONTENT_TYPE}
        return self.request("POST", "/files", {**usual, **(headers or {})}, data)

    def create(self, length: int | None, data: bytes | None = None, **headers: object) -> TusUpload:
        """Create an upload (None: of deferred length), which must succeed.

        An underscore in a header's name stands for a hyphen.
        """
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        size = {"Upload-Defer-Length": 1} if length is None else {"Upload-Length": length}
        response = self.create_raw({**size, **told}, data)
        assert response.status_code == 201, response.text
        return TusUpload(response.headers["Location"])

    def partial(self, data: bytes, *, sent: int | None = None) -> TusUpload:
        """Create a partial upload of ``data`` and send all, or only ``sent`` bytes of it."""
        upload = self.create(len(data), Upload_Concat="partial")
        self.patch(upload, 0, data[:sent])
        return upload

    def head(self, upload: TusUpload, **headers: object) -> requests.Response:
        """HEAD an upload."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("HEAD", upload, told)

    def offset(self, upload: TusUpload) -> int:
        """Return how far an upload is, as HEAD tells."""
        response = self.head(upload)
        assert response.status_code == 200
        return int(response.headers["Upload-Offset"])

    def patch_raw(
        self,
        upload: TusUpload,
        offset: object,
        data: bytes | Iterable[bytes] = b"",
        **headers: object,
    ) -> requests.Response:
        """PATCH an upload; an iterable goes in chunked encoding."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        usual = {"Content-Type": CONTENT_TYPE, "Upload-Offset": offset}
        return self.request("PATCH", upload, {**usual, **told}, data)

    def patch(self, upload: TusUpload, offset: int, data: bytes, **headers: object) -> int:
        """PATCH an upload, which must succeed; return the offset after it."""
        response = self.patch_raw(upload, offset, data, **headers)
        assert response.status_code == 204, (response.status_code, response.text)
        return int(response.headers["Upload-Offset"])

    def delete(self, upload: TusUpload) -> requests.Response:
        """DELETE an upload."""
        return self.request("DELETE", upload)

    # -- byte by byte ----------------------------------------------------------

    def patch_head(
        self, upload: TusUpload, offset: int, length: int | None, **headers: object
    ) -> bytes:
        """Return the head of a PATCH, chunked if ``length`` is None."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        framing = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": length}
        lines = {
            "Host": f"127.0.0.1:{self.server.port}",
            "Content-Type": CONTENT_TYPE,
            "Upload-Offset": offset,
            **framing,
            **told,
        }
        fields = "".join(f"{name}: {value}\r\n" for name, value in self._headers(lines).items())
        return f"PATCH {upload.path} HTTP/1.1\r\n{fields}\r\n".encode("latin-1")

    def open_patch(
        self, upload: TusUpload, offset: int, length: int | None, **headers: object
    ) -> socket.socket:
        """Connect and send the head of a PATCH, nothing of its body."""
        sock = socket.create_connection(("127.0.0.1", self.server.port), timeout=TIMEOUT_SECONDS)
        sock.sendall(self.patch_head(upload, offset, length, **headers))
        return sock

    def patch_then_cut(
        self, upload: TusUpload, offset: int, length: int, data: bytes, how: str
    ) -> None:
        """Announce ``length`` bytes, send ``data``, then end the connection by FIN or RST.

        Not before all has arrived: a reset takes back what is still on its way.
        """
        sock = self.open_patch(upload, offset, length)
        sock.sendall(data)
        wait_until_arrived(sock)
        cut(sock, how)


def wait_until_arrived(sock: socket.socket) -> None:
    """Wait until the other side's system has acknowledged all that was sent (tcp(7), SIOCOUTQ)."""

    def has_arrived() -> bool:
        on_their_way = array("i", [0])
        fcntl.ioctl(sock, termios.TIOCOUTQ, on_their_way)
        return on_their_way[0] == 0

    wait_until(has_arrived, "all bytes have arrived")


def finished_file(server: Server, upload: TusUpload) -> StoredFile | None:
    """Return an upload's file, None while it is not there."""
    return next((file for file in server.store.files() if file.name.startswith(upload.id)), None)
