"""Direct parts: what a client sends goes straight into UploadPart, without touching a disk.

S3's client takes a body from a file, a request's bytes come when they come, so
the two meet in between: the writer lends each buffer until the sender, a thread
of its own (in a gevent worker a greenlet), has sent it. Nothing is copied, and a
part of any size takes the memory of one buffer.

The last byte is held back until ``commit``. Before it the server has no part,
whatever happens: a body that turns out to be wrong leaves nothing.
"""

from __future__ import annotations

import threading
from typing import IO, NoReturn, cast

from botocore.exceptions import BotoCoreError, ClientError

from app.errors import PartsLost
from app.native_threads import NativePool
from app.storage.base import PartWriter, StagedObject
from app.storage.s3_client import Clients
from app.storage.s3_digests import new_digest, proven
from app.storage.s3_errors import GONE, code_of, contract_error

#: What is sent at a time. botocore encodes bodies with checksums by cutting off
#: 16 KiB after 16 KiB, each time copying the rest: large pieces cost it most.
_CHECKSUMMED_PIECE_BYTES = 64 * 1024

#: Digests of buffers, beside the hub: more threads than cores gain nothing.
_DIGEST_THREADS = 4

_digest_pool = NativePool(_DIGEST_THREADS)


class GivenUp(Exception):
    """The writer has given the part up: the sender's connection must end."""


class LentBody:
    """A request's body that is lent by one thread, piece by piece, and sent by another."""

    def __init__(self, length: int, piece_bytes: int | None) -> None:
        self._turn = threading.Condition()
        self._left = self._length = length
        self._piece_bytes = piece_bytes
        self._lent = memoryview(b"")
        self._sending = 0
        self._given_up = False
        self._over = False

    def __len__(self) -> int:
        """Return the length of the whole body, which botocore asks for."""
        return self._length

    def read(self, _size: int = -1) -> memoryview | bytes:
        """Return the next piece, however long, b"" at the end; the one before has been sent.

        Senders ask for 16 KiB at a time and send whatever they get: a piece as
        large as what was lent spares a system call for each 16 KiB.
        """
        with self._turn:
            self._lent = self._lent[self._sending :]
            self._sending = 0
            if not self._lent:
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._lent or self._given_up or not self._left)
            if self._given_up:
                raise GivenUp
            piece = self._lent[: self._piece_bytes]
            self._sending = len(piece)
            self._left -= len(piece)
            return piece

    def lend(self, buffer: memoryview) -> None:
        """Let the sender have the next bytes; returns at once."""
        with self._turn:
            self._lent = buffer
            self._turn.notify_all()

    def wait_until_sent(self) -> bool:
        """Wait until the buffer is free again; False if the sender ended before."""
        with self._turn:
            self._turn.wait_for(lambda: self._over or not self._lent)
            return not self._lent

    def give_up(self) -> None:
        """End the sender's connection at its next read."""
        with self._turn:
            self._given_up = True
            self._turn.notify_all()

    def end(self) -> None:
        """Note that the sender has ended."""
        with self._turn:
            self._over = True
            self._turn.notify_all()


class DirectWriter(PartWriter):
    """Sends one part while it is written. Buffers are digested in native threads."""

    def __init__(
        self,
        clients: Clients,
        staged: StagedObject,
        s3_upload_id: str,
        index: int,
        length: int,
        *,
        checksums_sent: bool,
    ) -> None:
        self._length = length
        self._written = 0
        self._held = b""
        self._finished = False
        self._digest = new_digest(checksums_sent)
        self._body = LentBody(length, _CHECKSUMMED_PIECE_BYTES if checksums_sent else None)
        self._answer: dict[str, object] = {}
        self._error: Exception | None = None
        client = clients.streams(checksums_sent=checksums_sent)

        def send() -> None:
            try:
                self._answer = client.upload_part(  # type: ignore[assignment]
                    Bucket=clients.place.bucket,
                    Key=staged.target_key,
                    UploadId=s3_upload_id,
                    PartNumber=index + 1,
                    Body=cast(IO[bytes], self._body),  # has all that is asked of it
                    ContentLength=length,
                )
            except Exception as error:  # noqa: BLE001 - raised in the writer's thread
                self._error = error
            finally:
                self._body.end()

        self._sender = threading.Thread(target=send, name="upload-part", daemon=True)
        self._sender.start()

    def write(self, buffer: memoryview) -> None:
        """See PartWriter."""
        self._require_unfinished()
        if not buffer:
            return
        self._written += len(buffer)
        ready = buffer
        if self._written == self._length:
            ready, self._held = buffer[:-1], bytes(buffer[-1:])
        try:
            self._body.lend(ready)
            _digest_pool.run(lambda: self._digest.update(buffer))
            if not self._body.wait_until_sent():
                self._raise_failure()
        except BaseException:
            self.abort()
            raise

    def commit(self, *, durable: bool) -> str | None:
        """See PartWriter. The server keeps what it acknowledges; ``durable`` changes nothing."""
        self._require_unfinished()
        if self._written != self._length:
            raise ValueError(f"{self._written} of {self._length} bytes were written")
        self._finished = True
        try:
            self._body.lend(memoryview(self._held))
            self._sender.join()
        except BaseException:
            self._body.give_up()
            raise
        if self._error is not None:
            self._raise_failure()
        return proven(self._digest, self._answer).to_text()

    def abort(self) -> None:
        """See PartWriter. A sender that waits for the network ends by itself, sooner or later."""
        if not self._finished:
            self._finished = True
            self._body.give_up()

    def _require_unfinished(self) -> None:
        if self._finished:
            raise ValueError("the writer is finished")

    def _raise_failure(self) -> NoReturn:
        """Raise what the sender's end means."""
        error = self._error
        if isinstance(error, ClientError | BotoCoreError):
            raise (PartsLost() if code_of(error) in GONE else contract_error(error)) from error
        assert error is not None, "the sender ends early only with an error"
        raise error
