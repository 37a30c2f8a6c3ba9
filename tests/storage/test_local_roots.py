"""Local disk: the root's marker, and disks that vanish or are exchanged."""

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


def test_the_marker_holds_a_random_id(local):
    marker = (local.root / ".staging/root-id").read_text()
    assert marker == f"{local.storage.root_id}\n"
    assert len(local.storage.root_id) == 32


def test_a_missing_root_is_made_with_its_parents(tmp_path):
    assert LocalStorage(tmp_path / "a/b/c", "an-instance").check() > 0


def test_a_root_that_is_a_file_cannot_be_used(tmp_path):
    (tmp_path / "uploads").write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        LocalStorage(tmp_path / "uploads", "an-instance")
    with pytest.raises(StorageUnavailable):
        LocalStorage(tmp_path / "uploads/below", "an-instance")


@pytest.mark.parametrize("content", ["", "0123", "g" * 32 + "\n", "0" * 33, "\xff" * 40])
def test_a_damaged_marker_is_neither_believed_nor_replaced(local, content):
    staged = local.staged(1)
    marker = local.root / ".staging/root-id"
    intact = marker.read_bytes()
    marker.write_text(content, encoding="latin-1")
    with pytest.raises(StorageUnavailable, match="damaged"):
        local.opened()
    for act in everything(local.storage, staged).values():
        with pytest.raises(StorageUnavailable, match="damaged"):
            act()
    assert marker.read_text(encoding="latin-1") == content
    marker.write_bytes(intact)
    local.storage.discard(staged)


def test_a_root_whose_marker_is_gone_is_left_alone_until_it_is_back(local):
    staged = local.filled(b"x")
    marker = local.root / ".staging/root-id"
    marker.rename(local.root / "kept")
    for act in everything(local.storage, staged).values():
        with pytest.raises(StorageUnavailable, match="mounted"):
            act()
    assert not marker.exists()
    (local.root / "kept").rename(marker)
    assert local.read(local.publish(staged)) == b"x"
    local.storage.delete(staged.target_key)


@pytest.mark.parametrize("mount_point", ["missing", "empty"])
def test_nothing_is_done_on_a_root_that_is_not_mounted(local, tmp_path, mount_point):
    staged = local.filled(b"x")
    local.root.rename(tmp_path / "disk")
    if mount_point == "empty":
        local.root.mkdir()
    for act in everything(local.storage, staged).values():
        with pytest.raises(StorageUnavailable, match="mounted") as raised:
            act()
        assert isinstance(raised.value.__cause__, OSError)
    if mount_point == "empty":
        assert list(local.root.iterdir()) == []
        local.root.rmdir()
    (tmp_path / "disk").rename(local.root)
    assert local.read(local.publish(staged)) == b"x"
    local.storage.delete(staged.target_key)


def test_nothing_is_done_on_another_root_at_the_same_path(local, tmp_path):
    staged = local.filled(b"x")
    local.root.rename(tmp_path / "disk")
    other = local.opened()
    theirs = replace(staged, root_id=other.root_id)
    other.create(theirs)
    for name, act in everything(local.storage, staged).items():
        with pytest.raises(StorageUnavailable if name == "check" else WrongRoot) as raised:
            act()
        assert local.storage.root_id in str(
            raised.value.__cause__.__cause__ or raised.value.__cause__
        )
    assert other.stat(theirs.staging_key).size_bytes == 1
    other.discard(theirs)
    local.root.rename(tmp_path / "other")
    (tmp_path / "disk").rename(local.root)
    assert local.read(local.publish(staged)) == b"x"
    local.storage.delete(staged.target_key)


def test_a_server_started_again_on_another_disk_refuses_the_old_uploads(local, tmp_path):
    staged = local.filled(b"x")
    local.root.rename(tmp_path / "disk")
    with pytest.raises(WrongRoot):
        local.opened().writer(staged, 0, 0, 1)
    local.root.rename(tmp_path / "other")
    (tmp_path / "disk").rename(local.root)
    local.storage.discard(staged)


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
