"""Requests that gunicorn refuses before the application sees them, answered in our words.

A broken head, framing or chunk never reaches Flask; gunicorn would answer in
HTML and without CORS headers, so that a page's script saw no status at all. Nor
does it look whether a body may follow: HEAD is answered without one.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from app import logs

#: Set on gunicorn's requests and on the errors that refuse them.
_IS_HEAD = "is_head"

#: gunicorn's error page: status and reason in its first line, the details in its body.
_PAGE = re.compile(rb"HTTP/1\.1 (\d{3}) ([^\r]*)\r\n.*</h1>(.*)</body>", re.DOTALL)


def answer_in_json(worker: Any, origins: Sequence[str]) -> None:
    """Have gunicorn's ``worker`` write its refusals as JSON, for pages of ``origins``.

    Whose page has sent what cannot be read is not known, so of several origins
    none can be named; one, or ``*``, always is.
    """
    handle_error: Callable[..., None] = worker.handle_error
    origin = "*" if "*" in origins else origins[0] if len(origins) == 1 else None

    def handled(request: Any, client: Any, address: Any, error: BaseException) -> None:
        is_head = getattr(request or error, _IS_HEAD, False)
        handle_error(request, _Translating(client, origin, is_head), address, error)

    worker.handle_error = handled
    RequestParser.mesg_class = _Noted


class _Noted(Request):
    """A request that notes on itself, and on the error that refuses it, whether it is a HEAD.

    gunicorn parses within the constructor, so of a refused one the error is all there is.
    """

    is_head = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
        except Exception as error:
            setattr(error, _IS_HEAD, self.is_head)
            raise

    def read_line(self, unreader: Any, buffer: bytearray, limit: int = 0) -> Any:
        """Read the request line; ``buffer`` grows in place, and goes on to be read if it fails."""
        try:
            return super().read_line(unreader, buffer, limit)
        finally:
            self.is_head = buffer.startswith(b"HEAD ")


class _Translating:
    """A socket that sends gunicorn's error page as one of our JSON errors."""

    def __init__(self, client: Any, origin: str | None, is_head: bool) -> None:
        self._client = client
        self._origin = origin
        self._is_head = is_head

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def sendall(self, data: bytes) -> None:
        """Send ``data``, translated if it is an error page."""
        page = _PAGE.match(data)
        self._client.sendall(data if page is None else self._translated(page))

    def _translated(self, page: re.Match[bytes]) -> bytes:
        status, reason = int(page[1]), page[2].decode("latin-1")
        details = html.unescape(page[3].decode("latin-1")).strip()
        document = {
            "error": f"{reason}: {details}" if details else reason,
            "code": reason.lower().replace(" ", "_"),
            "status": status,
        }
        body = json.dumps(document).encode()
        described = ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        if self._is_head:  # RFC 9110 section 9.3.2; tus keeps these out of caches
            body, described = b"", ["Cache-Control: no-store"]
        head = [
            f"HTTP/1.1 {status} {reason}",
            "Connection: close",
            *described,
            f"X-Request-ID: {logs.request_id(None)}",
            "Tus-Resumable: 1.0.0",  # nobody knows the path; it must be on all below /files
        ]
        if self._origin is not None:
            head.append(f"Access-Control-Allow-Origin: {self._origin}")
        return "\r\n".join([*head, "", ""]).encode("latin-1") + body
