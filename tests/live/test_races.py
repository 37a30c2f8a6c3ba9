"""Requests that meet: the same part, all parts, the same completion, at the same moment."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import StartServer
from tests.harness.native import KIB, MIB, TIMEOUT_SECONDS, Native, Upload
from tests.harness.server import Server
from tests.live.wire import (
    Answer,
    Connection,
    ask_ledger,
    lease_holder,
    put_head,
    stored_file,
    until,
)

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

ROUNDS = 15

STORED, LOCKED, CONFLICT = 200, 503, 422


def put_at_once(
    server: Server, upload: Upload, part: int, versions: Sequence[bytes]
) -> list[Answer]:
    """PUT several versions of a part over connections of their own, half by half together."""
    together = threading.Barrier(len(versions), timeout=TIMEOUT_SECONDS)

    def put(data: bytes) -> Answer:
        with Connection(server) as connection:
            together.wait()
            connection.send(put_head(upload, part), data[: len(data) // 2])
            together.wait()
            connection.send(data[len(data) // 2 :])
            return connection.read()

    with ThreadPoolExecutor(len(versions)) as pool:
        return list(pool.map(put, versions))


def staged_bytes(server: Server, upload: Upload) -> bytes:
    (staged,) = [path for path in server.staged_files() if upload.id in path.name]
    return staged.read_bytes()


def events_of(server: Server, upload: Upload) -> list[str]:
    """Return the kinds of an upload's events in order."""
    rows = ask_ledger(server, "SELECT kind FROM events WHERE upload_id = ? ORDER BY id", upload.id)
    return [kind for (kind,) in rows]


def test_the_same_part_twice_at_once_is_stored_once(
    server: Server, native: Native, content: Content
) -> None:
    for _ in range(ROUNDS):
        data = content(MIB)
        upload = native.init(size=MIB)
        answers = put_at_once(server, upload, 0, [data, data])
        assert STORED in [answer.status for answer in answers]
        assert {answer.status for answer in answers} <= {STORED, LOCKED}
        for answer in answers:
            if answer.status == STORED:
                assert answer.json["checksum_sha256"] == hashlib.sha256(data).hexdigest()
                assert answer.json["uploaded_parts"] == 1
        assert staged_bytes(server, upload) == data
        assert events_of(server, upload) == ["created", "completed"]


def test_of_two_versions_of_a_part_one_wins_whole(
    server: Server, native: Native, content: Content
) -> None:
    for _ in range(ROUNDS):
        versions = [content(MIB), content(MIB)]
        upload = native.init(size=MIB)
        answers = put_at_once(server, upload, 0, versions)
        statuses = [answer.status for answer in answers]
        assert statuses.count(STORED) == 1, statuses
        assert set(statuses) <= {STORED, LOCKED, CONFLICT}
        winner = statuses.index(STORED)
        # A loser who insists is refused, and changes nothing.
        refused = native.put_raw(upload, 0, versions[1 - winner])
        assert refused.status_code == CONFLICT
        stored = stored_file(native, upload).read_bytes()
        assert stored == versions[winner]


def test_all_parts_at_once_in_any_order_make_the_file(
    server: Server, native: Native, content: Content
) -> None:
    """20 uploads of 6 parts each, their parts mixed, over two workers."""
    files = [content(5 * MIB + random.randrange(1, MIB)) for _ in range(20)]
    uploads = [native.init(size=len(data)) for data in files]
    work = [(which, part) for which in range(20) for part in range(6)]
    random.shuffle(work)
    clients = threading.local()

    def put(item: tuple[int, int]) -> int:
        which, part = item
        if not hasattr(clients, "native"):
            clients.native = Native(server)
        offset, length = uploads[which].span(part)
        answer = clients.native.put(uploads[which], part, files[which][offset : offset + length])
        return int(answer["uploaded_parts"])

    with ThreadPoolExecutor(12) as pool:
        counts = list(pool.map(put, work))
    for which, (upload, data) in enumerate(zip(uploads, files, strict=True)):
        told = [count for count, item in zip(counts, work, strict=True) if item[0] == which]
        assert sorted(told) == [1, 2, 3, 4, 5, 6]
        assert stored_file(native, upload).read_bytes() == data
        assert events_of(server, upload).count("completed") == 1


def test_complete_hammered_by_many_finalizes_once(
    server: Server, native: Native, content: Content
) -> None:
    data = content(2 * MIB)
    upload = native.init(size=len(data), checksum_sha256=hashlib.sha256(data).hexdigest())
    native.put_all(upload, data)
    together = threading.Barrier(20, timeout=TIMEOUT_SECONDS)

    def complete(_: int) -> int:
        client = Native(server)
        together.wait()
        return client.complete_raw(upload).status_code

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(complete, range(20))) <= {200, 202}
    assert stored_file(native, upload).read_bytes() == data
    kinds = events_of(server, upload)
    assert kinds == ["created", "completed", "processing_started", "finalized"]


def test_completing_while_the_last_part_is_still_on_its_way_never_publishes_a_hole(
    server: Server, native: Native, content: Content
) -> None:
    for _ in range(ROUNDS):
        data = content(2 * MIB)
        upload = native.init(size=len(data))
        native.put(upload, 0, data[:MIB])
        with Connection(server) as connection:
            connection.send(put_head(upload, 1), data[MIB : random.randrange(MIB, 2 * MIB)])
            early = native.complete_raw(upload)
            assert early.status_code == 400
            connection.cut("rst")
        native.put(upload, 1, data[MIB:])
        assert stored_file(native, upload).read_bytes() == data


def test_cancelling_stops_a_part_that_is_on_its_way(
    server: Server, native: Native, content: Content
) -> None:
    upload = native.init(size=2 * MIB)
    with Connection(server) as connection:
        connection.send(put_head(upload, 0), content(300 * KIB))
        until(lambda: lease_holder(server, upload, 0))
        assert native.cancel_raw(upload).status_code == 200
        assert connection.read().status == 404
    until(lambda: not [path for path in server.staged_files() if upload.id in path.name])


def test_a_worker_that_was_frozen_never_overwrites_what_was_stored_meanwhile(
    start_server: StartServer, content: Content
) -> None:
    """A paused machine looks like this: its lease runs out while it holds the part's bytes."""
    server = start_server(WORKERS=2)
    native = Native(server)
    late, stored = content(MIB), content(MIB)
    upload = native.init(size=MIB)
    with Connection(server) as connection:
        connection.send(put_head(upload, 0), late[: 300 * KIB])
        frozen = until(lambda: lease_holder(server, upload, 0))
        os.kill(frozen, signal.SIGSTOP)
        try:
            connection.send(late[300 * KIB :])
            until(lambda: Native(server).put_raw(upload, 0, stored).status_code == STORED)
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert connection.read().status == LOCKED
    assert staged_bytes(server, upload) == stored
    assert stored_file(native, upload).read_bytes() == stored
