"""A sink that knows how much went through, for when a write fails."""

from __future__ import annotations

from app.ingest.pipes import PipeSink
from app.ingest.pump import Sink


class Counted:
    """Hands on to ``sink``; ``written`` counts the bytes of the writes that went well."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.written = 0

    @property
    def splices(self) -> bool:
        """See PipeSink."""
        return isinstance(self._sink, PipeSink) and self._sink.splices

    def write(self, buffer: memoryview) -> None:
        """See Sink."""
        self._sink.write(buffer)
        self.written += len(buffer)

    def write_from(self, pipe: int, count: int) -> None:
        """See PipeSink."""
        assert isinstance(self._sink, PipeSink)
        self._sink.write_from(pipe, count)
        self.written += count
