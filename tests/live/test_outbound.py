"""Outgoing requests against real receivers on loopback: kind, broken and hostile ones.

The whole file runs twice: as it is, and in a process patched by gevent, where
clients and receivers share one thread and any wait that blocks would show.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import logging
import os
import queue
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent.monkey
import httpcore
import pytest

from app.jobs.outbound import BODY_EXCERPT_BYTES, OutboundClient, Outcome
from app.jobs.route import MAX_RECEIVED_BYTES

pytestmark = pytest.mark.live

PAYLOAD = b'{"event": "upload.complete", "filename": "\xc3\xa9.mp4"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

#: A public address nobody is asked at: the audit hook stops the connection.
ELSEWHERE = "93.184.216.34"

#: Between dripped bytes, seconds: far below any timeout of the client.
DRIP_SECONDS = 0.02

#: No test should come near; a client that hangs must fail, not stall the run.
PATIENCE_SECONDS = 20.0

UNDER_GEVENT = "LONGHAUL_TESTS_UNDER_GEVENT"


# Receivers


@dataclass(frozen=True)
class Received:
    """One request as it came over the wire."""

    line: str
    fields: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]


class Receiver(socketserver.ThreadingTCPServer):
    """A server on a free port that lets ``converse`` deal with every connection."""

    allow_reuse_address = True

    def __init__(self, converse: Converse, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.converse = converse
        self.tls = tls
        self.connections = 0
        self.requests: queue.Queue[Received] = queue.Queue()
        self.client_hung_up = threading.Event()
        self.closing = threading.Event()
        self.server_names: list[str | None] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def read_request(self, connection: socket.socket) -> Received:
        with connection.makefile("rb") as stream:
            line = stream.readline().decode().rstrip()
            fields = []
            while field := stream.readline().decode().rstrip():
                key, _, value = field.partition(": ")
                fields.append((key, value))
            length = next(int(value) for key, value in fields if key == "Content-Length")
            received = Received(line, fields, stream.read(length))
        self.requests.put(received)
        return received

    def drip(self, send: Callable[[bytes], object], data: bytes = b"x") -> None:
        """Send ``data`` over and over, a little at a time, until somebody has enough."""
        while not self.closing.wait(DRIP_SECONDS):
            send(data)

    def received(self) -> Received:
        return self.requests.get(timeout=PATIENCE_SECONDS)


class _Connection(socketserver.BaseRequestHandler):
    server: Receiver

    def handle(self) -> None:
        self.server.connections += 1
        connection = self.request
        connection.settimeout(PATIENCE_SECONDS)
        try:
            if self.server.tls is not None:
                connection = self.server.tls.wrap_socket(connection, server_side=True)
            self.server.converse(self.server, connection)
        except OSError:
            self.server.client_hung_up.set()
        finally:
            connection.close()


Converse = Callable[[Receiver, socket.socket], None]
Receive = Callable[..., Receiver]


def answering(answer: bytes) -> Converse:
    def converse(receiver: Receiver, connection: socket.socket) -> None:
        receiver.read_request(connection)
        connection.sendall(answer)

    return converse


@pytest.fixture
def receive() -> Iterator[Receive]:
    """Start receivers; all are closed and their threads joined afterwards."""
    running: list[tuple[Receiver, threading.Thread]] = []

    def start(converse: Converse, tls: ssl.SSLContext | None = None) -> Receiver:
        receiver = Receiver(converse, tls)
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((receiver, thread))
        return receiver

    yield start
    for receiver, thread in running:
        receiver.closing.set()
        receiver.shutdown()
        thread.join()
        receiver.server_close()


def resolving_to(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    return lambda host, port: addresses


#: Loading the system's authorities takes longer than most tests.
AUTHORITIES = httpcore.default_ssl_context()


def client(allow_private: bool = True, **options: Any) -> OutboundClient:
    usual = {"io_timeout_seconds": 5, "deadline_seconds": 10, "ssl_context": AUTHORITIES}
    options = usual | {"version": "1.2.3"} | options
    return OutboundClient(allow_private, **options)


def post(url: str, **options: Any) -> Outcome:
    return client(**options).post_json(url, PAYLOAD, {})


# Every connection this process makes, as Python's audit events tell it. A hook
# cannot be removed, so one is installed and told where to write.

_watched: list[list[tuple[Any, ...]]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect" or not _watched:
        return
    address = arguments[1]
    if address not in _watched[-1]:
        _watched[-1].append(address)
    if address[0] == ELSEWHERE:
        raise ConnectionRefusedError("tests do not call out")


sys.addaudithook(_audit)


@pytest.fixture
def connected_to() -> Iterator[list[tuple[Any, ...]]]:
    _watched.append([])
    yield _watched[-1]
    _watched.pop()


# What is sent


def test_this_process_is_patched_exactly_if_it_should_be() -> None:
    assert gevent.monkey.is_module_patched("socket") == (UNDER_GEVENT in os.environ)


def test_a_delivery_arrives_whole_and_signed(receive: Receive) -> None:
    receiver = receive(answering(OK))
    outcome = client().post_json(
        f"{receiver.url}?a=b%20c", PAYLOAD, {"X-Longhaul-Event": "completed"}, secret="s3cret"
    )
    assert outcome.ok
    assert (outcome.status, outcome.body, outcome.error) == (200, "hello", None)
    assert 0 < outcome.duration_seconds < 10
    received = receiver.received()
    assert received.line == "POST /hook?a=b%20c HTTP/1.1"
    assert received.body == PAYLOAD
    digest = hmac.new(b"s3cret", PAYLOAD, hashlib.sha256).hexdigest()
    assert dict(received.fields) == {
        "Host": f"127.0.0.1:{receiver.port}",
        "User-Agent": "Longhaul/1.2.3",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(len(PAYLOAD)),
        "X-Hub-Signature-256": f"sha256={digest}",
        "X-Longhaul-Event": "completed",
    }


def test_without_a_secret_nothing_is_signed(receive: Receive) -> None:
    receiver = receive(answering(OK))
    assert post(receiver.url).ok
    assert receiver.received().values("X-Hub-Signature-256") == []


def test_headers_given_cannot_reframe_or_reroute_the_request(receive: Receive) -> None:
    receiver = receive(answering(OK))
    given = {"host": "evil.example", "CONTENT-LENGTH": "1", "Transfer-Encoding": "chunked"}
    assert client().post_json(receiver.url, PAYLOAD, given).ok
    received = receiver.received()
    assert received.values("Host") == [f"127.0.0.1:{receiver.port}"]
    assert received.values("Content-Length") == [str(len(PAYLOAD))]
    assert received.values("Transfer-Encoding") == []
    assert received.body == PAYLOAD


def test_nothing_about_a_delivery_is_logged(
    receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver = receive(answering(OK))
    headers = {"X-Token": "header-token"}
    url = f"{receiver.url}/path-token"
    assert client().post_json(url, b'"payload-token"', headers, secret="the-secret").ok
    signature = receiver.received().values("X-Hub-Signature-256")[0]
    for confidential in ("path-token", "payload-token", "header-token", "the-secret", signature):
        assert confidential not in caplog.text


# What is answered


@pytest.mark.parametrize("status", [201, 204, 299])
def test_any_2xx_is_a_delivery(receive: Receive, status: int) -> None:
    receiver = receive(answering(b"HTTP/1.1 %d Fine\r\n\r\n" % status))
    outcome = post(receiver.url)
    assert (outcome.ok, outcome.status, outcome.body, outcome.error) == (True, status, "", None)


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
def test_an_error_status_fails_and_keeps_the_answer(receive: Receive, status: int) -> None:
    receiver = receive(answering(b"HTTP/1.1 %d No\r\nContent-Length: 4\r\n\r\nwhy?" % status))
    outcome = post(receiver.url)
    assert not outcome.ok
    assert (outcome.status, outcome.body) == (status, "why?")
    assert outcome.error == f"The receiver answered {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_its_goal_is_never_contacted(
    receive: Receive, status: int, connected_to: list[tuple[Any, ...]]
) -> None:
    goal = receive(answering(OK))
    redirect = b"HTTP/1.1 %d Go\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
    receiver = receive(answering(redirect % (status, goal.url.encode())))
    outcome = post(receiver.url)
    assert not outcome.ok
    assert outcome.status == status
    assert outcome.error is not None
    assert "redirects are not followed" in outcome.error
    assert connected_to == [("127.0.0.1", receiver.port)]
    assert goal.connections == 0


def test_proxies_of_the_environment_are_not_used(
    receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = receive(answering(OK))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    receiver = receive(answering(OK))
    assert post(receiver.url).ok
    assert (receiver.connections, proxy.connections) == (1, 0)


def test_of_a_huge_answer_only_the_beginning_is_read(receive: Receive) -> None:
    def converse(receiver: Receiver, connection: socket.socket) -> None:
        receiver.read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        while not receiver.closing.is_set():
            connection.sendall(b"x" * 65536)

    receiver = receive(converse)
    outcome = post(receiver.url)
    assert outcome.ok
    assert outcome.body == "x" * BODY_EXCERPT_BYTES
    assert receiver.client_hung_up.wait(PATIENCE_SECONDS)


def test_an_answer_is_not_waited_for_once_its_beginning_is_there(receive: Receive) -> None:
    def converse(receiver: Receiver, connection: socket.socket) -> None:
        receiver.read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * BODY_EXCERPT_BYTES)
        receiver.closing.wait()

    assert post(receive(converse).url).duration_seconds < 5


def test_a_compressed_answer_is_not_unpacked(receive: Receive) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    outcome = post(receive(answering(head + bomb)).url)
    assert outcome.ok
    assert len(outcome.body) <= BODY_EXCERPT_BYTES


def test_an_answer_that_is_no_text_can_still_be_stored(receive: Receive) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na\0\xff\xc3\xa9b"
    assert post(receive(answering(answer)).url).body == "a\ufffd\ufffdéb"


def test_a_delivery_accepted_and_then_cut_off_is_a_delivery(receive: Receive) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart"
    outcome = post(receive(answering(answer)).url)
    assert (outcome.ok, outcome.body, outcome.error) == (True, "start", None)


def test_early_refusal_of_a_large_payload_is_heard(receive: Receive) -> None:
    def converse(receiver: Receiver, connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    receiver = receive(converse)
    assert client().post_json(receiver.url, bytes(2_000_000), {}).status == 413


# Receivers that break or never end


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9.9\r\n", b"\0" * 99])
def test_an_answer_that_is_none_fails(receive: Receive, answer: bytes) -> None:
    outcome = post(receive(answering(answer)).url)
    assert (outcome.ok, outcome.status, outcome.body) == (False, None, "")
    assert outcome.error == "The receiver closed the connection or did not answer in HTTP"


def test_a_port_where_nobody_listens_fails() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = post(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert (outcome.status, outcome.error) == (None, "The receiver refused the connection")


def test_a_silent_receiver_is_given_up(receive: Receive) -> None:
    receiver = receive(lambda receiver, connection: void(receiver.closing.wait()))
    outcome = post(receiver.url, io_timeout_seconds=0.2)
    assert outcome.error == "The receiver did not respond for 0.2 s"
    assert outcome.duration_seconds < 5


def test_a_receiver_that_does_not_read_is_given_up(receive: Receive) -> None:
    receiver = receive(lambda receiver, connection: void(receiver.closing.wait()))
    patient = client(io_timeout_seconds=0.2)
    outcome = patient.post_json(receiver.url, bytes(32_000_000), {})
    assert outcome.error == "The receiver did not respond for 0.2 s"


def void(_: object) -> None:
    """Let a lambda end in an expression."""


def drips_head(receiver: Receiver, connection: socket.socket) -> None:
    receiver.read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    receiver.drip(connection.sendall)


def drips_early_hints(receiver: Receiver, connection: socket.socket) -> None:
    receiver.read_request(connection)
    receiver.drip(connection.sendall, b"HTTP/1.1 103 Early Hints\r\n\r\n")


def drips_tls_handshake(receiver: Receiver, connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x03\x40\x00")
    receiver.drip(connection.sendall)


@pytest.mark.parametrize("drips", [drips_head, drips_early_hints, drips_tls_handshake])
def test_no_receiver_outlasts_the_deadline_by_dripping(receive: Receive, drips: Converse) -> None:
    receiver = receive(drips)
    scheme = "https" if drips is drips_tls_handshake else "http"
    outcome = post(f"{scheme}://127.0.0.1:{receiver.port}/", deadline_seconds=0.5)
    assert (outcome.status, outcome.error) == (None, "The delivery took longer than 0.5 s")
    assert outcome.duration_seconds < 3
    assert receiver.client_hung_up.wait(PATIENCE_SECONDS)


def test_a_dripped_body_ends_at_the_deadline_and_its_status_counts(receive: Receive) -> None:
    def converse(receiver: Receiver, connection: socket.socket) -> None:
        receiver.read_request(connection)
        connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000\r\n\r\n")
        receiver.drip(connection.sendall)

    receiver = receive(converse)
    outcome = post(receiver.url, deadline_seconds=0.5)
    assert (outcome.status, outcome.error) == (500, "The receiver answered 500")
    assert set(outcome.body) == {"x"}
    assert outcome.duration_seconds < 3


@pytest.mark.parametrize("flood", [b"HTTP/1.1 103 Hints\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_flood_before_the_answer_is_cut_off(receive: Receive, flood: bytes) -> None:
    sent_bytes = 0

    def converse(receiver: Receiver, connection: socket.socket) -> None:
        nonlocal sent_bytes
        receiver.read_request(connection)
        connection.sendall(flood)
        filler = flood if flood.endswith(b"\r\n\r\n") else b"x"
        while not receiver.closing.is_set():
            connection.sendall(filler * 100)
            sent_bytes += len(filler * 100)

    receiver = receive(converse)
    outcome = post(receiver.url)
    assert (outcome.ok, outcome.status) == (False, None)
    assert receiver.client_hung_up.wait(PATIENCE_SECONDS)
    # What was read, and what the sockets' buffers of this machine had taken.
    assert sent_bytes < MAX_RECEIVED_BYTES + 16_000_000


# Names and addresses


def test_a_name_that_does_not_resolve_fails() -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    outcome = post("http://hooks.example.test/", resolve=resolve)
    assert outcome.error == "The receiver's host name could not be resolved"
    assert post("http://hooks.example.test/", resolve=resolving_to()).error == outcome.error


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"io_timeout_seconds": 0.2}, "The receiver's host name could not be resolved"),
        ({"deadline_seconds": 0.2}, "The delivery took longer than 0.2 s"),
    ],
)
def test_a_name_server_that_never_answers_is_given_up(limits: dict[str, float], error: str) -> None:
    answered = threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        answered.wait()
        return ["127.0.0.1"]

    try:
        outcome = post("http://hooks.example.test/", resolve=resolve, **limits)
    finally:
        answered.set()
    assert (outcome.status, outcome.error) == (None, error)
    assert outcome.duration_seconds < 5


def test_the_system_resolver_is_asked_by_default(receive: Receive) -> None:
    receiver = receive(answering(OK))
    assert post(f"http://localhost:{receiver.port}/").ok
    assert receiver.received().values("Host") == [f"localhost:{receiver.port}"]


def test_the_next_address_is_tried_if_one_does_not_accept(
    receive: Receive, connected_to: list[tuple[Any, ...]]
) -> None:
    receiver = receive(answering(OK))
    resolve = resolving_to(ELSEWHERE, "127.0.0.1")
    assert post(f"http://hooks.example.test:{receiver.port}/", resolve=resolve).ok
    assert connected_to == [(ELSEWHERE, receiver.port), ("127.0.0.1", receiver.port)]


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/", "http://localhost:{}/", "nonsense"])
def test_a_closed_target_is_refused_without_a_connection(
    receive: Receive, url: str, connected_to: list[tuple[Any, ...]]
) -> None:
    receiver = receive(answering(OK))
    outcome = post(url.format(receiver.port), allow_private=False)
    assert (outcome.ok, outcome.status) == (False, None)
    assert outcome.error is not None
    assert outcome.error.startswith("The target URL")
    assert connected_to == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        [ELSEWHERE, "127.0.0.1"],
        ["127.0.0.1", ELSEWHERE],
        [ELSEWHERE, "::ffff:127.0.0.1"],
        [ELSEWHERE, "fe80::1%lo"],
        ["127.1"],
    ],
)
def test_one_closed_address_refuses_the_name_as_a_whole(
    receive: Receive, addresses: list[str], connected_to: list[tuple[Any, ...]]
) -> None:
    receiver = receive(answering(OK))
    outcome = post(
        f"http://hooks.example.test:{receiver.port}/",
        allow_private=False,
        resolve=resolving_to(*addresses),
    )
    assert outcome.error is not None
    assert outcome.error.startswith("hooks.example.test resolves to an address that is not public")
    assert connected_to == []


def test_the_address_that_was_vetted_is_the_one_connected_to(
    receive: Receive, connected_to: list[tuple[Any, ...]]
) -> None:
    receiver = receive(answering(OK))
    answers = iter([[ELSEWHERE], ["127.0.0.1"], ["127.0.0.1"]])
    rebinding = client(allow_private=False, resolve=lambda host, port: next(answers))
    url = f"http://rebind.example.test:{receiver.port}/"

    first = rebinding.post_json(url, PAYLOAD, {})
    assert first.error == "The receiver refused the connection"
    assert connected_to == [(ELSEWHERE, receiver.port)]

    second = rebinding.post_json(url, PAYLOAD, {})
    assert second.error is not None
    assert "not public" in second.error
    assert connected_to == [(ELSEWHERE, receiver.port)]

    assert list(answers) == [["127.0.0.1"]], "each delivery asks once"
    assert receiver.connections == 0


# TLS


@dataclass(frozen=True)
class Certificate:
    """A certificate for hooks.example.test and 127.0.0.1, which is its own authority."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("tls")
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=tests"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=DNS:hooks.example.test,IP:127.0.0.1"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-keyout", str(made.key), "-out", str(made.certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return made


