"""The root's marker, on a disk and on a share, and disks that vanish or are exchanged."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from app.errors import StorageUnavailable, WrongRoot
from app.storage.local import LocalStorage


def everything(storage, staged):
    """Return each thing that can be asked of a storage about an upload."""
    return {
        "create": lambda: storage.create(staged),
        "writer": lambda: storage.writer(staged, 0, 0, 1),
        "publish": lambda: storage.publish(staged, {0: None}, lambda *_: None),
        "discard": lambda: storage.discard(staged),
        "open staged": lambda: storage.open(staged.staging_key),
        "open final": lambda: storage.open(staged.target_key),
        "stat": lambda: storage.stat(staged.target_key),
        "delete": lambda: storage.delete(staged.target_key),
        "check": lambda: storage.check(),
        "orphans": lambda: list(storage.orphans(2**40)),
    }


@pytest.fixture(params=["local", "smb"])
def rooted(request):
    """A backend whose root is a folder that the test can reach."""
    return request.getfixturevalue(request.param)


def test_the_marker_holds_a_random_id(rooted):
    marker = (rooted.root / ".staging/root-id").read_text()
    assert marker == f"{rooted.storage.root_id}\n"
    assert len(rooted.storage.root_id) == 32


def test_a_missing_root_is_made_with_its_parents(tmp_path):
    assert LocalStorage(tmp_path / "a/b/c", "an-instance").check() > 0


def test_a_root_that_is_a_file_cannot_be_used(tmp_path):
    (tmp_path / "uploads").write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        LocalStorage(tmp_path / "uploads", "an-instance")
    with pytest.raises(StorageUnavailable):
        LocalStorage(tmp_path / "uploads/below", "an-instance")


@pytest.mark.parametrize("content", ["", "0123", "g" * 32 + "\n", "0" * 33, "\xff" * 40])
def test_a_damaged_marker_is_neither_believed_nor_replaced(rooted, content):
    staged = rooted.staged(1)
    marker = rooted.root / ".staging/root-id"
    intact = marker.read_bytes()
    marker.write_text(content, encoding="latin-1")
    with pytest.raises(StorageUnavailable, match="damaged"):
        rooted.opened()
    for act in everything(rooted.storage, staged).values():
        with pytest.raises(StorageUnavailable, match="damaged"):
            act()
    assert marker.read_text(encoding="latin-1") == content
    marker.write_bytes(intact)
    rooted.storage.discard(staged)


def test_a_root_whose_marker_is_gone_is_left_alone_until_it_is_back(rooted):
    staged = rooted.filled(b"x")
    marker = rooted.root / ".staging/root-id"
    marker.rename(rooted.root / "kept")
    for act in everything(rooted.storage, staged).values():
        with pytest.raises(StorageUnavailable, match="disk"):
            act()
    assert not marker.exists()
    (rooted.root / "kept").rename(marker)
    assert rooted.read(rooted.publish(staged)) == b"x"
    rooted.storage.delete(staged.target_key)


def test_a_root_that_had_an_id_is_not_begun_anew(rooted, tmp_path):
    """A mount point without its disk, or the wrong folder of a share, must get nothing."""
    memory = str(tmp_path / "memory")
    first = rooted.opened(memory_directory=memory).root_id
    assert rooted.opened(memory_directory=memory).root_id == first
    disk = rooted.root.rename(rooted.root.with_name("disk"))
    rooted.root.mkdir()
    with pytest.raises(StorageUnavailable, match="TEMP_STORAGE_PATH"):
        rooted.opened(memory_directory=memory)
    assert list(rooted.root.iterdir()) == []
    rooted.root.rmdir()
    disk.rename(rooted.root)
    assert rooted.opened(memory_directory=memory).root_id == first


@pytest.mark.parametrize("mount_point", ["missing", "empty"])
def test_nothing_is_done_on_a_root_that_is_not_mounted(rooted, mount_point):
    staged = rooted.filled(b"x")
    rooted.root.rename(rooted.root.with_name("disk"))
    if mount_point == "empty":
        rooted.root.mkdir()
    for act in everything(rooted.storage, staged).values():
        with pytest.raises(StorageUnavailable, match="disk") as raised:
            act()
        assert isinstance(raised.value.__cause__, OSError)
    if mount_point == "empty":
        assert list(rooted.root.iterdir()) == []
        rooted.root.rmdir()
    rooted.root.with_name("disk").rename(rooted.root)
    assert rooted.read(rooted.publish(staged)) == b"x"
    rooted.storage.delete(staged.target_key)


def test_nothing_is_done_on_another_root_at_the_same_path(rooted):
    staged = rooted.filled(b"x")
    rooted.root.rename(rooted.root.with_name("disk"))
    other = rooted.opened()
    theirs = replace(staged, root_id=other.root_id)
    other.create(theirs)
    for name, act in everything(rooted.storage, staged).items():
        with pytest.raises(StorageUnavailable if name == "check" else WrongRoot) as raised:
            act()
        assert rooted.storage.root_id in str(
            raised.value.__cause__.__cause__ or raised.value.__cause__
        )
    assert other.stat(theirs.staging_key).size_bytes == 1
    other.discard(theirs)
    rooted.root.rename(rooted.root.with_name("other"))
    rooted.root.with_name("disk").rename(rooted.root)
    assert rooted.read(rooted.publish(staged)) == b"x"
    rooted.storage.delete(staged.target_key)


def test_a_server_started_again_on_another_disk_refuses_the_old_uploads(rooted):
    staged = rooted.filled(b"x")
    rooted.root.rename(rooted.root.with_name("disk"))
    with pytest.raises(WrongRoot):
        rooted.opened().writer(staged, 0, 0, 1)
    rooted.root.rename(rooted.root.with_name("other"))
    rooted.root.with_name("disk").rename(rooted.root)
    rooted.storage.discard(staged)


def test_a_disk_that_is_unmounted_and_mounted_again_is_noticed_and_found(
    tmp_path, mounts, local_backend
):
    root = tmp_path / "uploads"
    mounts.tmpfs(tmp_path / "disk", size_kib=1024)
    mounts.tmpfs(tmp_path / "spare", size_kib=1024)
    mounts.bind(tmp_path / "disk", root)
    local = local_backend(tmp_path)
    staged = local.staged(5)
    mounts.unmount(root)  # fails if the storage keeps the disk busy
    for act in everything(local.storage, staged).values():
        with pytest.raises(StorageUnavailable, match="mounted"):
            act()
    assert os.listdir(root) == []
    mounts.bind(tmp_path / "spare", root)
    local.opened()
    with pytest.raises(WrongRoot):
        local.put(staged, b"lost?")
    mounts.unmount(root)
    mounts.bind(tmp_path / "disk", root)
    local.put(staged, b"found")
    assert local.read(local.publish(staged)) == b"found"
    mounts.unmount(root)
