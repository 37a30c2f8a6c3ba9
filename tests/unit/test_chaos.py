"""Processes that create, send, finish, cancel and sweep at random, and are killed and frozen.

Whatever happens to them: nothing acknowledged is missing, no file is wrong, and
nothing is left behind.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from app.domain.clock import Clock
from app.domain.parts import received_parts
from app.domain.states import State
from app.ledger.database import Ledger
from app.ledger.models import leases, uploads
from app.ledger.records import UploadRecord
from app.storage.local import LocalStorage
from tests.harness.databases import Database
from tests.harness.peer import Peer
from tests.harness.peer_process import content_of
from tests.harness.rig import Rig

PROCESSES = 4

#: They live for so long, and until they have acknowledged so many parts: a busy machine
#: may take much longer than that.
SECONDS = 3.0
PARTS = 20
PATIENCE_SECONDS = 120.0

#: Between two misfortunes.
PAUSES_SECONDS = (0.02, 0.3)

#: Of a hundred misfortunes, so many are a process that stops for a while.
FROZEN_PERCENT = 25

StartPeer = Callable[..., Peer]


def test_whatever_happens_to_processes_nothing_is_lost_wrong_or_left(
    database: Database,
    ledger: Ledger,
    local: LocalStorage,
    root: Path,
    start_peer: StartPeer,
    tmp_path: Path,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    acknowledged = tmp_path / "acknowledged"
    acknowledged.touch()
    _live_dangerously(random.Random(seed), lambda: start_peer(database, root), acknowledged)
    rig = Rig(ledger, local, Clock())
    ledger.leases.take_from_dead()
    database.change(uploads, due_at_ms=1)  # a busy database may have postponed some
    while rig.finalize():
        pass
    rig.sweep()  # deletions that broke off
    told = [line.split() for line in acknowledged.read_text().splitlines()]
    assert len(told) >= PARTS
    for row in database.rows(uploads):
        safe = {int(part) for upload_id, part in told if upload_id == row.id}
        _check(rig, rig.record(row.id), safe, root)
    _check_that_nothing_is_left(rig, database, root)


def _live_dangerously(chance: random.Random, start: Callable[[], Peer], acknowledged: Path) -> None:
    def begin() -> Peer:
        peer = start()
        peer.begin("live", chance.randrange(2**32), str(acknowledged))
        return peer

    awake, frozen = [begin() for _ in range(PROCESSES)], list[Peer]()
    began_at = time.monotonic()
    while time.monotonic() < began_at + SECONDS or _lines(acknowledged) < PARTS:
        assert time.monotonic() < began_at + PATIENCE_SECONDS, "they do not get on"
        time.sleep(chance.uniform(*PAUSES_SECONDS))  # the misfortune is that it is at random
        while frozen and chance.random() < 0.5:
            awake.append(frozen.pop())
            awake[-1].thaw()
        unlucky = awake.pop(chance.randrange(len(awake)))
        if chance.randrange(100) < FROZEN_PERCENT and len(awake) > 1:
            unlucky.freeze()
            frozen.append(unlucky)
        else:
            unlucky.kill()
            awake.append(begin())
    for peer in awake + frozen:
        peer.kill()


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _check(rig: Rig, upload: UploadRecord, safe: set[int], root: Path) -> None:
    received = set(received_parts(rig.ledger.parts.words(upload.id)))
    receipts = {receipt.part for receipt in rig.ledger.parts.receipts(upload.id)}
    assert safe <= received
    assert receipts == received
    assert upload.received == len(received)
    assert upload.state not in (State.FINALIZING, State.FAILED)
    assert upload.error is None
    happened = Counter(rig.events(upload))
    for kind in ("created", "completed", "finalized", "deleted", "abandoned"):
        assert happened[kind] <= 1
    content = content_of(upload)
    if upload.state is State.COMPLETE:
        assert rig.read(upload.final_key) == content
        assert happened["completed"] == happened["finalized"] == 1
    else:
        assert not (root / upload.target_key).exists()
    if upload.state is State.OPEN and received:
        staged = rig.read(upload.staging_key)
        for span in map(upload.geometry.span, received):
            end = span.offset + span.length
            assert staged[span.offset : end] == content[span.offset : end]


def _check_that_nothing_is_left(rig: Rig, database: Database, root: Path) -> None:
    database.change(uploads, expires_at_ms=1)
    database.age_leases(60)
    rig.sweep()
    assert database.rows(leases) == []
    kept = {row.staging_key for row in database.rows(uploads)}
    assert kept == {None}
    ended = [row.id for row in database.rows(uploads) if row.state != State.COMPLETE]
    assert not [found for found in root.rglob("*_*") if found.name.split("_")[0] in ended]
