"""The file of a form as a body: three kinds, by how its end is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from app.buffers import page_aligned
from app.errors import MalformedRequest
from app.ingest.body import Body
from app.storage.spool import Spool

#: What is taken at a time where the parser has to look for the file's end.
_PIECE_BYTES = 256 * 1024


class Framing(Protocol):
    """What frames the file: the form's body, and the parser of all that is not the file."""

    body: Body

    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def skip(self, count: int) -> None: ...

    def finish(self) -> None: ...


class _File(Body):
    """The file of a form: what its two kinds have in common."""

    def __init__(self, form: Framing, length: int | None) -> None:
        super().__init__(length)
        self._form = form
        self._whole = form.body

    def wait(self, timeout_seconds: float) -> None:
        self._whole.wait(timeout_seconds)

    def wake(self) -> None:
        self._whole.wake()

    def more_within(self, milliseconds: int) -> bool:
        return self.ended or self._whole.more_within(milliseconds)

    def idle_seconds(self) -> float:
        return self._whole.idle_seconds()

    def close(self) -> None:
        self._whole.close()


class LastFile(_File):
    """A file of known length that is the last part. The parser sees what follows it."""

    def __init__(self, form: Framing, ahead: bytes, length: int, tail_bytes: int) -> None:
        super().__init__(form, length)
        self._ahead = memoryview(ahead)
        self._left = length
        self._tail = memoryview(bytearray(tail_bytes))
        self._tail_filled = 0

    @property
    def ended(self) -> bool:
        return self._tail_filled == len(self._tail)

    def wait(self, timeout_seconds: float) -> None:
        if not self._ahead:
            super().wait(timeout_seconds)

    def take(self, buffer: memoryview) -> int:
        count = self._take(buffer[: self._left]) if self._left else 0
        self._left -= count
        self.received += count
        if not self._left:
            self._tail_filled += self._take(self._tail[self._tail_filled :])
            if self.ended:
                self._form.skip(self.received)
                for _ in self._form.feed(bytes(self._tail)):
                    raise MalformedRequest("The form's last boundary is not where it must be")
                self._form.finish()
        return count

    def _take(self, buffer: memoryview) -> int:
        if not self._ahead:
            count = self._whole.take(buffer)
            self.cut = self._whole.cut
            return count
        count = min(len(buffer), len(self._ahead))
        buffer[:count] = self._ahead[:count]
        self._ahead = self._ahead[count:]
        return count


class SoughtFile(_File):
    """A file whose end has to be looked for: of unknown length, or with parts behind it."""

    def __init__(self, form: Framing, ahead: bytes) -> None:
        super().__init__(form, None)
        self._scratch = page_aligned(_PIECE_BYTES)
        self._pieces: list[memoryview] = []
        self._parsed = False
        self._parse(ahead)

    @property
    def ended(self) -> bool:
        return self._parsed and not self._pieces

    def wait(self, timeout_seconds: float) -> None:
        if not self._pieces:
            super().wait(timeout_seconds)

    def take(self, buffer: memoryview) -> int:
        if not self._pieces:
            count = self._whole.take(self._scratch)
            self.cut = self._whole.cut
            self._parse(bytes(self._scratch[:count]))
        filled = 0
        while self._pieces and filled < len(buffer):
            piece = self._pieces[0]
            count = min(len(piece), len(buffer) - filled)
            buffer[filled : filled + count] = piece[:count]
            filled += count
            self._pieces[:1] = [piece[count:]] if count < len(piece) else []
        self.received += filled
        return filled

    def _parse(self, data: bytes) -> None:
        if data:
            self._pieces += map(memoryview, self._form.feed(data))
        if self._whole.ended and not self._parsed:
            self._form.finish()
            self._parsed = True


class SpooledFile(Body):
    """A file that has come whole and is read again."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool.length)
        self._spool = spool

    @property
    def ended(self) -> bool:
        return self.received == self.length

    def wait(self, timeout_seconds: float) -> None:
        """See Body. It is all here."""

    def wake(self) -> None:
        """See Body. Nobody waits."""

    def take(self, buffer: memoryview) -> int:
        count = self._spool.read_into(buffer, self.received)
        self.received += count
        return count

    def more_within(self, milliseconds: int) -> bool:
        return True

    def idle_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        """See Body. The spool is its owner's."""
