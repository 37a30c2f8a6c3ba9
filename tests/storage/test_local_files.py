"""Local disk: where files lie, their modes and holes, and no symbolic link is ever followed."""

from __future__ import annotations

import os
import random
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import StorageFault, StorageFull, StorageUnavailable
from app.storage.base import StagedObject
from app.storage.local import LocalStorage

MIB = 1 << 20
TIB = 1 << 40


@pytest.fixture
def outside(tmp_path):
    """A folder beside the root with a file that must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(b"secret")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert (folder / "secret").read_bytes() == b"secret"


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    """Umasks that would allow too much, and too little."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def staged_path(local, staged):
    return local.root / staged.staging_key


def test_staged_and_final_files_lie_where_the_layout_says(local):
    staged = local.filled(b"x", "videos/2024/movie.mp4")
    assert staged.staging_key == f".staging/an-instance/{staged.upload_id}.partial"
    assert staged_path(local, staged).read_bytes() == b"x"
    local.publish(staged)
    final = local.root / f"videos/2024/{staged.upload_id}_movie.mp4"
    assert final.read_bytes() == b"x"
    local.storage.delete(staged.target_key)
    assert final.parent.is_dir()


def test_publishing_moves_no_bytes(local):
    staged = local.filled(b"x")
    before = staged_path(local, staged).stat().st_ino
    local.publish(staged)
    assert (local.root / staged.target_key).stat().st_ino == before
    local.storage.delete(staged.target_key)


@pytest.mark.parametrize(
    ("file_mode", "folder_mode"), [(0o640, 0o750), (0o600, 0o700), (0o644, 0o755), (0o660, 0o770)]
)
def test_modes_are_exact_whatever_the_umask(tmp_path, umask, file_mode, folder_mode):
    storage = LocalStorage(tmp_path / "a/b", "an-instance", file_mode=file_mode)
    staged = StagedObject("u", 5, "folder/new/u_x", storage.root_id)
    storage.create(staged)
    storage.publish(staged, {}, lambda *_: None)
    root = tmp_path / "a/b"
    folders = [".staging", ".staging/an-instance", "folder", "folder/new"]
    assert {mode(root / name) for name in folders} == {folder_mode}
    assert {mode(root / name) for name in [".staging/root-id", "folder/new/u_x"]} == {file_mode}


def test_a_file_is_readable_by_its_owner_and_group_only_by_default(local):
    staged = local.filled(b"x")
    local.publish(staged)
    assert mode(local.root / staged.target_key) == 0o640
    assert mode(local.root / "files") == 0o750
    local.storage.delete(staged.target_key)


