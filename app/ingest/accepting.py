"""Which worker takes a new connection: the one that has the fewest.

All workers wait for the same listening socket, and gevent's take what they can
get. The first one awake took three or four of four connections, so that a client's
parallel parts shared one interpreter while another one idled.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from gevent.pool import Pool
from gevent.server import StreamServer

#: A worker leaves a connection to others for so long for each that it has. An idle
#: one is awake within a tenth of that, unless the cores are busy.
_PATIENCE_SECONDS = 0.001

#: Longer, and clients that connect to busy workers would notice.
_LONGEST_PATIENCE_SECONDS = 0.004

#: Having waited, a worker may grow by this part at once, or a thousand clients that
#: come together would be let in one by one.
_GROWTH = 0.25


class FewestFirst(StreamServer):
    """Accepts at once while it has no connection, later the more it has."""

    max_accept = 1
    pool: Pool
    _has_waited = False

    def do_read(self) -> Any:
        """Accept a connection, or leave it to others for a while: then return None.

        Where accepting has just failed, gevent waits longer and longer by itself.
        """
        open_count = len(self.pool)
        if not open_count or self._has_waited or self.delay > self.min_delay:
            return super().do_read()
        self.stop_accepting()
        patience_seconds = min(open_count * _PATIENCE_SECONDS, _LONGEST_PATIENCE_SECONDS)
        self._timer = self.loop.timer(patience_seconds)
        self._timer.start(self._accept_what_is_left, max(1, int(open_count * _GROWTH)))
        return None

    def _accept_what_is_left(self, at_most: int) -> None:
        gevents: Any = self  # parts of BaseServer that its types do not tell of
        self.stop_accepting()  # frees the timer
        self._has_waited, self.max_accept = True, at_most
        try:
            gevents._do_read()
        finally:
            self._has_waited, self.max_accept = False, FewestFirst.max_accept
        if gevents._timer is None:  # else accepting has failed, and goes on later
            gevents._start_accepting_if_started()


def share_connections(worker: Any) -> None:
    """Let gunicorn's gevent ``worker``, which must not serve yet, leave connections to others."""
    if worker.cfg.workers > 1:
        worker.server_class = partial(_server, worker)


def _server(
    worker: Any,
    listener: Any,
    *,
    spawn: Any,
    application: Any,
    log: Any,
    handler_class: Any,
    environ: Any,
    **tls: Any,
) -> FewestFirst:
    """Make the server of a listening socket, called as gunicorn calls a ``server_class``.

    As the one it makes itself: what else a ``server_class`` is told, the worker knows.
    """
    return FewestFirst(listener, handle=partial(worker.handle, listener), spawn=spawn, **tls)