def test_a_certificate_of_an_unknown_authority_is_not_accepted(
    receive: Receive, certificate: Certificate
) -> None:
    receiver = receive(answering(OK), tls=certificate.server_context())
    outcome = post(f"https://127.0.0.1:{receiver.port}/", ssl_context=None)
    assert (outcome.ok, outcome.status) == (False, None)
    assert outcome.error is not None
    assert outcome.error.startswith("The receiver's certificate was not accepted: self")
    assert receiver.client_hung_up.wait(PATIENCE_SECONDS)
    assert receiver.requests.empty()


@pytest.mark.parametrize("host", ["hooks.example.test", "127.0.0.1"])
def test_a_certificate_is_accepted_under_its_own_names(
    receive: Receive, certificate: Certificate, host: str
) -> None:
    context = certificate.server_context()
    receiver = receive(answering(OK), tls=context)
    context.sni_callback = lambda connection, name, _: receiver.server_names.append(name)
    outcome = post(
        f"https://{host}:{receiver.port}/hook",
        ssl_context=certificate.client_context(),
        resolve=resolving_to("127.0.0.1"),
    )
    assert (outcome.ok, outcome.body) == (True, "hello")
    received = receiver.received()
    assert received.values("Host") == [f"{host}:{receiver.port}"]
    assert received.body == PAYLOAD
    # RFC 6066 section 3: addresses are not sent as server names.
    assert receiver.server_names == [None if host == "127.0.0.1" else host]


