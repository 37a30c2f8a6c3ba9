"""The load generator: a process of its own, ``python -m bench.client``.

Plain sockets and ``sendfile`` from the page cache, a process a connection, so
that the client is never what is measured (the ``sink`` row shows its ceiling).
Every response is read to its end and its status checked.

It reads one line of JSON, a ``Plan``, from stdin, opens the connections, sends
one body over each as a warm-up and prints ``ready``. On the next line it sends
the rest: each connection takes the next transfer of the plan when it is free.
It prints one line of JSON: ``{"seconds", "cpu_seconds"}`` or ``{"error"}``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

_MAX_HEAD_BYTES = 64 * 1024
#: Thrown away by one call.
_DISCARD_BYTES = 4 * 1024 * 1024
#: Read at a time while a chunk's length is looked for: what is data is read for nothing.
_CHUNK_HEAD_BYTES = 64
#: A receiver that is silent for so long has failed.
_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """One request: ``head``, ``length`` bytes of the source from ``offset``, ``tail``.

    ``head`` is the request line, the headers, the empty line, and what a
    multipart body has before the file; ``tail`` what it has behind it.
    ``status`` is the answer expected. ``sync_path``: a file that the client
    itself syncs after the answer, for receivers that never sync.
    ``answer_bytes``: what the answer must bring; it is thrown away unread.
    """

    head: str
    offset: int
    length: int
    status: int
    tail: str = ""
    sync_path: str | None = None
    answer_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Transfers over ``connections`` connections to 127.0.0.1:``port``; the first are warm-up.

    A connection takes the next of them when it is free. ``in_turns``: connection
    ``i`` of ``n`` sends ``i``, ``i + n``, ``i + 2n`` and so on, whatever the others do.
    """

    port: int
    source: str
    connections: int
    transfers: Sequence[Transfer]
    in_turns: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        fields = json.loads(text)
        transfers = [Transfer(**transfer) for transfer in fields.pop("transfers")]
        return cls(transfers=transfers, **fields)


class TransferFailed(Exception):
    """The receiver answered something else than expected, or not at all."""


def put_head(path: str, length: int, headers: Sequence[tuple[str, str]] = ()) -> str:
    """Return the head of a PUT of ``length`` bytes."""
    return request_head("PUT", path, length, headers)


def get_head(path: str, headers: Sequence[tuple[str, str]] = ()) -> str:
    """Return a GET."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines.extend(f"{name}: {value}" for name, value in headers)
    return "\r\n".join([*lines, "", ""])


def request_head(
    method: str, path: str, length: int, headers: Sequence[tuple[str, str]] = ()
) -> str:
    """Return the head of a request with ``length`` bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}"]
    lines.extend(f"{name}: {value}" for name, value in headers)
    return "\r\n".join([*lines, "", ""])


def parse_response_head(head: bytes) -> tuple[int, int | None, bool]:
    """Return status, Content-Length and whether the connection stays open (RFC 9112).

    The length is None for a chunked answer.
    """
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ", 2)[1])
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    stays_open = headers.get("connection", "").lower() != "close"
    return status, None if chunked else int(headers.get("content-length", "0")), stays_open


