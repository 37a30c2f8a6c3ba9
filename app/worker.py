"""What a gunicorn worker does once it is up, and when it is told to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import structlog

from app.errors import LonghaulError
from app.ingest.accepting import share_connections
from app.ingest.connections import Connections
from app.jobs.runner import Runner
from app.ledger.database import LedgerOutdated
from app.protocols.context import EXTENSION
from app.protocols.refusals import answer_in_json
from app.wiring import Wiring

log = structlog.get_logger(__name__)

#: How often a worker whose storage is not ready looks again.
RETRY_SECONDS = 2.0


def start_worker(worker: Any) -> None:
    """Begin this worker's jobs, watch its connections, chain the drain flag onto SIGTERM.

    ``worker`` is gunicorn's. It has no hook for SIGTERM, and is killed at the
    end of the graceful timeout without a word.
    """
    wiring: Wiring = worker.wsgi.extensions[EXTENSION]
    answer_in_json(worker, wiring.settings.cors_origins)
    connections = Connections(wiring.settings.body_idle_timeout_secs)
    connections.watch(worker)
    share_connections(worker)
    stop_gunicorn = signal.getsignal(signal.SIGTERM)

    def terminate(signum: int, frame: FrameType | None) -> None:
        wiring.drain.begin()
        if callable(stop_gunicorn):
            stop_gunicorn(signum, frame)
        connections.end_waiting()

    signal.signal(signal.SIGTERM, terminate)
    signal.siginterrupt(signal.SIGTERM, False)
    if wiring.settings.run_jobs_in_workers:
        start_jobs(wiring)


def start_jobs(wiring: Wiring) -> None:
    """Start the runner, in the background until database and storage are ready."""

    def start() -> None:
        while not wiring.drain.begun:
            try:
                runner = _runner(wiring)
            except LonghaulError as error:
                log.error("start.waiting", code=error.code, message=error.message)
                wiring.clock.sleep(RETRY_SECONDS)
                continue
            runner.start()
            jobs = wiring.uploads.jobs
            jobs.wake, jobs.finalize = runner.wake, runner.finalize
            return

    threading.Thread(target=start, name="start", daemon=True).start()


def _runner(wiring: Wiring) -> Runner:
    """Return the runner; a PostgreSQL that was away when the master started is migrated first."""
    try:
        return wiring.runner
    except LedgerOutdated:
        if wiring.settings.is_sqlite:
            raise
        wiring.migrate()
        return wiring.runner
