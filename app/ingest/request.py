"""Which source a request's body is read from.

On gunicorn over plain TCP with a Content-Length the body is read from the
socket itself, by native threads, straight into a reused buffer. Everything else
- chunked encoding, TLS inside gunicorn, another WSGI server, the test client -
goes through ``wsgi.input``. Which one was taken is counted: a live test proves by it
that the fast one is in use, so that a gunicorn upgrade cannot lose it silently.
"""

from __future__ import annotations

import gevent.socket
from gunicorn.http.body import LengthReader
from gunicorn.http.unreader import SocketUnreader

from app import metrics
from app.errors import MalformedRequest
from app.ingest.body import Body, WSGIEnvironment
from app.ingest.channel import plain_socket
from app.ingest.sources import SocketBody
from app.ingest.stream import StreamBody

_BODY_KEY = "longhaul.body"


def request_body(environ: WSGIEnvironment) -> Body:
    """Return the body of a request, the same object at every call.

    Raises MalformedRequest for a Transfer-Encoding other than ``chunked``
    (RFC 9112 section 6.1) and for a Content-Length that is not a number.
    """
    body = environ.get(_BODY_KEY)
    if isinstance(body, Body):
        return body
    length = _declared_length(environ)
    plain = _plain_socket(environ) if length is not None else None
    made: Body
    if plain is not None and length is not None:
        made, source = SocketBody(plain, environ["wsgi.input"], length), "socket"
    else:
        made, source = StreamBody(environ, length), "stream"
    if length != 0:
        metrics.bodies_total.labels(source).inc()
    environ[_BODY_KEY] = made
    return made


def has_body(environ: WSGIEnvironment) -> bool:
    """Tell whether the request carries a body, read or not."""
    return (
        environ.get("HTTP_TRANSFER_ENCODING", "") != ""
        or (environ.get("CONTENT_LENGTH") or "0") != "0"
    )


def _declared_length(environ: WSGIEnvironment) -> int | None:
    encoding = environ.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if encoding == "chunked":
        return None
    if encoding:
        raise MalformedRequest("Transfer-Encoding must be chunked; send the body unencoded")
    text = environ.get("CONTENT_LENGTH") or "0"
    if not (text.isascii() and text.isdigit()):
        raise MalformedRequest("Content-Length must be a decimal number of bytes")
    return int(text)


def _plain_socket(environ: WSGIEnvironment) -> gevent.socket.socket | None:
    sock, wsgi_input = plain_socket(environ), environ["wsgi.input"]
    if (
        sock is not None
        and type(wsgi_input.reader) is LengthReader
        and type(wsgi_input.reader.unreader) is SocketUnreader
        and wsgi_input.buf.tell() == 0
    ):
        return sock
    return None
