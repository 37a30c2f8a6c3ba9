"""Requests and answers over one connection to a share, for many threads at once.

Whoever needs an answer that is not there yet reads for all (``smb_turns``), so no
thread has to stay beside a connection, a request costs no change of threads, and
nothing here knows gevent. Locks are the system's own: native threads use them.

How many requests may be on their way is the server's decision (credits, MS-SMB2
3.2.4.1.2). A server that is silent for the whole timeout while somebody waits is
given up, and with it everything on the connection. One that has said that an
answer will take its time (STATUS_PENDING: flushing a large file may) is asked
for a sign of life instead.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator, Sequence

from app.native_threads import native_lock
from app.storage import files
from app.storage import smb_requests as requests
from app.storage.smb_errors import ENDED, ConnectionLost, Refused, Status, TimedOut
from app.storage.smb_exchange import Exchange, lay_out, pack_headers
from app.storage.smb_header import HEADER_BYTES, answer_of
from app.storage.smb_inbox import Inbox
from app.storage.smb_login import Login
from app.storage.smb_requests import Command
from app.storage.smb_seal import LENGTH_BYTES, BadSeal
from app.storage.smb_socket import bound_calls, is_quiet, reset, send_all
from app.storage.smb_turns import Turns

#: Bytes that one credit stands for (MS-SMB2 3.2.4.1.5).
_CREDIT_BYTES = 64 * 1024

#: Credits asked for: 16 MiB on their way. Servers grant up to 512 (Windows) or
#: 8192 (Samba), small ones less.
_WANTED_CREDITS = 256

#: Moved with one request where the server takes so much. A tenth of the CPU less than
#: with half as much (docs/performance.md).
PIECE_BYTES = 2 * 1024 * 1024

_NOTHING = memoryview(b"")

#: What can go wrong in the middle of a connection, which is then of no more use.
_FATAL = (OSError, BadSeal, ValueError, struct.error, ConnectionLost)


class Channel:
    """One connection, logged in. Blocks; safe in many native threads at once."""

    def __init__(self, login: Login, timeout_seconds: float) -> None:
        self._login = login
        self._seal = login.seal
        self._sock = login.sock
        bound_calls(self._sock, timeout_seconds)
        self._inbox = Inbox(self._sock)
        self._sending = native_lock()
        self._turns = Turns()
        self._state = self._turns.lock  # guards all below
        self._message_id = login.message_id
        self._credits = login.credits
        self._charged = 0  # credits of what is on its way
        self._exchanges: dict[int, Exchange] = {}
        self._users = 0  # threads in calls on the socket
        self._lost: ConnectionLost | None = None
        self._echo: Exchange | None = None  # the reader's own

    def __del__(self) -> None:
        self._sock.close()

    @property
    def is_lost(self) -> bool:
        """Whether it is of no use any more."""
        return self._lost is not None

    @property
    def write_bytes(self) -> int:
        """Return how much is best written with one request."""
        return min(self._login.max_write_bytes, self._payable_bytes())

    @property
    def read_bytes(self) -> int:
        """Return how much is best read with one request."""
        return min(self._login.max_read_bytes, self._payable_bytes())

    def call(self, command: Command, body: bytes, *, payload_bytes: int = 0) -> memoryview:
        """Send a request and return the answer, of which ``payload_bytes`` are expected.

        Raises Refused, ConnectionLost.
        """
        return self.finish(self.start(command, body, payload_bytes=payload_bytes))

    def call_related(self, *sent: tuple[Command, bytes]) -> list[memoryview]:
        """Send requests about one file in one go; return the answers, none of them large.

        All but the first name the file SAME_HANDLE, or its handle. The server
        carries them out one after the other. Raises Refused for the first that
        was refused, ConnectionLost.
        """
        exchanges, buffer = lay_out(sent)
        self._send(exchanges, buffer)
        for exchange in exchanges:
            self.settle(exchange)
        return [self.finish(exchange) for exchange in exchanges]

    def start(
        self,
        command: Command,
        body: bytes,
        data: memoryview = _NOTHING,
        *,
        payload_bytes: int = 0,
    ) -> Exchange:
        """Send a request with ``data`` behind ``body``, and return without its answer.

        The data are the caller's again on return: nothing here keeps them.
        ``finish`` or ``settle`` must follow. Raises ConnectionLost.
        """
        buffer = bytearray(LENGTH_BYTES + HEADER_BYTES) + body
        payload_bytes = max(payload_bytes, len(data))
        charge = max(1, -(-payload_bytes // _CREDIT_BYTES)) if self._login.multi_credit else 1
        exchange = Exchange(command, charge)
        self._send([exchange], buffer, data)
        return exchange

    def finish(self, exchange: Exchange) -> memoryview:
        """Wait for an answer and return it. Raises Refused, ConnectionLost."""
        self.settle(exchange)
        if exchange.status == Status.SUCCESS:
            return exchange.answer
        error = Refused(exchange.status or 0)
        if error.status in ENDED:
            self.close(ConnectionLost(str(error)))
            raise ConnectionLost(str(error)) from error
        raise error

    def settle(self, exchange: Exchange) -> None:
        """Wait until a request has been answered, whatever the answer. Raises ConnectionLost."""
        self._wait(lambda: exchange.status is not None)

    def is_stale(self) -> bool:
        """Tell whether the server has ended the connection while nobody looked."""
        with self._state:
            if self._lost is not None or self._exchanges:
                return self._lost is not None
            return not is_quiet(self._sock)

    def close(self, reason: ConnectionLost | None = None) -> None:
        """End the connection at once; whoever waits for an answer gets ``reason``.

        What was not sent yet never will be: a server that wakes up later must
        not write what another request has replaced meanwhile.
        """
        with self._state:
            if self._lost is not None:
                return
            self._lost = reason or ConnectionLost("the connection was closed")
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes whoever is in a call
            self._turns.end()
            self._reset_unused()

    def abandon(self) -> None:
        """Let go of a connection of the process that this one was forked from."""
        self._lost = ConnectionLost("the connection is another process's")
        files.close(self._sock.detach())

    def _payable_bytes(self) -> int:
        granted = self._credits + self._charged if self._login.multi_credit else 1
        return min(PIECE_BYTES, max(1, granted) * _CREDIT_BYTES)

    @contextlib.contextmanager
    def _on_socket(self) -> Iterator[None]:
        """Keep the socket open within; whatever goes wrong with it ends the connection."""
        with self._state:
            self._require_life()
            self._users += 1
        try:
            yield
        except _FATAL as error:
            self.close(_lost_by(error))
            raise _lost_by(error) from error
        finally:
            with self._state:
                self._users -= 1
                self._reset_unused()

    def _reset_unused(self) -> None:
        if self._lost is not None and not self._users:
            reset(self._sock)

    def _require_life(self) -> None:
        if self._lost is not None:
            raise _lost_by(self._lost)

    def _send(
        self, exchanges: Sequence[Exchange], buffer: bytearray, data: memoryview = _NOTHING
    ) -> None:
        """Send requests, ``data`` behind the last, as soon as there are credits for them."""
        charge = sum(exchange.charge for exchange in exchanges)
        while not self._try_send(exchanges, buffer, data):
            self._wait(lambda: self._credits >= charge or not self._exchanges)

    def _try_send(
        self, exchanges: Sequence[Exchange], buffer: bytearray, data: memoryview = _NOTHING
    ) -> bool:
        """Send requests; False if they must wait for credits."""
        login = self._login
        with self._on_socket(), self._sending:
            with self._state:
                if self._credits < sum(exchange.charge for exchange in exchanges):
                    if self._exchanges:
                        return False
                    raise ConnectionLost("the server grants too few credits")
                for exchange in exchanges:
                    exchange.message_id = self._message_id
                    self._exchanges[self._message_id] = exchange
                    self._message_id += exchange.charge
                    self._credits -= exchange.charge
                    self._charged += exchange.charge
                missing = max(0, _WANTED_CREDITS - self._credits - self._charged)
            pack_headers(
                exchanges,
                buffer,
                session_id=login.session_id,
                tree_id=login.tree_id,
                multi_credit=login.multi_credit,
                more_credits=missing,
            )
            try:
                send_all(self._sock, self._seal.close(buffer, data))
            except BlockingIOError:
                raise TimedOut("the server takes nothing") from None
        return True

    def _wait(self, until: Callable[[], bool]) -> None:
        """Read answers, or let another thread read them, until the condition holds."""
        if not self._turns.wait(until, self._read):
            with self._state:
                self._require_life()

    def _read(self, until: Callable[[], bool]) -> None:
        """Read answers until the condition holds; nobody else reads meanwhile."""
        with self._on_socket():
            while not until():
                try:
                    content = self._inbox.next()
                except BlockingIOError:
                    self._ask_for_life()
                    continue
                for message in self._seal.open(content):
                    self._deliver(message)

    def _ask_for_life(self) -> None:
        """Ask a server that has been silent whether it lives; raises TimedOut if that is no use."""
        asked = self._echo is not None and self._echo.status is None
        with self._state:
            busy = any(exchange.interim for exchange in self._exchanges.values())
        if asked or not busy:
            raise TimedOut("the server does not answer")
        body = requests.echo()
        self._echo = Exchange(Command.ECHO, charge=1)
        buffer = bytearray(LENGTH_BYTES + HEADER_BYTES) + body
        if not self._try_send([self._echo], buffer):
            raise TimedOut("the server has not answered anything")

    def _deliver(self, message: memoryview) -> None:
        answer = answer_of(message)
        with self._state:
            self._credits += answer.credits
            exchange = self._exchanges.get(answer.message_id)
            if exchange is None:
                raise ConnectionLost("the server answers what was not asked")
            if answer.status == Status.PENDING:
                exchange.interim = True
                return
            del self._exchanges[answer.message_id]
            self._charged -= exchange.charge
            exchange.answer, exchange.status = message, answer.status
            self._turns.tell()


def _lost_by(error: BaseException) -> ConnectionLost:
    """Return a new ConnectionLost of the kind and with the words of ``error``."""
    kind = TimedOut if isinstance(error, TimedOut) else ConnectionLost
    return kind(str(error) or type(error).__name__)
