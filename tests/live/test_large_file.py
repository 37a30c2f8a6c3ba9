"""A large file over a bad network into a server that crashes: the same bytes arrive.

``pytest tests/live/test_large_file.py --large-size 10G -o log_cli=true --log-level=INFO``
sends a really large one and tells the figures.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.conftest import StartServer
from tests.harness.native import MIB, Native, Upload
from tests.harness.server import Server
from tests.live.wire import Connection, put_head, stored_file, until

pytestmark = pytest.mark.live

log = logging.getLogger(__name__)

CONNECTIONS = 4
PART_MIB = 50

#: How many of all attempts to send a part are cut.
CUT_SHARE = 0.15

#: Memory of a worker, whatever the size of the file.
MAX_RSS_BYTES = 250 * MIB

#: Far longer than sending takes, so that a hang is a failure.
SEND_SECONDS = 1800.0

_BLOCK_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class Source:
    """A file of random bytes on disk."""

    path: Path
    size: int
    sha256: str


@pytest.fixture
def source(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Source]:
    """A file of ``--large-size`` random bytes, made block by block; removed at the end."""
    size = int(pytestconfig.getoption("--large-size"))
    seeded, sha256, path = random.Random(size), hashlib.sha256(), tmp_path / "source.bin"
    with path.open("wb") as file:
        for at in range(0, size, _BLOCK_BYTES):
            block = seeded.randbytes(min(_BLOCK_BYTES, size - at))
            sha256.update(block)
            file.write(block)
    yield Source(path, size, sha256.hexdigest())
    path.unlink()


@dataclass
class Sender:
    """Sends the parts of a file over several connections; cuts some; survives server crashes."""

    server: Server
    upload: Upload
    path: Path
    parts: queue.Queue[int] = field(default_factory=queue.Queue)
    acknowledged: set[int] = field(default_factory=set)
    cuts: int = 0
    retries: int = 0

    def run(self) -> None:
        """Send all parts; returns when all are acknowledged."""
        for part in range(len(self.upload.tokens)):
            self.parts.put(part)
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for sender in [pool.submit(self._send_parts) for _ in range(CONNECTIONS)]:
                sender.result()

    def _send_parts(self) -> None:
        connection = None
        with self.path.open("rb") as file:
            while len(self.acknowledged) < len(self.upload.tokens):
                try:
                    part = self.parts.get(timeout=0.1)
                except queue.Empty:
                    continue  # the others' parts may come back
                try:
                    connection = connection or Connection(self.server)
                    kept = self._send_part(connection, file, part)
                except (ConnectionError, TimeoutError):
                    kept = False
                if part not in self.acknowledged:
                    self.retries += 1
                    self.parts.put(part)
                    time.sleep(0.05)  # a client's pause before it tries again
                if not kept and connection is not None:
                    connection.close()
                    connection = None
        if connection is not None:
            connection.close()

    def _send_part(self, connection: Connection, file: BinaryIO, part: int) -> bool:
        """Send one part, or cut the connection within it; return whether it is kept."""
        offset, length = self.upload.span(part)
        connection.send(put_head(self.upload, part))
        if random.random() < CUT_SHARE:
            self.cuts += 1
            connection.sock.sendfile(file, offset, random.randrange(1, length))
            connection.cut(random.choice(["fin", "rst"]))
            return False
        connection.sock.sendfile(file, offset, length)
        answer = connection.read()
        assert answer.status in (200, 503), answer
        if answer.status == 200:
            self.acknowledged.add(part)
        return True


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_large_file_arrives_whole_through_cuts_and_a_crash(
    start_server: StartServer, source: Source
) -> None:
    server = start_server(CHUNK_SIZE_MB=PART_MIB, WORKERS=2)
    native = Native(server)
    started_at = time.monotonic()
    upload = native.init("large/source.bin", size=source.size)
    sender = Sender(server, upload, source.path)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(sender.run)
        until(
            lambda: sending.done() or len(sender.acknowledged) > len(upload.tokens) // 2,
            seconds=SEND_SECONDS,
        )
        peaks = [server.peak_rss_bytes()]
        server.kill()
        server.start()
        sending.result(SEND_SECONDS)
    sent_seconds = time.monotonic() - started_at
    peaks.append(server.peak_rss_bytes())
    completing_at = time.monotonic()
    native = Native(server)
    final = stored_file(native, upload)
    completed_seconds = time.monotonic() - completing_at
    log.info(
        "%d MiB in %.1f s (generating not counted), completed in %.2f s; "
        "%d cuts, %d attempts repeated, one kill -9; peak RSS of workers %s MiB; SHA-256 %s",
        source.size // MIB,
        sent_seconds,
        completed_seconds,
        sender.cuts,
        sender.retries,
        [peak // MIB for peak in peaks],
        source.sha256,
    )
    assert final.stat().st_size == source.size
    assert sha256_of(final) == source.sha256
    assert max(peaks) < MAX_RSS_BYTES
    assert native.cancel_raw(upload).status_code == 200  # removes the file