def test_a_certificate_is_not_accepted_under_another_name(
    receive: Receive, certificate: Certificate
) -> None:
    receiver = receive(answering(OK), tls=certificate.server_context())
    outcome = post(
        f"https://other.example.test:{receiver.port}/",
        ssl_context=certificate.client_context(),
        resolve=resolving_to("127.0.0.1"),
    )
    assert outcome.error is not None
    assert "Hostname mismatch" in outcome.error
    assert receiver.client_hung_up.wait(PATIENCE_SECONDS)
    assert receiver.requests.empty()


def test_a_receiver_that_does_not_speak_tls_fails(receive: Receive) -> None:
    def converse(receiver: Receiver, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    outcome = post(f"https://127.0.0.1:{receive(converse).port}/")
    assert outcome.error is not None
    assert outcome.error.startswith("TLS with the receiver failed")


def test_large_payloads_and_huge_answers_pass_through_tls(
    receive: Receive, certificate: Certificate
) -> None:
    def converse(receiver: Receiver, connection: socket.socket) -> None:
        receiver.read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not receiver.closing.is_set():
            connection.sendall(b"x" * 65536)

    receiver = receive(converse, tls=certificate.server_context())
    payload = os.urandom(1_000_000)
    trusting = client(ssl_context=certificate.client_context())
    outcome = trusting.post_json(f"https://127.0.0.1:{receiver.port}/", payload, {})
    assert (outcome.ok, outcome.body) == (True, "x" * BODY_EXCERPT_BYTES)
    assert receiver.received().body == payload


@pytest.mark.parametrize("farewell", [True, False])
def test_an_answer_over_tls_may_end_with_the_connection(
    receive: Receive, certificate: Certificate, farewell: bool
) -> None:
    def converse(receiver: Receiver, connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        receiver.read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")
        if farewell:
            connection.unwrap()

    receiver = receive(converse, tls=certificate.server_context())
    outcome = post(f"https://127.0.0.1:{receiver.port}/", ssl_context=certificate.client_context())
    assert (outcome.ok, outcome.body, outcome.error) == (True, "hello", None)


def test_a_dripped_tls_record_ends_at_the_deadline(
    receive: Receive, certificate: Certificate
) -> None:
    def converse(receiver: Receiver, connection: socket.socket) -> None:
        receiver.read_request(connection)
        with socket.socket(fileno=os.dup(connection.fileno())) as beneath:
            beneath.sendall(b"\x17\x03\x03\x40\x00")
            receiver.drip(beneath.sendall)

    receiver = receive(converse, tls=certificate.server_context())
    outcome = post(
        f"https://127.0.0.1:{receiver.port}/",
        ssl_context=certificate.client_context(),
        deadline_seconds=0.5,
    )
    assert (outcome.status, outcome.error) == (None, "The delivery took longer than 0.5 s")
    assert outcome.duration_seconds < 3


# The same under gevent


@pytest.mark.skipif(UNDER_GEVENT in os.environ, reason="this is that run")
def test_all_of_this_holds_in_a_process_patched_by_gevent() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "gevent.monkey", "--module", "pytest", "-q", __file__],
        check=False,
        env=os.environ | {UNDER_GEVENT: "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
