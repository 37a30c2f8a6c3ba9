"""The share: a few connections of this process to it, made when needed, renewed when lost.

While the server is away nobody waits for it: one attempt at a time, with pauses
that grow, and whatever is asked in between fails at once with the reason of the
last failure. Connections belong to a process: after a fork they are made anew.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from app.errors import StorageUnavailable
from app.native_threads import NativePool, native_lock
from app.storage.smb_channel import Channel
from app.storage.smb_errors import (
    WRITE_REFUSED,
    ConnectionLost,
    LoginRefused,
    Refused,
    TimedOut,
)
from app.storage.smb_login import Target, log_in

T = TypeVar("T")

#: Pauses between attempts to connect, in seconds: the first, and the longest. A
#: refused login is not repeated quickly: servers lock accounts after a few.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0
_FIRST_LOGIN_PAUSE, _LONGEST_LOGIN_PAUSE = 5.0, 120.0

#: A connection that nobody has used for so long is not trusted: servers end idle
#: ones after 15 minutes (Windows), and what lies between forgets them sooner.
_IDLE_SECONDS = 300.0

#: A connection that may not write is made anew, but at most once in so long: servers
#: decide when a share is connected, and keep to that when its settings are changed.
_RENEWAL_SECONDS = 5.0

#: For callers in gevent's hub. As many as may wait for the server at once.
_THREADS = 16


class Lane:
    """A place for one connection. ``load`` is how many files and calls use it."""

    def __init__(self) -> None:
        self.lock = native_lock()
        self.channel: Channel | None = None
        self.load = 0
        self.used_at = 0.0
        self.connected_at = 0.0


class Share:
    """A share over up to ``connections`` connections. Nothing is connected before the first use."""

    def __init__(self, target: Target, *, connections: int, timeout_seconds: float) -> None:
        self._target = target
        self._connections = connections
        self._timeout_seconds = timeout_seconds
        self._threads = NativePool(_THREADS)
        self._start_anew()

    @property
    def location(self) -> str:
        """Return the share as people see it."""
        return f"smb://{_bracketed(self._target.host)}/{self._target.share}"

    @property
    def address(self) -> str:
        """Return what tells it from other shares."""
        return f"{_bracketed(self._target.host)}:{self._target.port}/{self._target.share}"

    def off_hub(self, work: Callable[[], T]) -> T:
        """Run ``work`` where it may block: here in a native thread, else in one of ours."""
        return self._threads.run(work)

    def use(self, work: Callable[[Channel], T]) -> T:
        """Run ``work`` with a connection, once more with a new one if that was lost.

        Or if it may not write and is old enough to be made anew. So ``work`` must be
        of a kind that can be repeated. Never called in the hub's thread. Raises
        StorageUnavailable, ConnectionLost, and what ``work`` does.
        """
        lane = self.take_lane()
        try:
            return self.use_lane(lane, work)
        finally:
            self.leave_lane(lane)

    def use_lane(self, lane: Lane, work: Callable[[Channel], T]) -> T:
        """Do as ``use``, with the connection of a lane that the caller has taken."""
        channel, is_new = self._connected(lane)
        try:
            return work(channel)
        except Refused as error:
            if is_new or error.status not in WRITE_REFUSED or not self._let_go(lane, channel):
                raise
        except ConnectionLost as error:
            if is_new or isinstance(error, TimedOut):
                raise
        channel, _ = self._connected(lane)
        return work(channel)

    def take_lane(self) -> Lane:
        """Return the lane with the least to do; ``leave_lane`` must follow."""
        if self._pid != os.getpid():
            self._start_anew()
        with self._lock:
            lane = min(self._lanes, key=lambda lane: lane.load)
            lane.load += 1
        return lane

    def leave_lane(self, lane: Lane) -> None:
        """Tell that a lane is not used any more by who took it."""
        with self._lock:
            lane.load -= 1

    def close(self) -> None:
        """End all connections. The share can be used again."""
        for lane in self._lanes:
            with lane.lock:
                if lane.channel is not None:
                    lane.channel.close()
                lane.channel = None

    def _connected(self, lane: Lane) -> tuple[Channel, bool]:
        """Return a lane's connection and whether it is new. Raises StorageUnavailable."""
        with lane.lock:
            channel, now = lane.channel, time.monotonic()
            idle = lane.load <= 1 and now - lane.used_at > _IDLE_SECONDS
            lane.used_at = now
            if channel is not None and not (channel.is_lost or idle or channel.is_stale()):
                return channel, False
            if channel is not None:
                channel.close()
            lane.channel = None
            lane.channel = self._connect()
            lane.connected_at = time.monotonic()
            return lane.channel, True

    def _let_go(self, lane: Lane, channel: Channel) -> bool:
        """End a lane's connection and say so, unless it is young or somebody else uses it, too."""
        with lane.lock:
            young = time.monotonic() - lane.connected_at < _RENEWAL_SECONDS
            if lane.channel is not channel or lane.load > 1 or young:
                return False
            lane.channel = None
        channel.close()
        return True

    def _start_anew(self) -> None:
        """Begin without connections; those of the process this was forked from stay its own."""
        for lane in getattr(self, "_lanes", []):
            if lane.channel is not None:
                lane.channel.abandon()
        self._pid = os.getpid()
        self._lock: Any = native_lock()
        self._lanes = [Lane() for _ in range(self._connections)]
        self._failures = 0
        self._next_try_at = 0.0
        self._problem: StorageUnavailable | None = None

    def _connect(self) -> Channel:
        with self._lock:
            if self._problem is not None:
                if time.monotonic() < self._next_try_at:
                    raise StorageUnavailable(self._problem.message) from self._problem
                self._pause()  # this is the attempt; others do not join it
        try:
            login = log_in(self._target, self._timeout_seconds)
        except StorageUnavailable as error:
            with self._lock:
                self._problem = error
                self._failures += 1
                self._pause()
            raise
        with self._lock:
            self._problem, self._failures = None, 0
        return Channel(login, self._timeout_seconds)

    def _pause(self) -> None:
        refused = isinstance(self._problem, LoginRefused)
        first = _FIRST_LOGIN_PAUSE if refused else _FIRST_PAUSE
        longest = _LONGEST_LOGIN_PAUSE if refused else _LONGEST_PAUSE
        pause = min(longest, first * 2 ** min(self._failures - 1, 20))
        self._next_try_at = time.monotonic() + pause * random.uniform(0.75, 1)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
