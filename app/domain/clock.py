"""Time, as services see it: handed in, so that a test can own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

#: Nobody sets it, all processes of a machine share it, and it goes on while the
#: machine sleeps: leases and their holders' deadlines must. macOS has it under the other name.
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Return the seconds since boot, sleep included."""
    return time.clock_gettime(_BOOT_CLOCK)


class Clock:
    """The system's clocks."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970 UTC (wall clock)."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return seconds on a clock that nobody sets; only differences mean anything."""
        return boot_seconds()

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass; other greenlets run meanwhile."""
        time.sleep(seconds)


def moment(milliseconds: int) -> datetime:
    """Return milliseconds since 1970 as an aware UTC time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def rfc3339(milliseconds: int) -> str:
    """Return milliseconds since 1970 as RFC 3339 in whole seconds with Z."""
    return moment(milliseconds).strftime("%Y-%m-%dT%H:%M:%SZ")
