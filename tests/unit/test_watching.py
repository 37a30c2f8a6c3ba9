"""Readers of an upload share their looks at the ledger, and none waits for one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from app.domain.states import State
from app.errors import LedgerBusy
from app.ledger.records import UploadRecord
from app.uploads.watching import Watches
from tests.harness.clock import FakeClock
from tests.harness.rig import Rig

PATIENCE_SECONDS = 30


class Ledger:
    """Counts looks; a test decides when they may end, and how."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.looks = 0
        self.busy = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.answered = threading.Semaphore(0)

    def get(self, upload_id: str) -> UploadRecord | None:
        self.looks += 1
        try:
            assert self.may_answer.wait(PATIENCE_SECONDS)
            if self.busy:
                raise LedgerBusy
            return self._rig.ledger.uploads.get(upload_id)
        finally:
            self.answered.release()


@pytest.fixture
def ledger_looked_at(rig: Rig) -> Ledger:
    return Ledger(rig)


@pytest.fixture
def watches(ledger_looked_at: Ledger, clock: FakeClock) -> Watches:
    return Watches(ledger_looked_at.get, clock)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a look's thread, which has answered, to note what it saw."""
    deadline = threading.Event()
    for _ in range(PATIENCE_SECONDS * 100):
        if condition():
            return
        deadline.wait(0.01)
    raise AssertionError("never")


def test_what_is_known_is_young_enough_for_a_while(
    rig: Rig, watches: Watches, ledger_looked_at: Ledger, clock: FakeClock
) -> None:
    upload = rig.create()
    watch = watches.begin(upload)
    assert watch.latest(60) == upload
    clock.advance(59)
    watch.latest(60)
    assert ledger_looked_at.looks == 0


def test_an_old_answer_is_given_at_once_and_a_new_one_fetched(
    rig: Rig, watches: Watches, ledger_looked_at: Ledger, clock: FakeClock
) -> None:
    upload = rig.create()
    watch = watches.begin(upload)
    rig.service.cancel(upload.id, sees=None)
    clock.advance(61)
    ledger_looked_at.may_answer.clear()
    assert watch.latest(60) == upload  # though the ledger hangs
    ledger_looked_at.may_answer.set()
    until(lambda: watch.latest(60).state is State.CANCELLED)  # type: ignore[union-attr]
    assert ledger_looked_at.looks == 1


def test_readers_share_one_look_however_many_they_are(
    rig: Rig, watches: Watches, ledger_looked_at: Ledger, clock: FakeClock
) -> None:
    upload = rig.create()
    readers = [watches.begin(upload) for _ in range(200)]
    clock.advance(61)
    ledger_looked_at.may_answer.clear()
    for watch in readers:
        watch.latest(60)
    ledger_looked_at.may_answer.set()
    assert ledger_looked_at.answered.acquire(timeout=PATIENCE_SECONDS)
    assert ledger_looked_at.looks == 1


def test_a_ledger_that_does_not_answer_changes_nothing(
    rig: Rig, watches: Watches, ledger_looked_at: Ledger, clock: FakeClock
) -> None:
    upload = rig.create()
    watch = watches.begin(upload)
    ledger_looked_at.busy = True
    clock.advance(61)
    assert watch.latest(60) == upload
    assert ledger_looked_at.answered.acquire(timeout=PATIENCE_SECONDS)
    ledger_looked_at.busy = False
    rig.service.cancel(upload.id, sees=None)
    clock.advance(61)
    until(lambda: watch.latest(60).state is State.CANCELLED)  # type: ignore[union-attr]


def test_a_row_that_is_gone_is_known_to_be(
    rig: Rig, ledger_looked_at: Ledger, clock: FakeClock
) -> None:
    upload = rig.create()
    watch = Watches(lambda _: None, clock).begin(upload)
    clock.advance(61)
    until(lambda: watch.latest(60) is None)


def test_the_last_reader_ends_a_watch(rig: Rig, watches: Watches) -> None:
    upload = rig.create()
    first, second = watches.begin(upload), watches.begin(upload)
    assert first is second
    watches.end(first)
    assert watches.begin(upload) is first
    watches.end(first)
    watches.end(first)
    assert watches.begin(upload) is not first
