"""The other side of ``peer.py``: does what it reads, one line a deed, and stops where told."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from sqlalchemy import create_engine

from app.domain.clock import Clock
from app.domain.states import State
from app.ledger.leases import Lease
from app.ledger.liveness import ProcessLife, boot_id
from app.ledger.migrate import migrate
from app.ledger.records import ReceiptRecord, UploadRecord
from app.storage.base import Orphan, Progress, StagedObject
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from tests.harness.databases import Database
from tests.harness.rig import PART_BYTES, Rig, outcome

#: How often a deed looks for what another process should have done.
_LOOK_SECONDS = 0.005


class Conversation:
    """Lines of JSON with the test."""

    def __init__(self, orders: TextIO, answers: TextIO, stops: list[str]) -> None:
        self._orders = orders
        self._answers = answers
        self._stops = stops

    def tell(self, **message: object) -> None:
        self._answers.write(json.dumps(message) + "\n")

    def listen(self) -> Iterator[dict[str, Any]]:
        """Yield what the test says until it hangs up."""
        for line in iter(self._orders.readline, ""):
            yield json.loads(line)

    def stop_before(self, step: str) -> None:
        """Wait here for a word, if the test wants that."""
        if step in self._stops:
            self.tell(stopped_before=step)
            self._orders.readline()


class SteppingStorage(LocalStorage):
    """Local disk that can be stopped before and after each change."""

    def __init__(self, root: str, instance_id: str, stop_before: Callable[[str], None]) -> None:
        super().__init__(root, instance_id)
        self._stop_before = stop_before

    def create(self, staged: StagedObject) -> str:
        self._stop_before("create")
        key = super().create(staged)
        self._stop_before("recording the staging key")
        return key

    def join(
        self, target: StagedObject, sources: Sequence[StagedObject], on_progress: Progress
    ) -> None:
        def moved(moved_bytes: int, of_bytes: int) -> None:
            on_progress(moved_bytes, of_bytes)
            self._stop_before("moving more bytes")

        self._stop_before("join")
        super().join(target, sources, moved)

    def publish(self, staged: StagedObject, receipts: Any, on_progress: Progress) -> str:
        self._stop_before("publish")
        key = super().publish(staged, receipts, on_progress)
        self._stop_before("recording the final key")
        return key

    def discard(self, staged: StagedObject) -> None:
        self._stop_before("discard")
        super().discard(staged)
        self._stop_before("forgetting the staging key")

    def delete(self, final_key: str) -> None:
        self._stop_before("delete")
        super().delete(final_key)

    def orphans(self, older_than_seconds: float) -> Iterator[Orphan]:
        self._stop_before("looking for orphans")
        return super().orphans(older_than_seconds)


class Deeds:
    """What a peer can be told to do. Arguments and results are JSON."""

    def __init__(self, told: dict[str, Any], conversation: Conversation) -> None:
        self._url = told["url"]
        self._root = told["root"]
        self._conversation = conversation
        self._database = Database(self._url, Path(told["run_directory"]))
        self._life = ProcessLife(Path(told["run_directory"]))
        self._leases: dict[str, Lease] = {}
        self._opened: Rig | None = None

    @property
    def _rig(self) -> Rig:
        if self._opened is None:
            ledger = self._database.ledger()
            storage = (
                SteppingStorage(self._root, ledger.instance_id(), self._conversation.stop_before)
                if self._root
                else MemoryStorage()
            )
            self._opened = Rig(ledger, storage, Clock())
        return self._opened

    def come_alive(self) -> str:
        """Begin to prove that this process lives; return its name."""
        return self._life.owner

    def boot_id(self) -> str:
        """Return the id of the machine's boot."""
        return boot_id()

    def start_child(self) -> int:
        """Start a process that outlives this one; return its pid."""
        return subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL).pid

    def fork_and_come_alive(self) -> tuple[str, int]:
        """Fork a process that comes alive, too; return its name and pid."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, self._life.owner.encode())
            time.sleep(60)  # until the test kills it
            os._exit(0)
        return os.read(reader, 64).decode(), pid

    def migrate(self) -> None:
        """Bring the tables up to date."""
        engine = create_engine(self._url)
        migrate(engine)
        engine.dispose()

    def create(self, length: int) -> str:
        """Create an upload; return its id."""
        return self._rig.create(length).id

    def concatenate(self, partial_ids: list[str]) -> str:
        """Create an upload of partial ones; return its id. It can be stopped halfway."""
        rig = self._rig
        self._database.before(
            rig.ledger,
            "INSERT INTO concatenations",
            lambda: self._conversation.stop_before("recording what it is made of"),
        )
        return rig.concatenate(partial_ids).id

    def ensure_staged(self, upload_id: str) -> str | None:
        """Make the staged object if nobody has; return its key."""
        return self._rig.staging.ensure(self._rig.record(upload_id)).staging_key

    def claim_part(self, upload_id: str, index: int) -> bool:
        """Claim a part; False if somebody else has it."""
        rig = self._rig
        claim = rig.ledger.parts.claim(upload_id, index, rig.clock.now_ms(), rig.clock.monotonic)
        if claim.lease is not None:
            self._leases[f"{upload_id} {index}"] = claim.lease
        return claim.lease is not None

    def claim_create(self, upload_id: str) -> bool:
        """Claim the making of a staged object and go on holding it."""
        rig = self._rig
        return rig.ledger.uploads.claim_create(upload_id, rig.clock.monotonic) is not None

    def commit_part(self, upload_id: str, index: int) -> list[int]:
        """Record a claimed part; return how many of how many there are."""
        receipt = ReceiptRecord(index, 1, None, None, self._rig.clock.now_ms())
        done = self._rig.ledger.parts.commit(self._leases[f"{upload_id} {index}"], receipt)
        return [done.received, done.part_count]

    def is_lost(self, upload_id: str, index: int) -> bool:
        """Tell whether a claimed part's lease must be taken for lost."""
        return self._leases[f"{upload_id} {index}"].lost

    def wait_until_asked(self, upload_id: str, index: int, contention: int) -> float:
        """Wait until somebody wants a claimed part; return when that was noticed (boot clock)."""
        lease = self._leases[f"{upload_id} {index}"]
        while lease.contention < contention:
            time.sleep(_LOOK_SECONDS)  # the test's own patience ends this
        return self._rig.clock.monotonic()

    def claim_finalizing(self, at_most: int) -> str | None:
        """Claim an upload to finalize and go on holding it."""
        rig = self._rig
        claimed = rig.ledger.finalizing.claim_next(
            rig.clock.now_ms(), at_most, rig.storage.root_ids, rig.clock.monotonic
        )
        return claimed[0].id if claimed else None

    def root_id(self) -> str:
        """Return whose disk this process's storage is on."""
        return self._rig.storage.root_id

    def release_all(self) -> None:
        """Let go of everything that is held."""
        for lease in list(self._rig.ledger.leases._held.values()):
            self._rig.ledger.leases.release(lease)

    def finalize(self) -> bool:
        """Finalize what has been due longest."""
        return self._rig.finalize()

    def cancel(self, upload_id: str) -> None:
        """Cancel or delete an upload."""
        self._rig.service.cancel(upload_id, sees=None)

    def sweep(self) -> list[str]:
        """Sweep; return what was swept."""
        return [swept.what for swept in self._rig.sweep()]

    def live(self, seed: int, acknowledged_path: str) -> NoReturn:
        """Act at random until somebody kills this process; see ``Life``."""
        with open(acknowledged_path, "a", buffering=1) as acknowledged:
            Life(self._rig, seed, acknowledged).live()

    def claim_deliveries(self, at_most: int) -> list[int]:
        """Claim due deliveries and go on holding them; return their ids."""
        rig = self._rig
        due = rig.ledger.outbox.claim_due(rig.clock.now_ms(), at_most, rig.clock.monotonic)
        return [delivery.id for delivery, _ in due]


