"""Checkpoints: due by bytes and by time, one at a time, and never what ends the transfer."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event
from structlog.testing import capture_logs

from app.errors import LeaseLost, LedgerBusy
from app.ingest import checkpoints
from app.ingest.checkpoints import EVERY_BYTES, Checkpoints


class Disk:
    """Saves when the test lets it, and counts who saves at once."""

    def __init__(self) -> None:
        self.saved: list[int] = []
        self.may_save = Event()
        self.may_save.set()
        self.error: Exception | None = None
        self._at_once = 0

    def save(self, written: int) -> None:
        self._at_once += 1
        assert self._at_once == 1
        self.may_save.wait()
        self._at_once -= 1
        if self.error is not None:
            raise self.error
        self.saved.append(written)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_nothing_is_saved_before_it_is_due(disk: Disk) -> None:
    with Checkpoints(disk.save) as saving:
        for written in (0, 1, EVERY_BYTES - 1):
            saving.look(written)
    assert disk.saved == []


def test_it_is_due_after_so_many_bytes_since_the_last_one(disk: Disk) -> None:
    with Checkpoints(disk.save) as saving:
        for written in (EVERY_BYTES, EVERY_BYTES + 1, 2 * EVERY_BYTES - 1, 2 * EVERY_BYTES):
            saving.look(written)
            gevent.sleep(0)
    assert disk.saved == [EVERY_BYTES, 2 * EVERY_BYTES]


def test_it_is_due_after_some_time_if_anything_has_come(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    with Checkpoints(disk.save) as saving:
        for written in (0, 1, 1, 2):
            saving.look(written)
            gevent.sleep(0)
    assert disk.saved == [1, 2]


def test_a_transfer_goes_on_while_it_is_saved_and_waits_only_for_the_next(disk: Disk) -> None:
    disk.may_save.clear()
    with Checkpoints(disk.save) as saving:
        saving.look(EVERY_BYTES)
        gevent.sleep(0)
        saving.look(EVERY_BYTES + 1)  # does not wait
        assert disk.saved == []
        gevent.spawn(disk.may_save.set)
        saving.look(2 * EVERY_BYTES)  # waits for the first
        assert disk.saved == [EVERY_BYTES]
    assert disk.saved == [EVERY_BYTES, 2 * EVERY_BYTES]


def test_nothing_runs_any_more_when_it_is_left(disk: Disk) -> None:
    disk.may_save.clear()
    with Checkpoints(disk.save) as saving:
        saving.look(EVERY_BYTES)
        gevent.sleep(0)
        gevent.spawn(disk.may_save.set)
    assert disk.saved == [EVERY_BYTES]


def test_a_busy_ledger_is_tried_again_by_the_next_one(disk: Disk) -> None:
    with Checkpoints(disk.save) as saving:
        disk.error = LedgerBusy()
        saving.look(EVERY_BYTES)
        gevent.sleep(0)
        disk.error = None
        saving.look(2 * EVERY_BYTES)
    assert disk.saved == [2 * EVERY_BYTES]
    assert saving.error is None


def test_an_error_that_no_later_one_heals_is_kept_and_ends_the_saving(disk: Disk) -> None:
    with Checkpoints(disk.save) as saving:
        disk.error = LeaseLost()
        saving.look(EVERY_BYTES)
        gevent.sleep(0)
        disk.error = None
        saving.look(2 * EVERY_BYTES)
    assert isinstance(saving.error, LeaseLost)
    assert disk.saved == []


def test_a_bug_is_logged_and_costs_the_transfer_nothing(disk: Disk) -> None:
    with capture_logs() as logs, Checkpoints(disk.save) as saving:
        disk.error = ZeroDivisionError()
        saving.look(EVERY_BYTES)
        gevent.sleep(0)
        disk.error = None
        saving.look(2 * EVERY_BYTES)
    assert [line["event"] for line in logs] == ["checkpoint.bug"]
    assert saving.error is None
    assert disk.saved == [2 * EVERY_BYTES]


def test_what_is_thrown_at_a_waiting_transfer_comes_out_once_the_saving_is_over(
    disk: Disk,
) -> None:
    """As gunicorn does to requests whose worker ends: the writer must not be closed under it."""
    disk.may_save.clear()

    def transfer() -> None:
        with Checkpoints(disk.save) as saving:
            saving.look(EVERY_BYTES)

    running = gevent.spawn(transfer)
    gevent.sleep(0)
    running.kill(ConnectionResetError, block=False)
    gevent.sleep(0)
    assert not running.ready()
    disk.may_save.set()
    with capture_logs():
        running.join()
    assert disk.saved == [EVERY_BYTES]
    assert isinstance(running.exception, ConnectionResetError)