class HttpConnection:
    """A connection to the receiver, opened again where the receiver closes it by announcement."""

    def __init__(self, port: int, source: int) -> None:
        self._port = port
        self._source = source
        self._unread = bytearray(_DISCARD_BYTES)
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), _TIMEOUT_SECONDS)
        # A blocking socket, with the kernel's own timeouts: Python's would make it non-blocking.
        connection.settimeout(None)
        timeval = struct.pack("ll", int(_TIMEOUT_SECONDS), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        return connection

    def send(self, transfer: Transfer) -> None:
        """Send one request and read its answer. Raises TransferFailed or OSError."""
        # MSG_MORE: the head leaves together with the first bytes of the body, if there are any.
        more = socket.MSG_MORE if transfer.length or transfer.tail else 0
        self._socket.sendall(transfer.head.encode("latin-1"), more)
        offset, end = transfer.offset, transfer.offset + transfer.length
        while offset < end:
            offset += os.sendfile(self._socket.fileno(), self._source, offset, end - offset)
        if transfer.tail:
            self._socket.sendall(transfer.tail.encode("latin-1"))
        status, body, stays_open = self._receive_response(transfer)
        if status != transfer.status:
            text = body[:500].decode(errors="replace")
            raise TransferFailed(f"answered {status} instead of {transfer.status}: {text}")
        if not stays_open:
            self._socket.close()
            self._socket = self._connect()
        if transfer.sync_path is not None:
            sync_file(transfer.sync_path)

    def _receive_response(self, transfer: Transfer) -> tuple[int, bytes, bool]:
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
            if len(received) > _MAX_HEAD_BYTES:
                raise TransferFailed("the answer's head does not end")
        head, _, body = received.partition(b"\r\n\r\n")
        status, length, stays_open = parse_response_head(head)
        if status == transfer.status and transfer.answer_bytes is not None:
            got = self._discard_chunks(body) if length is None else self._discard(body, length)
            if got != transfer.answer_bytes:
                raise TransferFailed(
                    f"the answer has {got} bytes instead of {transfer.answer_bytes}"
                )
            return status, b"", stays_open
        if length is None:
            raise TransferFailed("the answer has a Transfer-Encoding")
        while len(body) < length:
            body += self._receive()
        return status, body, stays_open

    def _discard(self, begun: bytes, length: int) -> int:
        """Let the kernel throw away what is left of ``length`` bytes, of which some are here."""
        left = length - len(begun)
        while left > 0:
            # tcp(7): with MSG_TRUNC the bytes are not even copied.
            count = self._socket.recv_into(
                self._unread, min(left, _DISCARD_BYTES), socket.MSG_TRUNC
            )
            if not count:
                raise TransferFailed("the connection was closed before the answer's end")
            left -= count
        return length

    def _discard_chunks(self, begun: bytes) -> int:
        """The same with a chunked answer (RFC 9112 section 7.1) without trailers."""
        got = 0
        while True:
            while b"\r\n" not in begun:
                begun += self._receive(_CHUNK_HEAD_BYTES)
            line, _, begun = begun.partition(b"\r\n")
            length = int(line, 16)
            framed = length + 2  # the line end behind the data
            self._discard(begun[:framed], framed)
            begun = begun[framed:]
            if not length:
                return got
            got += length

    def _receive(self, at_most: int = _MAX_HEAD_BYTES) -> bytes:
        data = self._socket.recv(at_most)
        if not data:
            raise TransferFailed("the connection was closed before the answer's end")
        return data


def sync_file(path: str) -> None:
    """Bring a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _connection_process(
    number: int, plan: Plan, following: Synchronized[int], control: Connection
) -> None:
    """Send the warm-up transfer ``number``, then its own, or whatever is ``following``."""
    try:
        with Path(plan.source).open("rb") as source:
            connection = HttpConnection(plan.port, source.fileno())
            connection.send(plan.transfers[number])
            control.send({})
            control.recv()
            cpu_before = _cpu_seconds()
            for index in _own_indexes(number, plan) if plan.in_turns else _shared(following, plan):
                connection.send(plan.transfers[index])
            end = time.monotonic()
            control.send({"end": end, "cpu_seconds": _cpu_seconds() - cpu_before})
    except (TransferFailed, OSError, ValueError, IndexError) as error:
        control.send({"error": f"{type(error).__name__}: {error}"})


def _own_indexes(number: int, plan: Plan) -> Iterable[int]:
    return range(number + plan.connections, len(plan.transfers), plan.connections)


def _shared(following: Synchronized[int], plan: Plan) -> Iterator[int]:
    while True:
        with following.get_lock():
            index = following.value
            following.value += 1
        if index >= len(plan.transfers):
            return
        yield index


def _answer(control: Connection) -> dict[str, Any]:
    try:
        message: dict[str, Any] = control.recv()
    except EOFError:
        message = {"error": "a connection's process died"}
    if "error" in message:
        raise TransferFailed(message["error"])
    return message


def run(plan: Plan) -> dict[str, float]:
    """Carry out a plan; waits for a line on stdin after the warm-up. Raises TransferFailed."""
    fork = multiprocessing.get_context("fork")
    following = fork.Value("q", plan.connections)
    controls, workers = [], []
    try:
        for number in range(plan.connections):
            ours, theirs = fork.Pipe()
            worker = fork.Process(
                target=_connection_process, args=(number, plan, following, theirs), daemon=True
            )
            worker.start()
            theirs.close()
            controls.append(ours)
            workers.append(worker)
        for control in controls:
            _answer(control)
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.monotonic()
        for control in controls:
            control.send("go")
        results = [_answer(control) for control in controls]
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
    return {
        "seconds": max(result["end"] for result in results) - start,
        "cpu_seconds": sum(result["cpu_seconds"] for result in results),
    }


def main() -> int:
    plan = Plan.from_json(sys.stdin.readline())
    try:
        print(json.dumps(run(plan)), flush=True)
    except TransferFailed as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
