"""kill -9 at any moment: what was acknowledged is there, what was not is pending."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.conftest import StartServer
from tests.harness.native import KIB, MIB, Native, Upload
from tests.harness.server import Server
from tests.live.wire import (
    Connection,
    ask_ledger,
    lease_holder,
    put_head,
    stored_file,
    until,
)

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: A lease runs out after 6 s by itself; taking over from the dead is faster.
LEASE_SECONDS = 6.0


def piece(upload: Upload, part: int, data: bytes) -> bytes:
    """Return the bytes of a part."""
    offset, length = upload.span(part)
    return data[offset : offset + length]


def begin_part(server: Server, upload: Upload, part: int, data: bytes) -> Connection:
    """Send the head and the beginning of a part; return when it is being received."""
    connection = Connection(server)
    connection.send(put_head(upload, part), data)
    until(lambda: lease_holder(server, upload, part))
    return connection


def finalized_events(server: Server, upload: Upload) -> int:
    rows = ask_ledger(
        server, "SELECT 1 FROM events WHERE upload_id = ? AND kind = 'finalized'", upload.id
    )
    return len(rows)


def test_an_upload_goes_on_with_its_tokens_after_the_server_was_killed(
    start_storing: StartServer, content: Content
) -> None:
    server = start_storing()
    native = Native(server)
    data = content(5 * MIB + 99)
    upload = native.init("videos/movie.mp4", size=len(data))
    for part in (0, 3):
        native.put(upload, part, piece(upload, part, data))
    with begin_part(server, upload, 1, piece(upload, 1, data)[: 700 * KIB]) as connection:
        server.kill()
        with pytest.raises(ConnectionError):
            connection.read()
    server.start()
    assert native.pending(upload) == [1, 2, 4, 5]
    for part in native.pending(upload):
        native.put(upload, part, piece(upload, part, data))
    assert stored_file(native, upload).read_bytes() == data


def test_a_part_of_a_killed_worker_can_be_sent_again_at_once(
    start_storing: StartServer, content: Content
) -> None:
    server = start_storing(WORKERS=2)
    native = Native(server)
    data = content(MIB)
    upload = native.init(size=MIB)
    with begin_part(server, upload, 0, data[: 300 * KIB]) as connection:
        victim = until(lambda: lease_holder(server, upload, 0))
        others = set(server.worker_pids()) - {victim}
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(ConnectionError):
            connection.read()
        started_at = time.monotonic()
        # At the first attempt; over a new connection, the old one may have been the victim's.
        Native(server).put(upload, 0, data)
        assert time.monotonic() - started_at < LEASE_SECONDS / 2
    until(lambda: len(server.worker_pids()) == 2 and victim not in server.worker_pids())
    assert others < set(server.worker_pids()), "the other worker went on"
    assert stored_file(Native(server), upload).read_bytes() == data


@pytest.mark.parametrize("whole_server", [True, False], ids=["server", "worker"])
def test_finalizing_goes_on_by_itself_after_a_kill(
    start_storing: StartServer, content: Content, whole_server: bool
) -> None:
    """The checksum of the whole file keeps finalizing busy long enough to be hit."""
    server = start_storing(WORKERS=2, CHUNK_SIZE_MB=64, COMPLETE_WAIT_SECS=0)
    native = Native(server)
    data = b"".join(content(64 * MIB) for _ in range(4))
    checksum = hashlib.sha256(data).hexdigest()
    upload = native.init(size=len(data), checksum_sha256=checksum)
    native.put_all(upload, data)
    assert native.complete_raw(upload).status_code == 202
    finalizer = until(lambda: lease_holder(server, upload, "finalize"))
    if whole_server:
        server.kill()
    else:
        os.kill(finalizer, signal.SIGKILL)
    assert finalized_events(server, upload) == 0, "it was over too early to prove anything"
    if whole_server:
        server.start()
    final = stored_file(Native(server), upload)
    assert hashlib.sha256(final.read_bytes()).hexdigest() == checksum
    assert finalized_events(server, upload) == 1
    until(lambda: not server.staged_files())


def test_a_kill_around_publishing_leaves_one_whole_file(
    start_storing: StartServer, content: Content
) -> None:
    """Killed at random moments around the rename: between it and the ledger's commit too."""
    server = start_storing()
    for _ in range(3):
        native = Native(server)
        data = content(MIB)
        upload = native.init(size=MIB)
        native.put(upload, 0, data)
        with ThreadPoolExecutor(1) as pool:
            completing = pool.submit(complete_regardless, server, upload)
            time.sleep(random.uniform(0, 0.05))  # the moment of the crash is the test's input
            server.kill()
            completing.result()
        server.start()
        assert stored_file(Native(server), upload).read_bytes() == data
        assert finalized_events(server, upload) == 1
    files = [path for path in server.uploads.rglob("*_movie.mp4") if path.is_file()]
    assert len(files) == 3
    assert server.staged_files() == []


