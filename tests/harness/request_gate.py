"""An S3 server behind a gate at which requests about single uploads can be stopped.

Every key in a bucket has the id of its upload in it, so a request tells which one
it is about. Requests that only look always pass.
"""

from __future__ import annotations

import http.client
import threading
from collections import defaultdict
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

#: For the slowest machine; whoever waits longer waits in vain.
PATIENCE_SECONDS = 60

_CHANGING = frozenset({"PUT", "POST", "DELETE"})

#: Of one connection only; the gate has its own two.
_HOP = frozenset({"connection", "keep-alive", "expect", "transfer-encoding"})


class RequestGate:
    """Passes requests for ``url`` on to a port.

    The requests that change something and are about a watched upload are numbered
    from 0. One of them can be held, either before the server gets it or, its work
    done, before its sender gets the answer.
    """

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self._changed = threading.Condition()
        self._seen: defaultdict[str, list[str]] = defaultdict(list)
        self._watched: dict[str, tuple[int, str] | None] = {}
        self._held: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.gate = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The server by way of the gate."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def watch(self, upload_id: str, number: int | None = None, when: str = "before") -> None:
        """Number an upload's requests from now on; hold one, ``before`` or ``after`` its work."""
        with self._changed:
            self._watched[upload_id] = None if number is None else (number, when)

    def seen(self, upload_id: str) -> list[str]:
        """Return the requests that have been numbered: ``PUT partNumber uploadId``."""
        with self._changed:
            return list(self._seen[upload_id])

    def wait_until_held(self, upload_id: str) -> None:
        """Wait until the request about an upload that is to be held is."""
        with self._changed:
            held = self._changed.wait_for(lambda: upload_id in self._held, PATIENCE_SECONDS)
        assert held, f"of {upload_id} only {self._seen[upload_id]} came"

    def forget(self) -> None:
        """Let everything pass, except what is held: its sender is dead, so it never arrives."""
        with self._changed:
            self._watched.clear()
            self._held.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """End it."""
        self.forget()
        self._server.shutdown()
        self._server.server_close()

    def number(self, method: str, target: str) -> tuple[str, str] | None:
        """Note a request; return its upload, and when it is to be held, where it is."""
        url = urlsplit(target)
        if method not in _CHANGING:
            return None
        with self._changed:
            for upload_id, chosen in self._watched.items():
                if upload_id in url.path:
                    words = sorted(parse_qs(url.query, keep_blank_values=True))
                    self._seen[upload_id].append(" ".join([method, *words]))
                    if chosen is not None and chosen[0] == len(self._seen[upload_id]) - 1:
                        return upload_id, chosen[1]
        return None

    def hold(self, upload_id: str) -> None:
        """Hold the calling thread until everything is forgotten."""
        with self._changed:
            self._held.add(upload_id)
            self._changed.notify_all()
            self._changed.wait_for(lambda: upload_id not in self._held)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        try:
            self._exchange()
        except (OSError, http.client.HTTPException):  # a side has died
            self.close_connection = True

    def _exchange(self) -> None:
        gate: RequestGate = self.server.gate  # type: ignore[attr-defined]
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the sender has died")
        held = gate.number(self.command, self.path)
        if held is not None and held[1] == "before":
            self._vanish(held[0])
            return
        connection = http.client.HTTPConnection("127.0.0.1", gate.server_port, PATIENCE_SECONDS)
        with closing(connection) as server:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            content = answer.read()
        if held is not None:
            self._vanish(held[0])
            return
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        told = answer.headers.get("Content-Length", "0")  # of a HEAD: the object's
        self.send_header("Content-Length", told if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _vanish(self, upload_id: str) -> None:
        self.server.gate.hold(upload_id)  # type: ignore[attr-defined]
        self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 - the base's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""
