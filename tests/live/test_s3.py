"""Uploads into an S3 bucket, over real gunicorn: straight into it, and by way of the disk."""

from __future__ import annotations

import hashlib
import stat

import pytest

from tests.harness.native import MIB, Native
from tests.harness.reading import reader
from tests.harness.resumable import File, Resumable
from tests.harness.s3 import stored
from tests.harness.server import Server
from tests.harness.stores import Bucket
from tests.harness.tus import Tus
from tests.live.wire import until

pytestmark = pytest.mark.live

MARKER = ".staging/root-id"

#: S3's smallest, so that uploads of several parts go straight into the bucket.
CHUNK_SIZE_MB = 5


@pytest.fixture(scope="module")
def bucket(ceph):
    return ceph.new_bucket()


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory, ceph, bucket):
    """A server that stores in a bucket; well-behaved tests share it."""
    settings = ceph.settings(bucket, CHUNK_SIZE_MB=CHUNK_SIZE_MB, S3_LARGER_LAST_PART="true")
    server = Server(tmp_path_factory.mktemp("s3"), **settings)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def client(ceph):
    """A client of the bucket's server, past the code under test."""
    return ceph.client()


@pytest.fixture
def s3(s3_server, client, bucket):
    """A client of that server; a test that leaves something in the bucket fails."""
    yield Native(s3_server)
    assert stored(client, bucket) == [MARKER]
    assert list(s3_server.directory.rglob("*.partial")) == []


@pytest.mark.parametrize("way", ["direct", "staged"])
def test_a_file_ends_in_the_bucket(s3, client, bucket, content, way):
    data = content(2 * CHUNK_SIZE_MB * MIB + 17)
    promised = {"checksum_sha256": hashlib.sha256(data).hexdigest()} if way == "staged" else {}
    upload = s3.init("videos/2024/movie.mp4", size=len(data), **promised)
    on_its_way = [key for key in stored(client, bucket) if key != MARKER]
    assert (list(s3.server.directory.rglob("*.partial")) == []) is (way == "direct")
    key = f"videos/2024/{upload.id}_movie.mp4"
    assert (f"multipart: {key}" in on_its_way) is (way == "direct")
    s3.put_all(upload, data)
    done = s3.complete(upload)
    assert done["final_path"] == f"s3://{bucket}/{key}"
    assert done["storage_backend"] == "s3"
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == data
    assert stored(client, bucket) == [MARKER, key]
    assert s3.request("GET", f"/download/{upload.id}").content == data
    ranged = {"Range": "bytes=5242870-5242889", **s3.headers}
    part = s3.request("GET", f"/download/{upload.id}", headers=ranged)
    assert (part.status_code, part.content) == (206, data[5242870:5242890])
    assert s3.cancel_raw(upload).status_code == 200


@pytest.mark.parametrize("way", ["direct", "staged"])
def test_a_cancelled_upload_leaves_nothing(s3, content, way):
    data = content(2 * CHUNK_SIZE_MB * MIB)
    promised = {"checksum_sha256": hashlib.sha256(data).hexdigest()} if way == "staged" else {}
    upload = s3.init(size=len(data), **promised)
    s3.put(upload, 0, data[: CHUNK_SIZE_MB * MIB])
    assert s3.cancel_raw(upload).status_code == 200


def test_a_wrong_checksum_fails_and_publishes_nothing(s3, client, bucket, content):
    data = content(MIB)
    upload = s3.init(size=len(data), checksum_sha256="0" * 64)
    s3.put_all(upload, data)
    assert s3.complete_raw(upload).status_code == 409
    assert stored(client, bucket) == [MARKER]
    assert s3.cancel_raw(upload).status_code == 200


def test_a_larger_last_chunk_goes_straight_there_if_the_settings_say_so(
    s3, s3_server, client, bucket, content
):
    """Resumable.js makes the last chunk the larger one unless it is told otherwise."""
    resumable = Resumable(s3_server)
    file = File(content(2 * CHUNK_SIZE_MB * MIB + MIB), chunk_size=CHUNK_SIZE_MB * MIB)
    assert file.count == 2
    resumable.octet(file, 1)
    assert list(s3_server.directory.rglob("*.partial")) == []
    upload_id = resumable.octet(file, 2)["id"]
    key = f"files/{upload_id}_movie.mp4"
    until(lambda: stored(client, bucket) == [MARKER, key], what="it is in the bucket")
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == file.content
    assert s3.request("DELETE", f"/upload/{upload_id}").status_code == 200


def test_a_file_that_is_appended_to_is_read_from_the_disk_and_then_from_the_bucket(
    s3, s3_server, content
):
    """Moved into the bucket, it stays open on the disk for who began to read it there."""
    tus, data = Tus(s3_server), content(7 * MIB)
    upload = tus.create(len(data))
    with reader(s3_server, buffer_bytes=64 * 1024) as early, reader(s3_server) as late:
        response = early.ask(upload.id)
        tus.patch(upload, 0, data[:MIB])
        assert response.read(1000) == data[:1000]
        tus.patch(upload, MIB, data[MIB:])
        until(lambda: late.is_finished(upload.id), what="it is in the bucket")
        assert late.ask(upload.id).read() == data
        assert late.ask(upload.id, "Range: bytes=-5").read() == data[-5:]
        assert response.read() == data[1000:]
    assert tus.delete(upload).status_code == 204


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory, ceph):
    """A server whose uploads expire at once if nothing comes. It sweeps when it is told to."""
    directory = tmp_path_factory.mktemp("forgetful")
    settings = {
        "UPLOAD_TTL_HOURS": 3 / 3600,
        "RUN_JOBS_IN_WORKERS": "false",
        "FILE_MODE": "0600",
        "CHUNK_SIZE_MB": CHUNK_SIZE_MB,
    }
    server = Server(directory, store=Bucket(ceph, directory), **settings)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.mark.parametrize("way", ["direct", "staged"])
def test_what_nobody_finishes_is_swept_out_of_the_bucket_and_off_the_disk(forgetful, content, way):
    native, data = Native(forgetful), content(2 * CHUNK_SIZE_MB * MIB)
    promised = {"checksum_sha256": hashlib.sha256(data).hexdigest()} if way == "staged" else {}
    upload = native.init(size=len(data), **promised)
    native.put(upload, 0, data[: CHUNK_SIZE_MB * MIB])
    [staged] = forgetful.staged_files()
    if way == "staged":
        assert stat.S_IMODE(staged.stat().st_mode) == 0o600
    else:
        assert staged.md5_of(0) == hashlib.md5(data[: CHUNK_SIZE_MB * MIB]).hexdigest()
    until(lambda: native.request("GET", f"/upload/{upload.id}/status").status_code == 404)
    assert len(forgetful.staged_files()) == 1, "nobody has swept yet"
    assert upload.id in forgetful.flask("uploads", "cleanup").stdout
    assert forgetful.store.everything() == [MARKER]
    assert forgetful.staged_files() == []
