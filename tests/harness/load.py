"""Clients that upload one file after the other, and insist: as those do that people use.

They know three answers: done, 503 with Retry-After (then they come back), and
all others, which fail the test.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import psycopg
import requests

from tests.harness.native import KIB, Native, Upload
from tests.harness.nginx import Nginx
from tests.harness.resumable import File, Resumable
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload
from tests.harness.wire import wait_until

#: Sent again after this at the latest: tests are in more of a hurry than people.
LONGEST_PAUSE_SECONDS = 1.0

#: Uploads that are finished before and after an outage, so that it goes on meanwhile.
SOME = 4

#: What nobody needs who is not lost.
PATIENCE_SECONDS = 120.0


@dataclass
class Load:
    """Several clients of each protocol. ``part_bytes``: what the server's parts have.

    ``server``: the one whose tables tell what has become of uploads. Clients go to
    ``front``, if there is something before it, else to itself.
    """

    server: Server
    part_bytes: int
    front: Server | Nginx | None = None
    #: Upload id → SHA-256 of what was sent; of each that was told to be complete.
    finished: dict[str, str] = field(default_factory=dict)
    #: Protocol → how often it was answered 503.
    refusals: Counter[str] = field(default_factory=Counter)
    #: Finished upload of which some request was answered 503 → its protocol.
    delayed: dict[str, str] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    #: Each client's own, as long as it is at one upload.
    _upload: threading.local = field(default_factory=threading.local)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Upload meanwhile; at the end, finish what has begun. Raises what a client raised."""
        clients = [self._send_native, self._send_native, self._send_tus, self._send_resumable]
        with ThreadPoolExecutor(len(clients)) as pool:
            running = [pool.submit(self._repeat, client) for client in clients]
            try:
                yield
            finally:
                self._stopping.set()
        for client in running:
            client.result()

    @property
    def _target(self) -> Server:
        return self.front or self.server  # type: ignore[return-value]  # both have an url

    def _repeat(self, send: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            self._upload.refused = False
            send()

    def _insist(self, protocol: str, ask: Callable[[], requests.Response]) -> requests.Response:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            answer = ask()
            if answer.status_code < 300:
                return answer
            assert answer.status_code == 503, f"{answer.status_code}: {answer.text}"
            pause = int(answer.headers["Retry-After"])
            assert pause > 0
            self.refusals[protocol] += 1
            self._upload.refused = True
            time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
        raise AssertionError(f"{protocol}: still {answer.text}")

    def _send_native(self) -> None:
        """Two parts and a bit, with a connection of its own."""
        native, data = Native(self._target), random.randbytes(2 * self.part_bytes + 17)
        document = {"filename": "native.bin", "total_size": len(data)}
        raw = self._insist("native", lambda: native.init_raw(document)).json()
        tokens = [part["token"] for part in raw["parts"]]
        upload = Upload(raw["file_id"], len(data), raw["chunk_size"], tokens, raw)
        for part in range(len(tokens)):
            offset, length = upload.span(part)
            piece = data[offset : offset + length]
            self._insist(
                "native", lambda part=part, piece=piece: native.put_raw(upload, part, piece)
            )
        status = self._insist(
            "native", lambda: native.request("GET", f"/upload/{upload.id}/status")
        )
        assert status.json()["uploaded_parts"] == len(tokens), "acknowledged parts were lost"
        self._insist("native", lambda: native.complete_raw(upload))
        self._wait_until_complete(upload.id)
        self._note("native", upload.id, data)

    def _send_tus(self) -> None:
        """Three requests, each from where the server says it is."""
        tus, data = Tus(self._target), random.randbytes(300 * KIB)
        created = self._insist("tus", lambda: tus.create_raw({"Upload-Length": len(data)}))
        upload, offset = TusUpload(created.headers["Location"]), 0
        while offset < len(data):
            offset = int(self._insist("tus", lambda: tus.head(upload)).headers["Upload-Offset"])
            piece = data[offset : offset + 100 * KIB]
            sent = self._insist(
                "tus", lambda at=offset, piece=piece: self._patch(tus, upload, at, piece)
            )
            offset = int(self._insist("tus", lambda: tus.head(upload)).headers["Upload-Offset"])
            acknowledged = int(sent.headers["Upload-Offset"])
            assert offset >= acknowledged, "acknowledged bytes were lost"
        self._wait_until_complete(upload.id)
        self._note("tus", upload.id, data)

    def _patch(self, tus: Tus, upload: TusUpload, offset: int, piece: bytes) -> requests.Response:
        """PATCH from ``offset``, or tell where the upload is if it has got further already."""
        answer = tus.patch_raw(upload, offset, piece)
        return tus.head(upload) if answer.status_code == 409 else answer

    def _send_resumable(self) -> None:
        """Chunks of a part each."""
        client = Resumable(self._target)
        file = File(random.randbytes(2 * self.part_bytes), chunk_size=self.part_bytes)
        answer: dict[str, str] = {}
        for number in file.numbers:
            sent = self._insist("resumable", lambda n=number: client.octet_raw(file, n))
            answer = sent.json()
        self._wait_until_complete(answer["id"])
        self._note("resumable", answer["id"], file.content)

    def _wait_until_complete(self, upload_id: str) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        state = "unknown"
        while time.monotonic() < give_up_at:
            query = "SELECT state FROM uploads WHERE id = ?"
            with contextlib.suppress(psycopg.OperationalError):  # it may be away itself
                state = self.server.tables.rows(query, upload_id)[0]["state"]
            if state == "complete":
                return
            assert state in ("unknown", "open", "completed", "finalizing"), state
            time.sleep(0.05)  # between two looks; the loop ends by its deadline
        raise AssertionError(f"still {state}")

    def _note(self, protocol: str, upload_id: str, data: bytes) -> None:
        if self._upload.refused:
            self.delayed[upload_id] = protocol
        self.finished[upload_id] = hashlib.sha256(data).hexdigest()


def ride_out(load: Load, outage: AbstractContextManager[None], seconds: float) -> None:
    """Upload before, during and after an outage of so many seconds; nothing may be lost."""
    server = load.server
    with load.running():
        wait_until(lambda: len(load.finished) >= SOME, "uploads before", PATIENCE_SECONDS)
        with outage:
            time.sleep(seconds)  # how long it lasts is the test's input
            before = len(load.finished)
        wait_until(lambda: len(load.finished) >= before + SOME, "uploads after", PATIENCE_SECONDS)
    assert load.refusals, "they were told to come back; some wait for its end in one request"
    assert load.delayed, "uploads wait for the end of the outage and are finished"
    assert stored_checksums(server) == load.finished
    wait_until(lambda: not _staged(server, load), "nothing stays staged of what is finished")


def _staged(server: Server, load: Load) -> list[str]:
    """Return what is staged of finished uploads.

    Others may have left something to the sweeper: a create that was refused, and
    that the storage had carried out before it died, or did when it went on.
    """
    names = [file.name for file in server.staged_files()]
    return [name for name in names if any(upload_id in name for upload_id in load.finished)]


def stored_checksums(server: Server) -> dict[str, str]:
    """Return what lies in a server's store: upload id → SHA-256."""
    return {
        file.name.partition("_")[0]: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in server.store.files()
    }