def complete_regardless(server: Server, upload: Upload) -> None:
    try:
        Native(server).complete_raw(upload)
    except requests.RequestException:
        pass  # the server is killed meanwhile


class Noting:
    """Clients that upload a file's parts and note every receipt, whatever happens between."""

    def __init__(self, server: Server, data: bytes, threads: int) -> None:
        self.server = server
        self.data = data
        self.threads = threads
        self.upload = Native(server).init(size=len(data))
        self.acknowledged: dict[int, str] = {}
        self.stopped = threading.Event()

    def run(self) -> None:
        """Send parts that are not acknowledged, in random order, until all are or we stop."""
        left = [part for part in range(len(self.upload.tokens)) if part not in self.acknowledged]
        random.shuffle(left)
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(self._put, left))

    def _put(self, part: int) -> None:
        if self.stopped.is_set():
            return
        try:
            response = Native(self.server).put_raw(
                self.upload, part, piece(self.upload, part, self.data)
            )
        except requests.RequestException:
            return  # killed before the answer, or within it
        if response.status_code == 200:
            self.acknowledged[part] = response.json()["checksum_sha256"]


def test_acknowledged_parts_survive_every_kill(
    start_storing: StartServer, content: Content
) -> None:
    server = start_storing(WORKERS=2)
    data = content(80 * MIB)
    client = Noting(server, data, threads=4)
    for _ in range(5):
        wanted = len(client.acknowledged) + random.randint(1, 12)
        with ThreadPoolExecutor(1) as pool:
            client.stopped.clear()
            running = pool.submit(client.run)
            until(lambda wanted=wanted: len(client.acknowledged) >= wanted)
            server.kill()
            client.stopped.set()
            running.result()
        server.start()
        parts = Native(server).status(client.upload)["parts"]
        (staged,) = server.staged_files()
        with staged.open("rb") as stored:
            for part, checksum in client.acknowledged.items():
                assert parts[part]["checksum_sha256"] == checksum
                offset, length = client.upload.span(part)
                stored.seek(offset)
                assert hashlib.sha256(stored.read(length)).hexdigest() == checksum
    client.stopped.clear()
    client.run()
    native = Native(server)
    assert native.pending(client.upload) == []
    assert stored_file(native, client.upload).read_bytes() == data


def test_parts_whose_staged_file_was_deleted_are_asked_for_again(
    start_storing: StartServer, content: Content
) -> None:
    """By hand, or by a disk that was exchanged: nothing is acknowledged that is not there."""
    server = start_storing()
    native = Native(server)
    data = content(3 * MIB)
    upload = native.init(size=len(data))
    native.put(upload, 0, data[:MIB])
    with begin_part(server, upload, 1, data[MIB : 2 * MIB - 1]) as connection:
        (staged,) = server.staged_files()
        staged.unlink()
        connection.send(data[2 * MIB - 1 : 2 * MIB])
        assert connection.read().status == 503
    assert native.pending(upload) == [0, 1, 2]
    native.put_all(upload, data)
    assert stored_file(native, upload).read_bytes() == data
