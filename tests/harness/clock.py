"""A clock that tests move by hand."""

from __future__ import annotations

from app.domain.clock import Clock


class FakeClock(Clock):
    """Stands still at the time of its making, until it is moved.

    Its monotonic side runs on with the system's, moved by the same amounts:
    leases compare it with the system's, which no test can move.
    """

    def __init__(self) -> None:
        self._now_ms = super().now_ms()
        self._moved_seconds = 0.0

    def now_ms(self) -> int:
        """See Clock."""
        return self._now_ms

    def monotonic(self) -> float:
        """See Clock."""
        return super().monotonic() + self._moved_seconds

    def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move both sides on."""
        self._now_ms += int(seconds * 1000)
        self._moved_seconds += seconds

    def set_wall_clock_back(self, seconds: float) -> None:
        """Do what an operator or NTP may do: the monotonic side does not notice."""
        self._now_ms -= int(seconds * 1000)
