"""A server that stores in a bucket: crashes on either side, damage, many clients at once."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.harness.native import MIB, TIMEOUT_SECONDS, Native
from tests.harness.proxy import DamagingProxy
from tests.harness.s3 import stored
from tests.harness.server import Server
from tests.live.wire import Connection, ask_ledger, lease_holder, put_head, until

pytestmark = pytest.mark.live

log = logging.getLogger(__name__)

MARKER = ".staging/root-id"

#: S3's smallest, so that uploads of several parts go straight into the bucket.
PART_MIB = 5
PART_BYTES = PART_MIB * MIB

#: How often the two last parts of an upload meet.
MEETINGS = 20

CONNECTIONS = 100

#: Memory of a worker, however many clients send.
MAX_RSS_BYTES = 250 * MIB

#: Looking at the bucket may take the probe's whole patience, on a slow machine.
RECOVERY_SECONDS = 60.0


@pytest.fixture
def bucket(ceph):
    return ceph.new_bucket()


@pytest.fixture
def client(ceph):
    """A client of the bucket's server, past the code under test."""
    return ceph.client()


@pytest.fixture
def server(start_server, ceph, bucket):
    """A server of the test's own, which may be killed."""
    return start_server(**ceph.settings(bucket, CHUNK_SIZE_MB=PART_MIB, COMPLETE_WAIT_SECS=0))


def promised(way, data):
    """Return what makes an upload go a way."""
    return {"checksum_sha256": hashlib.sha256(data).hexdigest()} if way == "staged" else {}


def finish(server, upload, data, client, bucket):
    """Complete an upload; its file is whole, and the only thing in the bucket."""
    native = Native(server)
    assert native.complete_raw(upload).status_code in (200, 202)
    until(
        lambda: native.status(upload)["status"] == "complete",
        seconds=RECOVERY_SECONDS,
        what="it is complete",
    )
    key = f"files/{upload.id}_movie.mp4"
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == data
    until(lambda: stored(client, bucket) == [MARKER, key], what="nothing else is left")
    events = ask_ledger(
        server, "SELECT kind FROM events WHERE upload_id = ? AND kind = 'finalized'", upload.id
    )
    assert len(events) == 1
    assert list(server.directory.rglob("*.partial")) == []


def put_left(server, upload, data):
    """Send what the server still waits for, as long as it says 503."""
    native = Native(server)
    give_up_at = time.monotonic() + RECOVERY_SECONDS
    while pending := native.pending(upload):
        for part in pending:
            offset, length = upload.span(part)
            answer = native.put_raw(upload, part, data[offset : offset + length])
            assert answer.status_code in (200, 503), answer.text
        assert time.monotonic() < give_up_at, "it does not recover"


@pytest.mark.parametrize("way", ["direct", "staged"])
def test_an_upload_goes_on_after_kills_amid_a_part_and_amid_finalizing(
    server, client, bucket, content, way
):
    data = content(8 * PART_BYTES + 17)
    native = Native(server)
    upload = native.init(size=len(data), **promised(way, data))
    native.put(upload, 0, data[:PART_BYTES])
    with Connection(server) as connection:
        connection.send(put_head(upload, 1), data[PART_BYTES : PART_BYTES + 3 * MIB])
        until(lambda: lease_holder(server, upload, 1))
        server.kill()
    server.start()
    put_left(server, upload, data)
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:
            completing = pool.submit(complete_regardless, server, upload)
            time.sleep(random.uniform(0, 0.2))  # the moment of the crash is the test's input
            server.kill()
            completing.result()
        server.start()
    finish(server, upload, data, client, bucket)


def complete_regardless(server, upload):
    try:
        Native(server).complete_raw(upload)
    except requests.RequestException:
        pass  # the server is killed meanwhile


@pytest.mark.parametrize("trouble", ["away", "frozen"])
def test_clients_come_back_while_the_bucket_is_away_and_nothing_is_lost(
    server, ceph, client, bucket, content, trouble
):
    data = content(3 * PART_BYTES)
    native = Native(server)
    upload = native.init(size=len(data))
    native.put(upload, 0, data[:PART_BYTES])
    with Connection(server) as connection:
        connection.send(put_head(upload, 1), data[PART_BYTES : PART_BYTES + 3 * MIB])
        until(lambda: lease_holder(server, upload, 1))
        with getattr(ceph, trouble)():
            if trouble == "away":
                connection.send(data[PART_BYTES + 3 * MIB : 2 * PART_BYTES])
                answer = connection.read()
                assert (answer.status, "retry-after" in answer.headers) == (503, True)
                refused = native.put_raw(upload, 2, data[2 * PART_BYTES :])
                assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
            told = until(lambda: not_ready(server), seconds=RECOVERY_SECONDS)
            assert ("cannot be reached" if trouble == "away" else "does not answer") in told
            assert native.status(upload)["uploaded_parts"] == 1
        if trouble == "frozen":  # it has been waiting, and is answered after all
            connection.send(data[PART_BYTES + 3 * MIB : 2 * PART_BYTES])
            assert connection.read().status in (200, 503)
    until(lambda: requests.get(f"{server.url}/ready", timeout=TIMEOUT_SECONDS).ok)
    put_left(server, upload, data)
    finish(server, upload, data, client, bucket)


