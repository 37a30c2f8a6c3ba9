"""The runner: looks for due work and starts it, in every worker or in a process of its own.

Threads here are greenlets in a gevent worker and real threads elsewhere. What
is due is claimed in the ledger, so any number of runners may look.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import structlog

from app.errors import LonghaulError
from app.ingest.drain import Drain
from app.jobs.finalize import Finalizer
from app.jobs.sweep import Sweeper
from app.jobs.webhooks import AT_ONCE, WebhookSender
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.records import UploadRecord

log = structlog.get_logger(__name__)

#: How often the ledger is asked for work that another process has queued, or
#: whose time has come.
POLL_SECONDS = 1.0


class Runner:
    """Runs the jobs of this process until it is told to stop."""

    def __init__(
        self,
        ledger: Ledger,
        finalizer: Finalizer,
        sweeper: Sweeper,
        sender: WebhookSender,
        drain: Drain,
        cleanup_interval_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._finalizer = finalizer
        self._sweeper = sweeper
        self._sender = sender
        self._drain = drain
        self._cleanup_interval_seconds = cleanup_interval_seconds
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._sending = threading.Semaphore(AT_ONCE)
        self._loops: list[threading.Thread] = []
        self._finalizing: list[threading.Thread] = []

    def start(self) -> None:
        """Start looking for work; returns at once."""
        for name, loop in [
            ("finalize", self._finalize_loop),
            ("webhooks", self._webhook_loop),
            ("sweep", self._sweep_loop),
        ]:
            thread = threading.Thread(target=loop, name=name, daemon=True)
            thread.start()
            self._loops.append(thread)

    def wake(self) -> None:
        """Tell that something has been queued for finalizing."""
        self._wanted.set()

    def finalize(self, upload: UploadRecord, lease: Lease) -> None:
        """Start finalizing an upload that was claimed when it was queued."""
        self._start_thread(upload, lease)

    def stop(self) -> None:
        """Claim nothing more; what runs is finished by its thread."""
        self._stopped.set()
        self._wanted.set()

    def run(self) -> None:
        """Run jobs until ``stop`` is called, then wait for those that are running."""
        self.start()
        for loop in self._loops:
            loop.join()

    def _finalize_loop(self) -> None:
        while self._goes_on():
            self._guarded("finalize", self._start_finalizing)
            self._finalizing = [thread for thread in self._finalizing if thread.is_alive()]
            self._wanted.wait(POLL_SECONDS)
            self._wanted.clear()
        for thread in self._finalizing:
            thread.join()

    def _start_finalizing(self) -> None:
        while self._goes_on() and (claim := self._finalizer.claim()):
            self._start_thread(*claim)

    def _start_thread(self, *claim: object) -> None:
        thread = threading.Thread(target=self._finalize, args=claim, name="finalizing")
        thread.start()
        self._finalizing.append(thread)

    def _finalize(self, *claim: object) -> None:
        self._guarded("finalize", lambda: self._finalizer.finalize(*claim))  # type: ignore[arg-type]
        if self._ledger.finalizing.crowded:
            self.wake()  # a place is free

    def _webhook_loop(self) -> None:
        while self._goes_on():
            self._guarded("webhooks", self._start_sending)
            self._stopped.wait(POLL_SECONDS)

    def _start_sending(self) -> None:
        for claim in self._sender.claim(AT_ONCE):
            self._sending.acquire()
            threading.Thread(target=self._send, args=claim, name="sending").start()

    def _send(self, *claim: object) -> None:
        try:
            self._guarded("webhooks", lambda: self._sender.send(*claim))  # type: ignore[arg-type]
        finally:
            self._sending.release()

    def _sweep_loop(self) -> None:
        self._guarded("leases", lambda: self._ledger.leases.take_from_dead())
        # Workers start together: spread out, one sweep is seldom refused for another.
        due_at = time.monotonic() + random.uniform(0, min(10.0, self._cleanup_interval_seconds))
        while self._goes_on():
            self._guarded("settle", self._settle)
            if time.monotonic() >= due_at:
                self._guarded("sweep", lambda: [*self._sweeper.sweep()])
                due_at = time.monotonic() + self._cleanup_interval_seconds
            self._stopped.wait(min(POLL_SECONDS, self._cleanup_interval_seconds))

    def _settle(self) -> None:
        if self._finalizer.complete_settled():
            self.wake()

    def _goes_on(self) -> bool:
        return not (self._stopped.is_set() or self._drain.begun)

    def _guarded(self, job: str, work: Callable[[], object]) -> None:
        """Run ``work``; whatever it raises is logged, and the loop goes on."""
        try:
            work()
        except LonghaulError as error:
            log.warning("job.postponed", job=job, error=error.code, cause=str(error.__cause__))
        except Exception:
            log.exception("job.bug", job=job)
