"""What a request's body is to the rest of the program: bytes, read once, front to back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

WSGIEnvironment = dict[str, Any]

#: How long a job waits for a fast client's next bytes before it gives the thread back.
LINGER_MILLISECONDS = 2


class Body(ABC):
    """A request's body, read once from front to back.

    ``length`` is the Content-Length in bytes, None for chunked encoding.
    ``received`` counts the bytes taken so far. ``cut`` is set when the
    connection ended before the body did, ``ended`` when the body is complete.
    ``splices``: ``splice`` may be called.
    """

    splices = False

    def __init__(self, length: int | None) -> None:
        self.length = length
        self.received = 0
        self.cut = False

    @property
    @abstractmethod
    def ended(self) -> bool:
        """True when every byte of the body has been taken."""

    @abstractmethod
    def wait(self, timeout_seconds: float) -> None:
        """Wait in the calling greenlet until it is worth taking bytes, or the time is up."""

    @abstractmethod
    def wake(self) -> None:
        """End the ``wait`` that is under way: there is something else to look at."""

    @abstractmethod
    def take(self, buffer: memoryview) -> int:
        """Move bytes that are here already into ``buffer``; return how many, 0 for none now.

        Called in a native thread; never blocks. Sets ``cut`` at a premature end.
        """

    def splice(self, pipe: int, count: int) -> int:
        """Move up to ``count`` bytes that are here already into an empty pipe; as ``take``.

        Also 0 where the system cannot do that: then ``splices`` is no longer set.
        """
        raise NotImplementedError

    @property
    def trailers(self) -> Mapping[str, str]:
        """Fields that came behind an ended body (RFC 9110 section 6.5), names in lower case."""
        return {}

    @abstractmethod
    def more_within(self, milliseconds: int) -> bool:
        """Wait in a native thread until more bytes are here; False if none came."""

    @abstractmethod
    def idle_seconds(self) -> float:
        """Return the seconds since the last byte arrived from the network."""

    @abstractmethod
    def close(self) -> None:
        """Hand the connection back: usable if the body was taken whole, else to be closed."""
