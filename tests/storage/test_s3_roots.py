"""S3: which way an upload goes, how a bucket is known again, and what is nobody else's business."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace

import pytest

from app.errors import StorageUnavailable, WrongRoot
from app.storage.base import Arrival, StagedObject
from app.storage.local import LocalStorage
from app.storage.s3 import MAX_PART_BYTES, MIN_PART_BYTES, S3Storage
from app.storage.s3_client import S3Place
from tests.harness.s3 import stored

MIB = 1 << 20
GIB = 1 << 30
HOUR_SECONDS = 3600
PROCESSES = 4


#: What always waits on a disk.
APPENDED = Arrival(100, None, None, False)


def arrival(length, part_size, part_count, verified=False):
    return Arrival(length, part_size, part_count, verified)


@pytest.mark.parametrize(
    ("comes", "way"),
    [
        (arrival(50 * MIB, 50 * MIB, 1), "direct"),
        (arrival(1, 50 * MIB, 1), "direct"),
        (arrival(101 * MIB, 50 * MIB, 3), "direct"),
        (arrival(10 * MIB, 5 * MIB, 2), "direct"),
        (arrival(10_000 * 50 * MIB, 50 * MIB, 10_000), "direct"),
        (arrival(10_000 * 50 * MIB + 1, 50 * MIB, 10_001), "staged"),
        (arrival(10 * MIB, 5 * MIB - 1, 3), "staged"),
        (arrival(1 * MIB, 1 * MIB, 1), "staged"),
        (arrival(11 * MIB, 5 * MIB, 2), "larger last part"),
        (arrival(9 * MIB, 5 * MIB, 1), "direct"),
        (arrival(12 * GIB, 6 * GIB, 2), "staged"),
        (arrival(9 * GIB, 5 * GIB, 1), "staged"),
        (arrival(0, 50 * MIB, 0), "staged"),
        (arrival(101 * MIB, 50 * MIB, 3, verified=True), "staged"),
        (arrival(None, None, None), "staged"),
        (arrival(100 * MIB, None, None), "staged"),
    ],
)
def test_uploads_go_straight_into_the_bucket_if_their_parts_can(ceph, tmp_path, comes, way):
    place = ceph.place(ceph.shared_bucket("conformance"))
    for larger in (False, True):
        storage = S3Storage(place, str(tmp_path), "an-instance", larger_last_part=larger)
        direct = way == "direct" or (larger and way == "larger last part")
        chosen = storage.root_for(comes)
        assert (chosen == storage.root_id) is direct
        assert chosen in storage.root_ids
        assert storage.capabilities_of(chosen).readable_staging is not direct
        assert storage.capabilities_of(chosen).native_thread_writes is not direct


def test_no_part_is_larger_than_s3_takes():
    assert MIN_PART_BYTES == 5 * MIB
    assert MAX_PART_BYTES == 5 * GIB


def test_the_marker_is_an_object_with_a_random_id(direct):
    content = direct.client.get_object(Bucket=direct.bucket, Key=".staging/root-id")["Body"].read()
    assert content == f"{direct.storage.root_id}\n".encode()
    assert len(direct.storage.root_id) == 32


def test_every_node_has_a_staging_root_of_its_own_on_one_bucket(direct, tmp_path):
    place = direct.server.place(direct.bucket)
    other = S3Storage(place, str(tmp_path / "another node"), "an-instance")
    assert other.root_id == direct.storage.root_id
    assert len(other.root_ids & direct.storage.root_ids) == 1
    for root_id in direct.storage.root_ids | other.root_ids:
        assert other.reaches_final(root_id)


def test_final_objects_of_another_bucket_or_storage_are_out_of_reach(direct, tmp_path):
    """The bucket in the settings was changed: nothing of the old one is looked for in the new."""
    elsewhere = direct.elsewhere()
    local = LocalStorage(tmp_path / "before S3", "an-instance")
    for root_id in elsewhere.root_ids | local.root_ids:
        assert not direct.storage.reaches_final(root_id)


def test_what_was_staged_for_another_bucket_does_not_go_into_this_one(direct, tmp_path):
    """On the same disk."""
    place = direct.server.place(direct.server.shared_bucket("elsewhere"))
    before = S3Storage(place, str(direct.staging), "an-instance")
    staged = StagedObject("0b7c", 4, "files/0b7c_movie.mp4", before.root_for(APPENDED))
    staged = replace(staged, staging_key=before.create(staged))
    for act in (
        lambda: direct.storage.publish(staged, {}, lambda done, total: None),
        lambda: direct.storage.discard(staged),
        lambda: direct.storage.create(staged),
    ):
        with pytest.raises(WrongRoot):
            act()
    before.discard(staged)


@pytest.mark.parametrize("content", [b"", b"0123", b"g" * 32 + b"\n", b"\xff" * 40])
def test_a_damaged_marker_is_neither_believed_nor_replaced(ceph, tmp_path, content):
    bucket, client = ceph.new_bucket(), ceph.client()
    storage = S3Storage(ceph.place(bucket), str(tmp_path), "an-instance")
    client.put_object(Bucket=bucket, Key=".staging/root-id", Body=content)
    with pytest.raises(StorageUnavailable, match="damaged"):
        storage.check()
    with pytest.raises(StorageUnavailable, match="damaged"):
        S3Storage(ceph.place(bucket), str(tmp_path), "an-instance")
    assert client.get_object(Bucket=bucket, Key=".staging/root-id")["Body"].read() == content


def test_another_bucket_in_its_place_is_noticed(ceph, tmp_path):
    bucket, client = ceph.new_bucket(), ceph.client()
    storage = S3Storage(ceph.place(bucket), str(tmp_path), "an-instance")
    client.delete_object(Bucket=bucket, Key=".staging/root-id")
    with pytest.raises(StorageUnavailable, match="not the one"):
        storage.check()
    assert S3Storage(ceph.place(bucket), str(tmp_path), "an-instance").root_id != storage.root_id
    with pytest.raises(StorageUnavailable, match="not the one"):
        storage.check()


START = """
import json, sys
from app.storage.s3 import S3Storage
from app.storage.s3_client import S3Place
place, root = S3Place(**json.loads(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
print(S3Storage(place, root, "an-instance").root_id)
"""


@pytest.mark.parametrize("name", ["ceph", "localstack"])
def test_processes_that_start_at_once_agree_on_the_bucket(request, tmp_path, processes, name):
    server = request.getfixturevalue(name)
    place = server.place(server.new_bucket())
    started = [
        processes.start(START, json.dumps(asdict(place)), tmp_path) for _ in range(PROCESSES)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    ids = {process.communicate()[0].strip() for process in started}
    assert ids == {S3Storage(place, str(tmp_path), "an-instance").root_id}


FORK = """
import json, os, sys
from app.storage.s3 import S3Storage
from app.storage.s3_client import S3Place
storage = S3Storage(S3Place(**json.loads(sys.argv[1])), sys.argv[2], "an-instance")
mine = storage._bucket.clients.calls
storage.check()
if os.fork() == 0:
    storage.check()
    os._exit(storage._bucket.clients.calls is mine)
_, status = os.wait()
storage.check()
assert storage._bucket.clients.calls is mine
print("shared" if status else "apart")
"""


def test_no_client_is_used_on_both_sides_of_a_fork(direct, tmp_path, processes):
    place = json.dumps(asdict(direct.server.place(direct.bucket)))
    assert processes.run(FORK, place, tmp_path).split() == ["apart"]


def test_what_others_have_in_the_bucket_is_never_touched(direct):
    """Other programs' files and uploads, and other instances' notes."""
    client, bucket = direct.client, direct.bucket
    where = {"Bucket": bucket, "Key": "theirs/0b7c_movie.mp4"}
    client.put_object(Bucket=bucket, Key="theirs/file", Body=b"theirs")
    client.put_object(Bucket=bucket, Key=".staging/stray", Body=b"theirs")
    begun = client.create_multipart_upload(**where)
    neighbour = direct.opened("another-instance")
    neighbours = direct.unstaged(10)
    neighbours = replace(neighbours, staging_key=neighbour.create(neighbours))
    before = stored(client, bucket)

    mine = direct.staged(10)
    for orphan in direct.storage.orphans(time.time() + HOUR_SECONDS):
        direct.storage.discard(
            StagedObject(orphan.upload_id, None, "", orphan.root_id, orphan.staging_key)
        )
    direct.storage.discard(mine)
    direct.storage.delete("never/was")
    assert stored(client, bucket) == before

    client.abort_multipart_upload(**where, UploadId=begun["UploadId"])
    client.delete_object(Bucket=bucket, Key="theirs/file")
    client.delete_object(Bucket=bucket, Key=".staging/stray")
    neighbour.discard(neighbours)


def test_a_note_whose_upload_never_began_is_an_orphan(direct):
    """A crash came between the note and the multipart upload."""
    unstaged = direct.unstaged(10)
    note = f".staging/an-instance/{unstaged.upload_id}.partial"
    direct.client.put_object(Bucket=direct.bucket, Key=note, Body=unstaged.target_key.encode())
    [orphan] = direct.storage.orphans(time.time() + HOUR_SECONDS)
    assert orphan.upload_id == unstaged.upload_id
    with pytest.raises(FileNotFoundError):
        direct.storage.stat(orphan.staging_key)
    direct.storage.discard(
        StagedObject(orphan.upload_id, None, "", orphan.root_id, orphan.staging_key)
    )


def test_an_upload_cut_loose_from_its_note_is_found_again_by_creating(direct):
    """A crash came between the multipart upload and the row that names it."""
    unstaged = direct.unstaged(10)
    first = direct.storage.create(unstaged)
    assert direct.opened().create(unstaged) == first
    assert len(direct.leftovers()) == 2
    direct.storage.discard(unstaged)


def test_all_multipart_uploads_of_an_upload_are_discarded_together(direct):
    """A process that was frozen while it created an upload may have begun a second one."""
    staged = direct.staged(10)
    direct.client.create_multipart_upload(Bucket=direct.bucket, Key=staged.target_key)
    direct.storage.discard(staged)


def test_secrets_are_in_no_repr():
    place = S3Place("bucket", "region", access_key_id="AKIA1", secret_access_key="hunter2")
    assert "AKIA1" not in repr(place)
    assert "hunter2" not in repr(place)
