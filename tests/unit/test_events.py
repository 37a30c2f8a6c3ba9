"""Events: each is told when it happens, and once, whoever comes again or dies meanwhile.

Their names and meanings are in ``EventKind``; ``chunk_received`` is told to nobody
before somebody can subscribe to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from app.domain.states import State
from app.errors import PartsLost, StorageUnavailable
from app.ledger.leases import Lease
from app.ledger.outbox import EventKind
from app.ledger.records import UploadRecord
from app.uploads.appending import Append
from tests.harness.bodies import PieceBody
from tests.harness.databases import Database
from tests.harness.rig import PART_BYTES, TTL_SECONDS, Rig, outcome

CONTENT = bytes(range(200)) * 11
WRONG_SHA256 = hashlib.sha256(b"other").hexdigest()

STARTED = ["created", "completed", "processing_started"]


def begin(rig: Rig) -> tuple[UploadRecord, Lease]:
    claimed = rig.finalizer.claim()
    assert claimed is not None
    return claimed


def dies(rig: Rig, lease: Lease) -> None:
    """Let a lease end without any outcome, as that of a process that is killed does."""
    rig.ledger.leases.release(lease)


def comes_and_is_finalized(rig: Rig) -> UploadRecord:
    upload = rig.queue(CONTENT)
    for _ in range(3):  # completing is asked for again and again
        rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())
    assert rig.finalize()
    assert not rig.finalize()
    return rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())


def is_appended_and_finalized(rig: Rig) -> UploadRecord:
    upload = rig.create_appended(CONTENT[:PART_BYTES], len(CONTENT))
    upload = rig.append(upload, CONTENT[PART_BYTES:])
    at_its_end = Append("tus", None, len(CONTENT))
    for _ in range(2):
        rig.appends.append(upload.id, at_its_end, PieceBody([]))
    assert rig.finalize()
    return upload


def is_begun_again_after_a_crash(rig: Rig) -> UploadRecord:
    upload = rig.queue(CONTENT)
    for _ in range(2):
        dies(rig, begin(rig)[1])
        rig.clock.sleep(1)
    assert rig.finalize()
    return upload


def is_begun_again_after_a_crash_of_who_appended(rig: Rig) -> UploadRecord:
    """On SQLite whoever appends the last byte begins to finalize in the same transaction."""
    died: list[Lease] = []
    rig.service.jobs.finalize = lambda _upload, lease: died.append(lease)
    upload = rig.create_appended(CONTENT, len(CONTENT))
    for lease in died:
        dies(rig, lease)
    assert rig.finalize()
    return upload


def waits_for_its_storage(rig: Rig) -> UploadRecord:
    upload = rig.queue(CONTENT)
    for _ in range(3):
        claimed, lease = begin(rig)
        due_at_ms = rig.clock.now_ms() + 1000
        rig.ledger.finalizing.postpone(claimed, lease, StorageUnavailable().message, due_at_ms)
        rig.clock.sleep(1)
    assert rig.finalize()
    return upload


def is_cancelled(rig: Rig) -> UploadRecord:
    upload = rig.create()
    for _ in range(2):
        outcome(rig.ledger.uploads.cancel, upload.id, rig.clock.now_ms())
    return upload


def is_deleted(rig: Rig) -> UploadRecord:
    upload = comes_and_is_finalized(rig)
    for _ in range(2):
        outcome(rig.service.end, upload.id)
    return upload


def expires(rig: Rig) -> UploadRecord:
    upload = rig.create()
    rig.clock.sleep(TTL_SECONDS)
    for _ in range(2):
        rig.sweep()
    return upload


def is_given_up_empty(rig: Rig) -> UploadRecord:
    upload = rig.create()
    for _ in range(2):
        rig.ledger.sweeping.abandon(upload.id, rig.clock.now_ms())
    return upload


@pytest.mark.parametrize(
    ("life", "told"),
    [
        (comes_and_is_finalized, [*STARTED, "finalized"]),
        (is_appended_and_finalized, [*STARTED, "finalized"]),
        (is_begun_again_after_a_crash, [*STARTED, "finalized"]),
        (is_begun_again_after_a_crash_of_who_appended, [*STARTED, "finalized"]),
        (waits_for_its_storage, [*STARTED, "finalized"]),
        (is_cancelled, ["created", "deleted"]),
        (is_deleted, [*STARTED, "finalized", "deleted"]),
        (expires, ["created", "abandoned"]),
        (is_given_up_empty, ["created", "abandoned"]),
    ],
)
def test_what_happens_once_is_told_once(
    rig: Rig, life: Callable[[Rig], UploadRecord], told: list[str]
) -> None:
    upload = life(rig)
    assert rig.events(upload) == told


def test_each_attempt_that_is_asked_for_is_told(rig: Rig, database: Database) -> None:
    """Other than those that the server makes by itself."""
    upload = rig.queue(CONTENT, checksum_sha256=WRONG_SHA256)
    rig.finalize()
    for _ in range(2):
        rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())
        dies(rig, begin(rig)[1])
        rig.finalize()
    again = ["retry_queued", "processing_started", "processing_failed"]
    assert rig.events(upload) == [*STARTED, "processing_failed", *again, *again]


def test_an_upload_that_had_to_come_again_is_completed_once_and_begun_twice(rig: Rig) -> None:
    upload = rig.queue(CONTENT)
    claimed, lease = begin(rig)
    rig.ledger.finalizing.reopen(claimed, lease, None, PartsLost().message, upload.expires_at_ms)
    rig.clock.sleep(1)
    for index in range(upload.geometry.part_count):
        rig.put(upload, index, CONTENT)
    rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())
    assert rig.finalize()
    assert rig.state(upload) is State.COMPLETE
    assert rig.events(upload) == [*STARTED, "processing_started", "finalized"]


def test_the_events_are_those_that_are_known_by_these_names() -> None:
    assert [kind.value for kind in EventKind] == [
        "created",
        "chunk_received",
        "completed",
        "processing_started",
        "finalized",
        "processing_failed",
        "abandoned",
        "deleted",
        "retry_queued",
    ]
