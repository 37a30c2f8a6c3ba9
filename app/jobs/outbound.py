"""One HTTP request to an address that somebody else chose.

The client owns which addresses may be reached and how long and how much a
receiver may keep us; ``route.py`` carries it out. It knows nothing of uploads,
retries or the ledger, and it logs nothing, since URLs, headers and answers of
webhooks are their owners' secrets.

httpcore does the HTTP, rather than httpx on top of it: it lets us supply the
connection, and it follows no redirect, reads no environment, decodes no content
and logs no URL, all of which would have to be switched off.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import httpcore

from app.domain.targets import Target, parse_target, refuse_unless_public
from app.errors import TargetRefused
from app.jobs.route import Clock, DeadlinePassed, VettedRoute

#: Waiting for a name, for a connection, and for the next byte, seconds each.
IO_TIMEOUT_SECONDS = 10.0

#: From the first look-up to the last byte of the answer.
DEADLINE_SECONDS = 30.0

#: What is kept of an answer (the delivery log shows it), bytes.
BODY_EXCERPT_BYTES = 4096

#: Fields that frame and route the request; a caller's are dropped.
_OWN_FIELDS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-hub-signature-256",
    }
)

#: Host name and port → every IP address of it as text. Raises OSError.
Resolve = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a delivery went.

    ``status`` is None if no answer came. ``body`` is the beginning of the
    answer, at most BODY_EXCERPT_BYTES of it, without NUL (PostgreSQL's text
    refuses it). ``error`` is None exactly if the status is 2xx, else a sentence
    for whoever configured the address. A receiver that answers 2xx and breaks
    off within its body has accepted the delivery.
    """

    status: int | None
    body: str
    error: str | None
    duration_seconds: float

    @property
    def ok(self) -> bool:
        """True if the receiver took the delivery: a status of 200 to 299."""
        return self.error is None


@dataclass(slots=True)
class _Answer:
    """What has arrived so far; survives the failure of the rest."""

    status: int | None = None
    body: bytearray = field(default_factory=bytearray)


def resolve_host(host: str, port: int) -> Sequence[str]:
    """Return every address the system knows for ``host``, in the order to try them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def signature(secret: str, payload: bytes) -> str:
    """Return the X-Hub-Signature-256 value: ``sha256=`` and the hex HMAC-SHA256 of the body."""
    return "sha256=" + hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest()


class OutboundClient:
    """Sends webhooks. Holds no connection; threads and greenlets may share it.

    ``version`` is Longhaul's, for the User-Agent. ``ssl_context`` defaults to the
    system's certificate authorities and certifi's.
    """

    def __init__(
        self,
        allow_private: bool,
        *,
        version: str,
        ssl_context: ssl.SSLContext | None = None,
        resolve: Resolve = resolve_host,
        io_timeout_seconds: float = IO_TIMEOUT_SECONDS,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._allow_private = allow_private
        self._user_agent = f"Longhaul/{version}"
        self._ssl_context = ssl_context or httpcore.default_ssl_context()
        self._resolve = resolve
        self._io_timeout_seconds = io_timeout_seconds
        self._deadline_seconds = deadline_seconds

    def post_json(
        self,
        url: str,
        payload: bytes,
        headers: Mapping[str, str],
        secret: str | None = None,
    ) -> Outcome:
        """POST ``payload``, JSON in UTF-8, to ``url`` and report how it went.

        With a ``secret`` the body is signed (``signature``). ``headers`` are
        ASCII; those this client sets itself are dropped. Whatever the receiver
        or the network does is an Outcome, never an exception, and comes within
        the deadline; so does an address that must not be called.
        """
        clock = Clock(self._deadline_seconds, self._io_timeout_seconds)
        answer = _Answer()
        failure: str | None = None
        try:
            target = parse_target(url, allow_private=self._allow_private)
            route = VettedRoute(self._vetted_addresses(target, clock), clock)
            fields = self._fields(target, payload, headers, secret)
            self._exchange(target, route, fields, payload, answer)
        except TargetRefused as refused:
            failure = refused.message
        except (OSError, httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
            failure = self._explanation(error)
        return Outcome(
            status=answer.status,
            body=answer.body.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}"),
            error=failure if answer.status is None else _complaint(answer.status),
            duration_seconds=clock.elapsed_seconds(),
        )

    def _vetted_addresses(self, target: Target, clock: Clock) -> Sequence[str]:
        """Resolve once and refuse the host if any of its addresses is closed to us.

        No picking of the good ones: a name with both kinds is an attack or a
        mistake. getaddrinfo has no timeout, hence a thread, which dies with it.
        """
        answers: Future[Sequence[str]] = Future()

        def look_up() -> None:
            try:
                answers.set_result(self._resolve(target.host, target.port))
            except BaseException as error:  # noqa: BLE001 -- raised again by result()
                answers.set_exception(error)

        threading.Thread(target=look_up, name="webhook-resolve", daemon=True).start()
        try:
            with clock.waiting() as seconds:
                addresses = answers.result(seconds)
        except DeadlinePassed:
            raise
        except TimeoutError as error:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer in time") from error
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        if not self._allow_private:
            for address in addresses:
                refuse_unless_public(target.host, address)
        return addresses

    def _fields(
        self, target: Target, payload: bytes, headers: Mapping[str, str], secret: str | None
    ) -> list[tuple[str, str]]:
        fields = [
            ("Host", target.authority),
            ("User-Agent", self._user_agent),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(payload))),
        ]
        if secret is not None:
            fields.append(("X-Hub-Signature-256", signature(secret, payload)))
        return fields + [item for item in headers.items() if item[0].lower() not in _OWN_FIELDS]

    def _exchange(
        self,
        target: Target,
        route: VettedRoute,
        fields: Sequence[tuple[str, str]],
        payload: bytes,
        answer: _Answer,
    ) -> None:
        url = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.target
        )
        with (
            httpcore.HTTPConnection(
                url.origin, ssl_context=self._ssl_context, network_backend=route
            ) as connection,
            connection.stream("POST", url, headers=list(fields), content=payload) as response,
        ):
            answer.status = response.status
            for chunk in response.iter_stream():
                answer.body += chunk[: BODY_EXCERPT_BYTES - len(answer.body)]
                if len(answer.body) == BODY_EXCERPT_BYTES:
                    return

    def _explanation(self, error: Exception) -> str:
        """Say what went wrong, in words for whoever configured the address."""
        match error:
            case DeadlinePassed():
                return f"The delivery took longer than {self._deadline_seconds:g} s"
            case TimeoutError():
                return f"The receiver did not respond for {self._io_timeout_seconds:g} s"
            case socket.gaierror():
                return "The receiver's host name could not be resolved"
            case ssl.SSLCertVerificationError():
                return f"The receiver's certificate was not accepted: {error.verify_message}"
            case ssl.SSLError():
                return f"TLS with the receiver failed: {error.reason or 'connection closed'}"
            case ConnectionRefusedError():
                return "The receiver refused the connection"
            case httpcore.RemoteProtocolError():
                return "The receiver closed the connection or did not answer in HTTP"
            case OSError(strerror=str(reason)):
                return f"The connection to the receiver failed: {reason}"
            case _:
                return f"The connection to the receiver failed: {error}"


def _complaint(status: int) -> str | None:
    if 200 <= status <= 299:
        return None
    if 300 <= status <= 399:
        return f"The receiver answered {status}; redirects are not followed, give the final address"
    return f"The receiver answered {status}"
