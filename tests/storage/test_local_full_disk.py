"""Local disk: real disks that are full, read-only, broken or forbidden."""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict

import pytest

from app.errors import PartsLost, StorageFull, StorageUnavailable
from app.storage.local import LocalStorage

KIB = 1024
MIB = 1024 * KIB

#: The user "nobody" on Linux and most others: owns nothing.
NOBODY = 65534


@pytest.fixture
def small(tmp_path, mounts, local_backend):
    """Local storage on a real disk of 1 MiB."""
    mounts.tmpfs(tmp_path / "uploads", size_kib=1024)
    backend = local_backend(tmp_path)
    yield backend
    assert backend.leftovers() == []


def test_a_full_disk_is_told_and_heals_once_there_is_room(small):
    big, content = small.staged(10 * MIB), random.randbytes(300 * KIB)
    other = small.staged(len(content))
    with pytest.raises(StorageFull):
        small.put(big, bytes(2 * MIB))
    with pytest.raises(StorageFull):
        small.put(other, content)
    with pytest.raises(StorageFull):
        small.storage.check()
    small.storage.discard(big)
    assert small.storage.check() > 900 * KIB
    small.put(other, content)
    assert small.read(small.publish(other)) == content
    small.storage.delete(other.target_key)


def test_all_that_fits_before_the_disk_is_full_is_kept(small):
    """Parts already acknowledged are not harmed by one that did not fit."""
    content = random.randbytes(900 * KIB)
    staged = small.staged(10 * MIB)
    small.put(staged, content)
    with pytest.raises(StorageFull):
        small.put(staged, bytes(2 * MIB), index=1, offset=len(content))
    with small.storage.open(staged.staging_key) as file:
        assert file.read(len(content)) == content
    small.storage.discard(staged)


def test_what_the_system_said_to_a_write_is_kept_as_the_cause(small):
    staged = small.staged(10 * MIB)
    with pytest.raises(StorageFull) as raised:
        small.put(staged, bytes(2 * MIB))
    assert "No space left" in str(raised.value.__cause__)
    assert staged.staging_key in str(raised.value.__cause__)
    small.storage.discard(staged)


def test_a_first_start_on_a_full_disk_says_so_and_leaves_nothing(tmp_path, mounts):
    mounts.tmpfs(tmp_path / "uploads", size_kib=64)
    filler = tmp_path / "uploads/filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(KIB))
    with pytest.raises(StorageFull):
        LocalStorage(tmp_path / "uploads", "an-instance")
    assert list((tmp_path / "uploads/.staging").iterdir()) == []
    filler.unlink()
    assert LocalStorage(tmp_path / "uploads", "an-instance").check() > 0


def test_a_read_only_disk_can_be_read_and_says_why_no_more(small, mounts):
    published, staged = small.filled(b"published"), small.filled(b"staged")
    small.publish(published)
    mounts.make_read_only(small.root)
    for act in (
        lambda: small.storage.check(),
        lambda: small.staged(1),
        lambda: small.put(staged, b"x"),
        lambda: small.publish(staged),
        lambda: small.storage.discard(staged),
        lambda: small.storage.delete(published.target_key),
    ):
        with pytest.raises(StorageUnavailable, match="read-only"):
            act()
    assert small.read(published.target_key) == b"published"
    mounts.run("mount", "-o", "remount,rw", str(small.root))
    small.storage.discard(staged)
    small.storage.delete(published.target_key)


@pytest.fixture
def failing(tmp_path, mounts, local_backend):
    """Storage on a disk of 16 MiB that can in truth hold 1 MiB.

    The file system takes everything into memory, and fails when it has to sync.
    """
    mounts.tmpfs(tmp_path / "truth", size_kib=1024)
    mounts.disk("ext2", tmp_path / "truth/image", tmp_path / "uploads")
    return local_backend(tmp_path)


def test_a_part_is_not_committed_if_it_cannot_be_synced(failing):
    staged = failing.staged(8 * MIB)
    with failing.storage.writer(staged, 0, 0, 8 * MIB) as writer:
        writer.write(memoryview(bytes(b"x" * (8 * MIB))))
        with pytest.raises((StorageFull, StorageUnavailable)):
            writer.commit(durable=True)


def written_without_sync(failing):
    staged = failing.staged(8 * MIB)
    with failing.storage.writer(staged, 0, 0, 8 * MIB) as writer:
        writer.write(memoryview(b"x" * (8 * MIB)))
        writer.commit(durable=False)
    return staged


