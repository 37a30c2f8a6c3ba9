"""Parts written to a share: each through a handle of its own, several requests on their way.

A write returns when its bytes are sent, not when the server has answered, so the
server writes while more is received and hashed here. What it answers is looked
at a few requests later, and the rest by ``commit``.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from app.errors import PartsLost
from app.storage import smb_requests as requests
from app.storage.base import PartWriter
from app.storage.smb_errors import ConnectionLost, Refused, Status, translated
from app.storage.smb_exchange import Exchange
from app.storage.smb_files import ShareFile
from app.storage.smb_requests import Command
from app.storage.smb_share import Lane, Share

#: Requests of one part on their way: 8 MiB, as much as a link of 10 Gbit/s holds in 6 ms.
_ON_THEIR_WAY = 4

_FINISHED = "the writer is finished"


class _Sent(NamedTuple):
    exchange: Exchange
    length: int


class SmbWriter(PartWriter):
    """Writes at its own running offset of an open staged file; it owns ``file`` and ``lane``."""

    def __init__(self, share: Share, lane: Lane, file: ShareFile, key: str, offset: int) -> None:
        self._share = share
        self._lane = lane
        self._file = file
        self._key = key
        self._offset = offset
        self._sent: deque[_Sent] = deque()
        self._finished = False

    def write(self, buffer: memoryview) -> None:
        """See PartWriter."""
        self._require_unfinished()
        self._share.off_hub(lambda: self._write(buffer))

    def commit(self, *, durable: bool) -> str | None:
        """See PartWriter. PartsLost if the file was removed while it was written."""
        self._require_unfinished()
        return self._share.off_hub(lambda: self._commit(durable))

    def abort(self) -> None:
        """See PartWriter.

        Waits for what is on its way: nothing of it may be written after this
        returns, when another request may be writing the same part.
        """
        if not self._finished:
            self._share.off_hub(self._finish)

    def _require_unfinished(self) -> None:
        if self._finished:
            raise ValueError(_FINISHED)

    def _write(self, buffer: memoryview) -> None:
        channel, handle = self._file.channel, self._file.handle
        with translated(self._key):
            while buffer:
                if len(self._sent) >= _ON_THEIR_WAY:
                    self._settle()
                piece = buffer[: channel.write_bytes]
                body = requests.write(handle, self._offset, len(piece))
                exchange = channel.start(Command.WRITE, body, piece)
                self._sent.append(_Sent(exchange, len(piece)))
                self._offset += len(piece)
                buffer = buffer[len(piece) :]

    def _settle(self) -> None:
        """Look at the answer to the oldest request.

        A server that takes less than all has no room for the rest; Linux's own
        client sees it so, too.
        """
        exchange, length = self._sent.popleft()
        if requests.written_bytes(self._file.channel.finish(exchange)) < length:
            raise Refused(Status.DISK_FULL)

    def _commit(self, durable: bool) -> str | None:
        try:
            with translated(self._key):
                while self._sent:
                    self._settle()
                if durable:
                    self._file.flush()
                linked = self._file.close_checked().linked
        finally:
            self._finish()
        if not linked:
            raise PartsLost()
        return None

    def _finish(self) -> None:
        self._finished = True
        try:
            while self._sent:
                self._file.channel.settle(self._sent.popleft().exchange)
            self._file.close()
        except ConnectionLost:
            pass  # nothing is on its way any more
        finally:
            self._share.leave_lane(self._lane)
