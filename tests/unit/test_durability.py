"""Acknowledged means durable: first the bytes, then their record, then the answer.

That each of them really waits for the disk is tested where it is done: the storage's
commits in tests/storage, the ledger's in test_transactions.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from app.domain.parts import Geometry
from app.ledger.database import Ledger
from app.ledger.records import AliasKey
from app.storage.base import PartWriter
from app.storage.memory import MemoryStorage
from app.uploads.chunks import Chunk, ChunkService
from app.uploads.creating import Wish
from tests.harness.bodies import PieceBody
from tests.harness.clock import FakeClock
from tests.harness.rig import Rig

LENGTH = 3 << 20
DATA = random.Random(1).randbytes(LENGTH)

#: What has been done, and whether durably, in order.
Deeds = list[tuple[str, bool]]


class Noting(MemoryStorage):
    """Storage that tells when bytes are committed."""

    deeds: Deeds

    def writer(self, *arguments: object) -> PartWriter:
        writer = super().writer(*arguments)  # type: ignore[arg-type]
        commit, deeds = writer.commit, self.deeds

        def commit_noted(*, durable: bool) -> str | None:
            receipt = commit(durable=durable)
            deeds.append(("bytes", durable))
            return receipt

        writer.commit = commit_noted  # type: ignore[method-assign]
        return writer


@pytest.fixture(params=[True, False], ids=["strict", "relaxed"])
def durable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def deeds(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Deeds:
    deeds: Deeds = []
    really_write = ledger.transactions.write

    def write(work: Callable[..., object], *, durable: bool = True) -> object:
        result = really_write(work, durable=durable)
        deeds.append(("record", durable))
        return result

    monkeypatch.setattr(ledger.transactions, "write", write)
    return deeds


@pytest.fixture
def rig(ledger: Ledger, clock: FakeClock, deeds: Deeds, durable: bool) -> Rig:
    storage = Noting()
    storage.deeds = deeds
    return Rig(ledger, storage, clock, durable=durable, part_size_bytes=LENGTH)


def put_part(rig: Rig) -> Callable[[], object]:
    upload = rig.create(2 * LENGTH)
    return lambda: rig.service.put_part(upload.id, 0, PieceBody([DATA]))


def put_chunk(rig: Rig) -> Callable[[], object]:
    chunks = ChunkService(rig.ledger, rig.storage, rig.clock, rig.policy, rig.service)
    wish = Wish("movie.mp4", 2 * LENGTH, geometry=Geometry(2 * LENGTH, LENGTH, 2))
    chunk = Chunk("resumable", AliasKey("resumable", "alice", "movie"), 0, 2, wish)
    return lambda: chunks.put(chunk, PieceBody([DATA]))


def append(rig: Rig) -> Callable[[], object]:
    upload = rig.create_appended(length=2 * LENGTH)
    return lambda: rig.append(upload, DATA)


def append_the_rest(rig: Rig) -> Callable[[], object]:
    upload = rig.create_appended(length=LENGTH)
    return lambda: rig.append(upload, DATA)


@pytest.mark.parametrize("way", [put_part, put_chunk, append, append_the_rest])
def test_bytes_are_durable_before_their_record_and_that_before_the_answer(
    rig: Rig, deeds: Deeds, durable: bool, way: Callable[[Rig], Callable[[], object]]
) -> None:
    send = way(rig)
    deeds.clear()
    send()
    assert deeds.count(("bytes", durable)) == 1
    behind = deeds[deeds.index(("bytes", durable)) + 1 :]
    assert ("record", True) in behind
