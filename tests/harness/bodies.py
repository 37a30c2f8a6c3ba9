"""Request bodies that come as a test wants, without a network."""

from __future__ import annotations

from collections.abc import Iterable

from app.ingest.body import Body


class PieceBody(Body):
    """A body that arrives in ``pieces``; one take never gets bytes of two of them.

    Of known length unless ``chunked``. ``cut``: the connection ends behind them.
    """

    def __init__(self, pieces: Iterable[bytes], *, chunked: bool = False, cut: int = 0) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._left = sum(map(len, self._pieces)) + cut
        super().__init__(None if chunked else self._left)

    @property
    def ended(self) -> bool:
        """See Body."""
        return not self._left

    def wait(self, timeout_seconds: float) -> None:
        """See Body."""

    def wake(self) -> None:
        """See Body."""

    def take(self, buffer: memoryview) -> int:
        """See Body."""
        if not self._pieces:
            self.cut = self._left > 0
            return 0
        piece = self._pieces[0]
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        self._pieces[:1] = [piece[count:]] if count < len(piece) else []
        self._left -= count
        self.received += count
        return count

    def more_within(self, milliseconds: int) -> bool:
        """See Body."""
        return bool(self._pieces)

    def idle_seconds(self) -> float:
        """See Body."""
        return 0.0

    def close(self) -> None:
        """See Body."""


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut ``data`` into pieces at the places, in any order."""
    inside = sorted({place for place in places if 0 < place < len(data)})
    return [data[begin:end] for begin, end in zip([0, *inside], [*inside, len(data)], strict=True)]
