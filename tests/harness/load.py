"""Clients that upload one file after the other, and insist: as those do that people use.

They know three answers: done, 503 with Retry-After (then they come back), and
all others, which fail the test.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

from tests.harness.native import KIB, Native, Upload
from tests.harness.resumable import File, Resumable
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload

#: Sent again after this at the latest: tests are in more of a hurry than people.
LONGEST_PAUSE_SECONDS = 1.0

#: What nobody needs who is not lost.
PATIENCE_SECONDS = 120.0


@dataclass
class Load:
    """Several clients of each protocol. ``part_bytes``: what the server's parts have."""

    server: Server
    part_bytes: int
    #: Upload id → SHA-256 of what was sent; of each that was told to be complete.
    finished: dict[str, str] = field(default_factory=dict)
    #: Protocol → how often it was answered 503.
    refusals: Counter[str] = field(default_factory=Counter)
    #: Uploads of which some request was answered 503.
    delayed: set[str] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)

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

    def _repeat(self, send: Callable[[], None]) -> None:
        while not self._stopping.is_set():
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
            time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
        raise AssertionError(f"{protocol}: still {answer.text}")

    def _send_native(self) -> None:
        """Two parts and a bit, with a connection of its own."""
        native, data = Native(self.server), random.randbytes(2 * self.part_bytes + 17)
        refused_before = self.refusals["native"]
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
        self._insist("native", lambda: native.complete_raw(upload))
        self._wait_until_complete(upload.id)
        self._note(upload.id, data, refused_before != self.refusals["native"])

    def _send_tus(self) -> None:
        """Three requests, each from where the server says it is."""
        tus, data = Tus(self.server), random.randbytes(300 * KIB)
        refused_before = self.refusals["tus"]
        created = self._insist("tus", lambda: tus.create_raw({"Upload-Length": len(data)}))
        upload, offset = TusUpload(created.headers["Location"]), 0
        while offset < len(data):
            offset = int(self._insist("tus", lambda: tus.head(upload)).headers["Upload-Offset"])
            piece = data[offset : offset + 100 * KIB]
            self._insist("tus", lambda at=offset, piece=piece: self._patch(tus, upload, at, piece))
            offset = int(self._insist("tus", lambda: tus.head(upload)).headers["Upload-Offset"])
        self._wait_until_complete(upload.id)
        self._note(upload.id, data, refused_before != self.refusals["tus"])

    def _patch(self, tus: Tus, upload: TusUpload, offset: int, piece: bytes) -> requests.Response:
        """PATCH from ``offset``, or tell where the upload is if it has got further already."""
        answer = tus.patch_raw(upload, offset, piece)
        return tus.head(upload) if answer.status_code == 409 else answer

    def _send_resumable(self) -> None:
        """Chunks of a part each."""
        client = Resumable(self.server)
        file = File(random.randbytes(2 * self.part_bytes), chunk_size=self.part_bytes)
        refused_before, answer = self.refusals["resumable"], {}
        for number in file.numbers:
            sent = self._insist("resumable", lambda n=number: client.octet_raw(file, n))
            answer = sent.json()
        self._wait_until_complete(answer["id"])
        self._note(answer["id"], file.content, refused_before != self.refusals["resumable"])

    def _wait_until_complete(self, upload_id: str) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        state = "unknown"
        while time.monotonic() < give_up_at:
            query = "SELECT state FROM uploads WHERE id = ?"
            state = self.server.tables.rows(query, upload_id)[0]["state"]
            if state == "complete":
                return
            assert state in ("open", "completed", "finalizing"), state
            time.sleep(0.05)  # between two looks; the loop ends by its deadline
        raise AssertionError(f"still {state}")

    def _note(self, upload_id: str, data: bytes, delayed: bool) -> None:
        self.finished[upload_id] = hashlib.sha256(data).hexdigest()
        if delayed:
            self.delayed.add(upload_id)


def stored_checksums(server: Server) -> dict[str, str]:
    """Return what lies in a server's store: upload id → SHA-256."""
    return {
        file.name.partition("_")[0]: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in server.store.files()
    }
