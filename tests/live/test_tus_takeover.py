"""Two PATCHes of one upload: the newer one is the client's next attempt and goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.ledger.leases import Contention
from tests.conftest import StartServer
from tests.harness.native import KIB, MIB
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, checksum, finished_file
from tests.harness.wire import change, events
from tests.live.wire import Answer, Connection, ask_ledger, lease_holder, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: How long a request waits for an older one (the contract).
PATIENCE_SECONDS = 5


@contextlib.contextmanager
def begun(
    tus: Tus, upload: TusUpload, offset: int, length: int, data: bytes
) -> Iterator[Connection]:
    """Send the beginning of a PATCH; go on when it is being received."""
    with Connection(tus.server) as connection:
        connection.send(tus.patch_head(upload, offset, length), data)
        until(lambda: lease_holder(tus.server, upload, "append"))
        if data:
            until(lambda: on_disk(tus.server, upload, offset, data), what="its bytes are written")
        yield connection


def on_disk(server: Server, upload: TusUpload, offset: int, data: bytes) -> bool:
    (staged,) = [path for path in server.staged_files() if upload.id in path.name]
    with staged.open("rb") as file:
        file.seek(offset)
        return file.read(len(data)) == data


def stored(server: Server, upload: TusUpload) -> bytes:
    path = until(lambda: finished_file(server, upload), what="the file is stored")
    return path.read_bytes()


@pytest.fixture
def single(start_server: StartServer) -> Tus:
    """A client of a server with one worker: both requests meet in it."""
    return Tus(start_server(WORKERS=1))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Tus, Tus]]:
    """Clients of two servers with one worker each, on one ledger and one storage."""
    first = Server(tmp_path / "first", WORKERS=1)
    second = Server(tmp_path / "second", store=first.store, tables=first.tables, WORKERS=1)
    with contextlib.ExitStack() as servers:
        for server in (first, second):
            server.directory.mkdir()
            servers.callback(server.close)
            server.start()
        yield Tus(first), Tus(second)


def test_a_stale_holder_in_the_same_worker_lets_go_at_once(single: Tus, content: Content) -> None:
    data = content(MIB)
    waits = []
    for _ in range(5):
        upload = single.create(MIB)
        with begun(single, upload, 0, MIB, data[:1000]) as stale:
            started_at = time.monotonic()
            response = single.patch_raw(upload, 0, data)
            waits.append(time.monotonic() - started_at)
            # What the stale one has received counts, so the new one has to ask first.
            assert response.status_code == 409
            assert single.offset(upload) == 1000
            answer = stale.read()
            assert (answer.status, answer.json["code"]) == (409, "taken_over")
        single.patch(upload, 1000, data[1000:])
        assert stored(single.server, upload) == data
    assert min(waits) < 0.5  # far below the second in which holders look around by themselves


def test_a_stale_holder_that_has_received_nothing_more_is_gone_on_from(
    single: Tus, content: Content
) -> None:
    data = content(MIB)
    upload = single.create(MIB)
    single.patch(upload, 0, data[:1000])
    with begun(single, upload, 1000, MIB - 1000, b"") as stale:
        assert single.patch(upload, 1000, data[1000:]) == MIB
        assert stale.read().status == 409
    assert stored(single.server, upload) == data


def test_a_stale_chunked_body_lets_go_too(single: Tus, content: Content) -> None:
    data = content(MIB)
    upload = single.create(MIB)
    with Connection(single.server) as stale:
        stale.send(single.patch_head(upload, 0, None), b"5\r\n" + data[:5] + b"\r\n")
        until(lambda: on_disk(single.server, upload, 0, data[:5]))
        assert single.patch_raw(upload, 0, data).status_code == 409
        assert single.offset(upload) == 5
        assert stale.read().status == 409
    single.patch(upload, 5, data[5:])
    assert stored(single.server, upload) == data


def test_a_stale_holder_in_another_worker_lets_go_within_seconds(
    pair: tuple[Tus, Tus], content: Content
) -> None:
    first, second = pair
    data = content(MIB)
    upload = first.create(MIB)
    with begun(first, upload, 0, MIB, data[:1000]) as stale:
        there = TusUpload(f"{second.server.url}{upload.path}")
        started_at = time.monotonic()
        assert second.patch_raw(there, 0, data).status_code == 409
        assert time.monotonic() - started_at < PATIENCE_SECONDS
        assert second.offset(there) == 1000
        assert second.patch(there, 1000, data[1000:]) == MIB
        answer = stale.read()
        assert (answer.status, answer.json["code"]) == (409, "taken_over")
    assert stored(first.server, upload) == data


def test_a_stale_holder_with_a_checksum_lets_go_of_nothing_that_counts(
    single: Tus, content: Content
) -> None:
    data = content(MIB)
    upload = single.create(MIB)
    with Connection(single.server) as stale:
        head = single.patch_head(upload, 0, MIB, Upload_Checksum=checksum(data))
        stale.send(head, data[: 300 * KIB])
        until(lambda: lease_holder(single.server, upload, "append"))
        assert single.patch(upload, 0, data) == MIB
        assert stale.read().status == 409
    assert stored(single.server, upload) == data


def test_a_request_that_cannot_match_ends_nobody_s(single: Tus, content: Content) -> None:
    data = content(2000)
    upload = single.create(2000)
    single.patch(upload, 0, data[:1000])
    with begun(single, upload, 1000, 1000, data[1000:1500]) as running:
        assert single.patch_raw(upload, 0, data).status_code == 409  # an offset never goes back
        assert single.patch_raw(upload, 1000, data).status_code == 413
        assert single.patch_raw(upload, 1000, b"", Upload_Length=3000).status_code == 400
        running.send(data[1500:])
        assert running.read().status == 204
    assert stored(single.server, upload) == data


def test_of_many_attempts_one_goes_on_and_no_byte_is_wrong(
    server: Server, tus: Tus, content: Content
) -> None:
    """A client that retries without waiting: at any time at most one appends."""
    data = content(3 * MIB)
    upload = tus.create(len(data))
    statuses: list[int] = []

    def attempt() -> None:
        while True:
            offset = tus.offset(upload)
            if offset == len(data):
                return
            response = tus.patch_raw(upload, offset, data[offset : offset + 200 * KIB])
            statuses.append(response.status_code)

    attempts = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in attempts:
        thread.start()
    for thread in attempts:
        thread.join()
    assert set(statuses) <= {204, 409, 423}
    assert stored(server, upload) == data


def test_who_cannot_get_the_lease_is_told_423(server: Server, tus: Tus) -> None:
    """Of a holder on another node, which does not answer and is not known to be dead."""
    upload = tus.create(10)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    until_ms = int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000) + 600_000
    change(
        server,
        "INSERT INTO leases (upload_id, key, owner, generation, boot_id, until_ms, contended)"
        " VALUES (?, 'append', 'a process elsewhere', 1, ?, ?, 0)",
        upload.id,
        boot_id,
        until_ms,
    )
    started_at = time.monotonic()
    response = tus.patch_raw(upload, 0, b"abc")
    assert response.status_code == 423
    assert PATIENCE_SECONDS <= time.monotonic() - started_at < 3 * PATIENCE_SECONDS
    ((contended,),) = ask_ledger(
        server, "SELECT contended FROM leases WHERE upload_id = ?", upload.id
    )
    assert contended == 2  # let go now, and keep what has arrived
    assert tus.offset(upload) == 0  # HEAD needs no lease


def test_a_frozen_worker_cannot_write_once_another_has_gone_on(
    pair: tuple[Tus, Tus], content: Content
) -> None:
    first, second = pair
    data, other = content(MIB), content(MIB)
    upload = first.create(MIB)
    there = TusUpload(f"{second.server.url}{upload.path}")
    with begun(first, upload, 0, MIB, other[:1000]) as frozen:
        (worker,) = first.server.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        try:
            frozen.send(other[1000 : 500 * KIB])
            until(lambda: second.patch_raw(there, 0, data).status_code == 204)  # 423 until then
        finally:
            os.kill(worker, signal.SIGCONT)
        assert frozen.read().status in (409, 503)
    assert stored(first.server, upload) == data


def test_a_delete_needs_no_lease_so_a_frozen_holder_cannot_hold_it_up_or_undo_it(
    pair: tuple[Tus, Tus], content: Content
) -> None:
    """Who cannot let go is asked, and nothing of it counts any more; so nobody is told 423."""
    first, second = pair
    data = content(MIB)
    upload = first.create(MIB)
    there = TusUpload(f"{second.server.url}{upload.path}")
    with begun(first, upload, 0, MIB, data[:1000]) as frozen:
        (worker,) = first.server.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        try:
            frozen.send(data[1000:])  # all that it takes to complete the upload
            assert second.delete(there).status_code == 204
            query = "SELECT contended FROM leases WHERE upload_id = ?"
            assert ask_ledger(first.server, query, upload.id) == [(Contention.ORDERED,)]
            assert first.server.staged_files() == []
            assert second.head(there).status_code == 410
        finally:
            os.kill(worker, signal.SIGCONT)
        assert frozen.read().status in (404, 410, 503)
    assert first.head(upload).status_code == 410
    assert first.server.staged_files() == []
    assert first.server.store.files() == []
    assert events(first.server, upload.id) == ["created", "deleted"]


def test_a_delete_does_not_wait_for_a_stale_holder(pair: tuple[Tus, Tus], content: Content) -> None:
    first, second = pair
    upload = first.create(MIB)
    there = TusUpload(f"{second.server.url}{upload.path}")
    with begun(first, upload, 0, MIB, content(1000)) as stale:
        assert second.delete(there).status_code == 204
        answer: Answer = stale.read()
        assert answer.status in (404, 410)
    assert first.server.staged_files() == []
