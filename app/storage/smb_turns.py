"""Waiting in turns: of the threads that wait, one reads for all.

Its own condition ends its turn; where another thread's has come true, that one
goes on at once. So nobody has to stay beside a connection only to read from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.native_threads import native_lock


class Turns:
    """Waiting for conditions that come true as somebody reads. ``lock`` guards what they see."""

    def __init__(self) -> None:
        self.lock: Any = native_lock()
        self._reading = False
        self._ended = False
        self._waiting: list[tuple[Callable[[], bool], Any]] = []

    def wait(self, until: Callable[[], bool], read: Callable[[Callable[[], bool]], None]) -> bool:
        """Return True once ``until()`` holds, False if it does not at the end.

        It is asked with the lock held. Where nobody reads, ``read(until)`` is
        called: it must read until that holds, or raise.
        """
        while True:
            with self.lock:
                if until() or self._ended:
                    return until()
                ticket = native_lock() if self._reading else None
                if ticket is not None:
                    ticket.acquire()
                    self._waiting.append((until, ticket))
                self._reading = True
            if ticket is not None:
                ticket.acquire()  # until the condition holds, or it is this thread's turn to read
                continue
            try:
                read(until)
            finally:
                with self.lock:
                    self._reading = False
                    if self._waiting:
                        self._waiting.pop(0)[1].release()

    def tell(self) -> None:
        """Wake those whose condition holds by now; the caller has the lock."""
        due = [entry for entry in self._waiting if entry[0]()]
        for entry in due:
            self._waiting.remove(entry)
            entry[1].release()

    def end(self) -> None:
        """Wake everybody, for good; the caller has the lock."""
        self._ended = True
        for _, ticket in self._waiting:
            ticket.release()
        self._waiting.clear()