class Life:
    """What clients, operators and jobs do, at random and without end.

    The bytes of an upload follow from its id, so that anybody can send any
    part, and check the file. ``acknowledged`` gets a line for each part that a
    client would have been told is safe.
    """

    def __init__(self, rig: Rig, seed: int, acknowledged: TextIO) -> None:
        self._rig = rig
        self._random = random.Random(seed)
        self._acknowledged = acknowledged

    def live(self) -> NoReturn:
        """Act until somebody kills this process."""
        acts = [self._create, self._send, self._finalize, self._cancel, self._rig.sweep]
        while True:
            (act,) = self._random.choices(acts, weights=(8, 70, 15, 4, 3))
            outcome(act)

    def _create(self) -> None:
        self._rig.create(self._random.choice([0, 1, PART_BYTES, 34 * PART_BYTES]))

    def _send(self) -> None:
        upload = self._some_upload(State.OPEN)
        if upload is None:
            return
        if upload.received == upload.part_count:
            self._rig.staging.ensure(upload)
            self._rig.ledger.uploads.queue_finalize(upload.id, self._rig.clock.now_ms())
            return
        content = content_of(upload)
        for index in self._random.sample(range(upload.part_count or 0), k=1):
            claim = self._rig.ledger.parts.claim(
                upload.id, index, self._rig.clock.now_ms(), self._rig.clock.monotonic
            )
            if claim.lease is not None:
                receipt = self._rig.write(upload, index, content)
                self._rig.ledger.parts.commit(claim.lease, receipt)
                self._acknowledged.write(f"{upload.id} {index}\n")

    def _finalize(self) -> None:
        self._rig.finalize()

    def _cancel(self) -> None:
        upload = self._some_upload(State.OPEN, State.COMPLETE)
        if upload is not None:
            self._rig.service.cancel(upload.id, sees=None)

    def _some_upload(self, *states: State) -> UploadRecord | None:
        found = self._rig.ledger.uploads.list(states, 20)
        return self._random.choice(found) if found else None


def content_of(upload: UploadRecord) -> bytes:
    """Return the bytes that an upload of a ``Life`` has."""
    return random.Random(upload.id).randbytes(upload.geometry.length)


def be_peer(told: dict[str, Any]) -> None:
    """Do what the test says until it hangs up or kills this process."""
    with open(told["orders"]) as orders, open(told["answers"], "w", buffering=1) as answers:
        conversation = Conversation(orders, answers, told["stops"])
        deeds = Deeds(told, conversation)
        for order in conversation.listen():
            try:
                done = outcome(getattr(deeds, order["deed"]), *order["arguments"])
            except Exception:  # noqa: BLE001 - the test shows it
                conversation.tell(bug=traceback.format_exc())
            else:
                conversation.tell(outcome=done)


def be_nursery() -> None:
    """Fork peers and wait for what becomes of them."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout = sys.stderr  # a log's lines must not look like answers
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "wait" in request:
            os.waitid(os.P_PID, request["wait"], request["options"])
            answers.write("null\n")
        elif pid := os.fork():
            answers.write(f"{pid}\n")
        else:
            os.close(answers.fileno())
            be_peer(request["fork"])
            os._exit(0)


if __name__ == "__main__":
    be_nursery()