def test_holes_take_no_room(local):
    staged = local.staged(TIB)
    assert staged_path(local, staged).stat().st_blocks == 0
    local.put(staged, b"x", index=9, offset=TIB // 2)
    assert staged_path(local, staged).stat().st_blocks * 512 < 1 << 20
    local.storage.discard(staged)


def test_a_file_longer_than_any_system_allows_is_refused(local):
    with pytest.raises(StorageFull, match="larger"):
        local.storage.create(local.unstaged(2**63))
    assert local.leftovers() == []


def test_a_read_object_has_a_descriptor_for_sendfile(local):
    staged = local.filled(b"x" * 1000)
    with local.storage.open(local.publish(staged)) as file:
        assert os.fstat(file.fileno()).st_size == 1000
    local.storage.delete(staged.target_key)


@pytest.mark.parametrize("given", ["./uploads", "uploads", "uploads/", "./uploads//"])
def test_the_location_begins_with_the_root_exactly_as_configured(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage(given, "an-instance")
    assert storage.location("videos/2024/u_movie.mp4") == (
        f"{given.rstrip('/')}/videos/2024/u_movie.mp4"
    )


def test_a_relative_root_stays_where_it_was_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("./uploads", "an-instance")
    monkeypatch.chdir("/")
    staged = StagedObject("u", 0, "files/u_x", storage.root_id)
    storage.create(staged)
    assert (tmp_path / "uploads/.staging/an-instance/u.partial").exists()


def test_the_root_itself_may_be_a_symbolic_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "uploads").symlink_to("disk")
    storage = LocalStorage(tmp_path / "uploads", "an-instance")
    staged = StagedObject("u", 0, "files/u_x", storage.root_id)
    storage.create(staged)
    storage.publish(staged, {}, lambda *_: None)
    assert (tmp_path / "disk/files/u_x").exists()


@pytest.mark.parametrize("replaced", ["folder", "folder/below"])
def test_a_folder_that_has_become_a_symbolic_link_is_not_followed(local, outside, replaced):
    staged = local.filled(b"content", "folder/below/movie.mp4")
    (local.root / replaced).parent.mkdir(exist_ok=True)
    (outside / "below").mkdir()
    (local.root / replaced).symlink_to(outside)
    with pytest.raises(StorageFault, match="symbolic link"):
        local.publish(staged)
    with pytest.raises(StorageUnavailable):
        local.storage.open(staged.target_key)
    with pytest.raises(StorageUnavailable):
        local.storage.delete(staged.target_key)
    assert list((outside / "below").iterdir()) == []
    (outside / "below").rmdir()
    (local.root / replaced).unlink()
    assert local.read(local.publish(staged)) == b"content"
    local.storage.delete(staged.target_key)


def test_a_file_where_a_folder_should_be_fails_for_good(local):
    first = local.filled(b"1")
    local.publish(first)
    second = local.filled(b"2")
    second = replace(second, target_key=f"{first.target_key}/inside")
    with pytest.raises(StorageFault):
        local.publish(second)
    assert local.read(first.target_key) == b"1"
    local.storage.discard(second)
    local.storage.delete(first.target_key)


def test_a_name_too_long_for_the_file_system_fails_for_good(local):
    staged = replace(local.filled(b"x"), target_key="files/" + "a" * 256)
    with pytest.raises(StorageFault, match="too long"):
        local.publish(staged)
    local.storage.discard(staged)


def test_a_staged_file_that_has_become_a_symbolic_link_is_not_followed(local, outside):
    staged = local.staged(6)
    staged_path(local, staged).unlink()
    staged_path(local, staged).symlink_to(outside / "secret")
    for act in (
        lambda: local.storage.create(staged),
        lambda: local.storage.writer(staged, 0, 0, 6),
        lambda: local.publish(staged),
        lambda: local.storage.open(staged.staging_key),
        lambda: local.storage.stat(staged.staging_key),
    ):
        with pytest.raises(StorageUnavailable, match="symbolic link"):
            act()
    assert list(local.storage.orphans(2**40)) == []
    local.storage.discard(staged)


def test_a_new_staged_file_is_not_made_through_a_symbolic_link(local, outside):
    unstaged = local.unstaged(6)
    link = local.root / f".staging/an-instance/{unstaged.upload_id}.partial"
    link.symlink_to(outside / "new")
    with pytest.raises(StorageUnavailable):
        local.storage.create(unstaged)
    link.unlink()


@pytest.mark.parametrize("folder", [".staging", ".staging/an-instance"])
def test_a_staging_folder_that_has_become_a_symbolic_link_is_not_followed(
    local, outside, tmp_path, folder
):
    staged = local.filled(b"content")
    moved = tmp_path / "moved"
    (local.root / folder).rename(moved)
    (local.root / folder).symlink_to(moved)
    for act in (
        lambda: local.storage.create(local.unstaged(1)),
        lambda: local.storage.writer(staged, 0, 0, 7),
        lambda: local.publish(staged),
        lambda: local.storage.discard(staged),
        lambda: local.storage.check(),
        lambda: local.opened(),
    ):
        with pytest.raises(StorageUnavailable):
            act()
    (local.root / folder).unlink()
    moved.rename(local.root / folder)
    assert local.read(local.publish(staged)) == b"content"
    local.storage.delete(staged.target_key)


def test_a_final_file_that_has_become_a_symbolic_link_is_not_followed(local, outside):
    staged = local.filled(b"x")
    local.publish(staged)
    final = local.root / staged.target_key
    final.unlink()
    final.symlink_to(outside / "secret")
    with pytest.raises(StorageUnavailable, match="symbolic link"):
        local.storage.open(staged.target_key)
    local.storage.delete(staged.target_key)
    assert not final.is_symlink()


def test_a_named_pipe_in_the_place_of_a_file_hangs_nobody(local):
    staged = local.staged(5)
    staged_path(local, staged).unlink()
    os.mkfifo(staged_path(local, staged))
    for act in (
        lambda: local.storage.create(staged),
        lambda: local.storage.writer(staged, 0, 0, 5),
        lambda: local.storage.open(staged.staging_key),
    ):
        with pytest.raises(StorageUnavailable):
            act()
    local.storage.discard(staged)


def test_files_that_are_not_ours_are_no_orphans(local):
    folder = local.root / ".staging/an-instance"
    names = ["notes.txt", "x.partial.bak", "a b.partial", ".partial"]
    for name in names:
        (folder / name).write_bytes(b"")
    (folder / "folder.partial").mkdir()
    assert list(local.storage.orphans(2**40)) == []
    for name in names:
        (folder / name).unlink()


def test_a_staging_folder_removed_by_hand_is_made_again(local):
    (local.root / ".staging/an-instance").rmdir()
    assert list(local.storage.orphans(2**40)) == []
    assert local.storage.check() > 0
    (local.root / ".staging/an-instance").rmdir()
    staged = local.filled(b"x")
    assert local.read(local.publish(staged)) == b"x"
    local.storage.delete(staged.target_key)


def test_the_system_s_own_words_are_kept_as_the_cause_and_not_told_to_the_client(local):
    staged = local.filled(b"x", "folder/movie.mp4")
    (local.root / "folder").write_bytes(b"")
    with pytest.raises(StorageFault) as raised:
        local.publish(staged)
    assert "Not a directory" in str(raised.value.__cause__)
    assert staged.target_key in str(raised.value.__cause__)
    assert "folder/" not in raised.value.message
    (local.root / "folder").unlink()
    local.storage.discard(staged)


@pytest.mark.parametrize("instance_id", ["", "..", "a/b", ".", "a\0"])
def test_an_instance_id_that_means_something_to_a_path_is_refused(tmp_path, instance_id):
    with pytest.raises(ValueError, match="not an id"):
        LocalStorage(tmp_path / "uploads", instance_id)
    assert not Path(tmp_path / "uploads").exists()


@pytest.fixture
def on_disk(tmp_path, mounts, local_backend):
    """Make local storage on a disk of its own, of this kind of file system."""

    def make(kind):
        mounts.disk(kind, tmp_path / "image", tmp_path / "uploads")
        return local_backend(tmp_path)

    return make


def write_one_byte(storage, staged, length):
    """Write the first byte of a part at 1 MiB that will have ``length`` bytes."""
    with storage.writer(staged, 0, MIB, length) as writer:
        writer.write(memoryview(b"x"))
        writer.commit(durable=True)


def test_room_is_found_for_more_than_is_there_but_not_for_all(on_disk):
    local = on_disk("ext4")
    staged = local.staged(24 * MIB)
    write_one_byte(local.storage, staged, 20 * MIB)
    found = staged_path(local, staged).stat()
    assert found.st_size == 24 * MIB
    assert 8 * MIB <= found.st_blocks * 512 < 9 * MIB


def test_no_room_is_found_beyond_a_part(on_disk):
    local = on_disk("ext4")
    staged = local.staged(24 * MIB)
    write_one_byte(local.storage, staged, 2 * MIB)
    assert 2 * MIB <= staged_path(local, staged).stat().st_blocks * 512 < 3 * MIB


def test_no_room_is_found_for_an_end_that_is_not_known(on_disk):
    local = on_disk("ext4")
    staged = local.staged(24 * MIB)
    write_one_byte(local.storage, staged, None)
    assert staged_path(local, staged).stat().st_blocks * 512 < MIB


def test_a_file_system_that_finds_no_room_ahead_stores_the_same_bytes(on_disk):
    """ext2 refuses fallocate(2)."""
    local = on_disk("ext2")
    content = random.randbytes(9 * MIB + 5)
    staged = local.filled(content)
    assert staged_path(local, staged).read_bytes() == content
    hollow = local.staged(24 * MIB)
    write_one_byte(local.storage, hollow, 20 * MIB)
    assert staged_path(local, hollow).stat().st_blocks * 512 < MIB