def not_ready(server):
    """Return why a server says that it is not ready, None if it says it is."""
    answer = requests.get(f"{server.url}/ready", timeout=TIMEOUT_SECONDS)
    return None if answer.status_code == 200 else " ".join(answer.json()["reasons"])


def test_a_part_damaged_on_its_way_into_the_bucket_is_sent_again(
    start_server, ceph, client, bucket, content
):
    damage = content(32)
    data = content(PART_BYTES // 2) + damage + content(PART_BYTES)
    proxy = DamagingProxy(ceph.port, damage)
    settings = ceph.settings(bucket, CHUNK_SIZE_MB=PART_MIB, S3_ENDPOINT=proxy.url)
    server = start_server(**settings)
    native = Native(server)
    upload = native.init(size=len(data))
    refused = native.put_raw(upload, 0, data[:PART_BYTES])
    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
    assert "damaged" in refused.json()["error"]
    assert native.pending(upload) == [0, 1]
    proxy.heal()
    native.put_all(upload, data)
    finish(server, upload, data, client, bucket)
    proxy.close()


def test_two_last_parts_that_arrive_at_once_complete_an_upload_once(server, content):
    data = content(PART_BYTES + 1)
    pieces = [data[:PART_BYTES], data[PART_BYTES:]]
    together = threading.Barrier(2, timeout=TIMEOUT_SECONDS)
    native = Native(server)

    def send(upload, part):
        with Connection(server) as connection:
            connection.send(put_head(upload, part), pieces[part][:-1])
            together.wait()
            connection.send(pieces[part][-1:])
            answer = connection.read()
        assert answer.status == 200, answer.body
        return answer.json["uploaded_parts"]

    with ThreadPoolExecutor(2) as pool:
        for _ in range(MEETINGS):
            upload = native.init(size=len(data))
            assert sorted(pool.map(send, [upload, upload], [0, 1])) == [1, 2]
    completions = ask_ledger(
        server,
        "SELECT upload_id, count(*) FROM events WHERE kind = 'completed' GROUP BY upload_id",
    )
    assert [count for _, count in completions] == [1] * MEETINGS


def test_it_starts_without_its_bucket_says_so_without_secrets_and_recovers(tmp_path, ceph, client):
    missing = f"later-{random.randbytes(6).hex()}"
    server = Server(tmp_path, **ceph.settings(missing, LOG_LEVEL="debug"))
    try:
        server.start(ready=False)
        assert "create it, or check S3_BUCKET" in not_ready(server)
        refused = Native(server).init_raw({"filename": "movie.mp4", "total_size": 100})
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        client.create_bucket(Bucket=missing)
        until(lambda: not not_ready(server), seconds=RECOVERY_SECONDS, what="it is ready")
        native = Native(server)
        upload = native.init(size=100)
        native.put(upload, 0, bytes(100))
    finally:
        server.close()


def test_a_wrong_secret_is_told_and_stands_in_no_log_and_no_answer(tmp_path, ceph, bucket):
    secret = "hunter2-and-a-little-more"
    settings = ceph.settings(bucket, AWS_SECRET_ACCESS_KEY=secret, LOG_LEVEL="debug")
    server = Server(tmp_path, **settings)
    try:
        server.start(ready=False)
        answers = [
            requests.get(f"{server.url}/{path}", timeout=TIMEOUT_SECONDS).text
            for path in ("ready", "health")
        ]
        refused = Native(server).init_raw({"filename": "movie.mp4", "total_size": 100})
        assert refused.status_code == 503
        assert "AWS_SECRET_ACCESS_KEY" in answers[0]
        for text in (*answers, refused.text):
            assert str(ceph.port) not in text
        for text in (*answers, refused.text, *server.log_lines()):
            assert secret not in text
            assert ceph.access_key not in text
    finally:
        server.close()


def test_a_hundred_parts_on_their_way_into_the_bucket_take_little_memory(
    start_server, ceph, bucket
):
    settings = ceph.settings(bucket, CHUNK_SIZE_MB=8, WORKERS=1)
    server = start_server(**settings)
    native = Native(server)
    size = 8 * MIB
    upload = native.init(size=CONNECTIONS * size)
    data = memoryview(bytes(size))
    halfway = threading.Barrier(CONNECTIONS, timeout=TIMEOUT_SECONDS)

    def put(part):
        with Connection(server) as connection:
            connection.send(put_head(upload, part))
            connection.sock.sendall(data[: size // 2])
            halfway.wait()  # all are under way
            connection.sock.sendall(data[size // 2 :])
            return connection.read().status

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        assert set(pool.map(put, range(CONNECTIONS))) == {200}
    assert native.pending(upload) == []
    log.info("peak RSS of the worker: %d MiB", server.peak_rss_bytes() // MIB)
    assert server.peak_rss_bytes() < MAX_RSS_BYTES
    assert native.cancel_raw(upload).status_code == 200