def test_a_sync_that_fails_when_publishing_has_lost_parts_that_were_not_synced(failing):
    staged = written_without_sync(failing)
    relaxed = LocalStorage(failing.root, "an-instance", parts_synced=False)
    with pytest.raises(PartsLost):
        relaxed.publish(staged, {0: None}, lambda *_: None)
    assert not (failing.root / staged.target_key).exists()


def test_a_sync_that_fails_when_publishing_synced_parts_may_be_tried_again(failing):
    staged = written_without_sync(failing)
    with pytest.raises((StorageFull, StorageUnavailable)):
        failing.publish(staged)
    assert not (failing.root / staged.target_key).exists()


LIMITED = """
import json, os, resource, sys
from app.errors import StorageFull
from app.storage.base import StagedObject
from app.storage.local import LocalStorage
root, upload, way = sys.argv[1:]
storage, staged = LocalStorage(root, "an-instance"), StagedObject(**json.loads(upload))
KIB = 1024

def raise_limit(frame, event, argument):
    if event == "c_return" and argument is os.pwrite:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))

_, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100 * KIB, unlimited))
try:
    if way == "create":
        storage.create(staged)
    with storage.writer(staged, 0, 0, 300 * KIB) as writer:
        if way == "raised":
            sys.setprofile(raise_limit)
        writer.write(memoryview(b"0123456789abcdef" * (300 * 64)))
        writer.commit(durable=True)
    print("written")
except StorageFull as error:
    print(error.message)
"""


def test_a_short_write_is_continued_where_it_ended(local, processes):
    """The limit ends the first call after 100 KiB; before the second it is raised."""
    staged = local.staged(None)
    upload = json.dumps(asdict(staged))
    assert processes.run(LIMITED, local.root, upload, "raised") == "written\n"
    assert local.read(staged.staging_key) == b"0123456789abcdef" * (300 * 64)
    local.storage.discard(staged)


def test_a_limit_on_the_size_of_files_is_a_full_storage(local, processes):
    staged = local.staged(None)
    upload = json.dumps(asdict(staged))
    assert "larger" in processes.run(LIMITED, local.root, upload, "kept")
    local.storage.discard(staged)


def test_of_a_file_that_may_not_be_that_long_nothing_is_left(local, processes):
    upload = json.dumps(asdict(local.unstaged(300 * KIB)))
    assert "larger" in processes.run(LIMITED, local.root, upload, "create")
    assert local.leftovers() == []


FORBIDDEN = """
import json, os, sys
from app.errors import LonghaulError
from app.storage.base import StagedObject
from app.storage.local import LocalStorage
root, user = sys.argv[1], int(sys.argv[2])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
os.umask(0)
storage = LocalStorage(root + "/uploads", "an-instance")
staged = StagedObject("u", 1, "files/u_x", storage.root_id)
storage.create(staged)
folders = [f"{root}/uploads/{name}" for name in ("", ".staging", ".staging/an-instance")]
for folder in reversed(folders):
    os.chmod(folder, 0o500)
outcomes = {}
for name, act in {
    "check": lambda: storage.check(),
    "create": lambda: storage.create(StagedObject("v", 1, "files/v_x", storage.root_id)),
    "publish": lambda: storage.publish(staged, {}, lambda *_: None),
    "discard": lambda: storage.discard(staged),
    "start": lambda: LocalStorage(root + "/uploads", "another-instance"),
    "start above": lambda: LocalStorage(root + "/uploads/below", "an-instance"),
}.items():
    try:
        act()
    except LonghaulError as error:
        outcomes[name] = [error.code, error.message]
for folder in folders:
    os.chmod(folder, 0o700)
print(json.dumps(outcomes))
"""


def test_folders_that_may_not_be_written_are_told_and_nothing_is_lost(open_folder, processes):
    if os.geteuid() == 0:
        os.chown(open_folder, NOBODY, NOBODY)
    outcomes = json.loads(processes.run(FORBIDDEN, open_folder, NOBODY).splitlines()[-1])
    assert set(outcomes) == {"check", "create", "publish", "discard", "start", "start above"}
    for code, message in outcomes.values():
        assert code == "storage_unavailable"
        assert "owner and mode" in message
        assert str(open_folder) not in message
    assert (open_folder / "uploads/.staging/an-instance/u.partial").stat().st_size == 1
