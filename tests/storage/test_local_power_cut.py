"""Local disk: what is on a real file system if the power goes at a given moment.

The disk is a file system in a file. Whatever was not synced is still in the memory of
the mounted file system and not in that file, so a copy of the file is the disk
as a power cut would leave it; it is mounted beside and looked at. File systems sync
more than they were asked to, and not all of them the same; so the last tests
look at what is asked.
"""

from __future__ import annotations

import os
import random
import shutil

import pytest

from app.storage import files
from app.storage.local import LocalStorage
from tests.harness.stepping import Stepping
from tests.harness.storages import local_place

KIB = 1024


class Disk:
    """A disk whose state after a power cut can be looked at."""

    def __init__(self, folder, mounts, local_backend, kind):
        self._image, self._copy, self._after = folder / "image", folder / "copy", folder / "after"
        self._mounts, self._kind = mounts, kind
        mounts.disk(kind, self._image, folder / "uploads")
        self.backend = local_backend(folder)

    def files_after_a_power_cut_now(self):
        """Return path below the root → content of every file that is there then."""
        shutil.copyfile(self._image, self._copy)
        self._mounts.repair(self._copy)
        self._mounts.image(self._kind, self._copy, self._after)
        try:
            return {
                str(path.relative_to(self._after)): path.read_bytes()
                for path in self._after.rglob("*")
                if path.is_file()
            }
        finally:
            self._mounts.unmount(self._after)


@pytest.fixture(params=["ext4", "ext2"])
def disk(request, tmp_path, mounts, local_backend):
    """ext4's journal brings everything older to disk with each sync; ext2 only what is synced."""
    return Disk(tmp_path, mounts, local_backend, request.param)


def test_a_root_keeps_its_id(disk):
    files = disk.files_after_a_power_cut_now()
    assert files[".staging/root-id"].decode().strip() == disk.backend.storage.root_id


def test_a_created_object_is_there_in_its_full_length(disk):
    staged = disk.backend.staged(100 * KIB)
    assert disk.files_after_a_power_cut_now()[staged.staging_key] == bytes(100 * KIB)


def test_an_object_created_again_after_a_kill_is_there_too(disk):
    """The killed process may have left it without syncing the folder."""
    staged = disk.backend.unstaged(100 * KIB)
    path = disk.backend.root / f".staging/an-instance/{staged.upload_id}.partial"
    path.touch()
    key = disk.backend.storage.create(staged)
    assert disk.files_after_a_power_cut_now()[key] == bytes(100 * KIB)


def test_a_durable_part_is_there_and_others_need_not_be(disk):
    content = random.randbytes(300 * KIB)
    staged = disk.backend.staged(len(content))
    half = len(content) // 2
    disk.backend.put(staged, content[half:], index=1, offset=half)
    found = disk.files_after_a_power_cut_now()[staged.staging_key]
    assert found == bytes(half) + content[half:]


def test_a_file_is_whole_under_one_of_its_names_at_every_moment_of_publishing(disk, processes):
    content = random.randbytes(100 * KIB)
    staged = disk.backend.filled(content, "new folder/below/movie.mp4")
    stepping = Stepping(processes, local_place(disk.backend.root), "publish", staged)
    moments = 0
    while stepping.step[0] != "done":
        files = disk.files_after_a_power_cut_now()
        names = {staged.staging_key, staged.target_key} & set(files)
        assert {files[name] for name in names} == {content}, f"before {stepping.step}"
        stepping.proceed()
        moments += 1
    assert moments > 5
    assert stepping.finish() == staged.target_key
    files = disk.files_after_a_power_cut_now()
    assert files[staged.target_key] == content
    assert staged.staging_key not in files


@pytest.mark.parametrize("durable_parts", [True, False])
def test_a_published_file_is_there_even_if_its_parts_were_not_synced(disk, durable_parts):
    content = random.randbytes(100 * KIB)
    staged = disk.backend.staged(len(content), "folder/movie.mp4")
    with disk.backend.storage.writer(staged, 0, 0, len(content)) as writer:
        writer.write(memoryview(content))
        writer.commit(durable=durable_parts)
    disk.backend.publish(staged)
    assert disk.files_after_a_power_cut_now()[staged.target_key] == content


def test_publishing_again_makes_a_killed_rename_durable(disk, processes):
    content = random.randbytes(100 * KIB)
    staged = disk.backend.filled(content, "folder/below/movie.mp4")
    final = disk.backend.root / staged.target_key
    final.parent.mkdir(parents=True)
    (disk.backend.root / staged.staging_key).rename(final)
    assert LocalStorage(disk.backend.root, "an-instance").publish(
        staged, {0: None}, lambda *_: None
    )
    files = disk.files_after_a_power_cut_now()
    assert files[staged.target_key] == content
    assert staged.staging_key not in files


def test_a_deleted_file_does_not_come_back(disk):
    staged = disk.backend.filled(b"private")
    key = disk.backend.publish(staged)
    disk.backend.storage.delete(key)
    assert key not in disk.files_after_a_power_cut_now()


@pytest.fixture
def synced(local, monkeypatch):
    """What has been synced so far, in order, as paths below the root."""
    paths, sync = [], files.sync_file

    def note_and_sync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        paths.append(os.path.relpath(path, local.root))
        sync(descriptor)

    monkeypatch.setattr(files, "sync_file", note_and_sync)
    return paths


def test_creating_syncs_the_file_and_then_its_folder(local, synced):
    staged = local.staged(10)
    assert synced == [staged.staging_key, ".staging/an-instance"]
    local.storage.discard(staged)


def test_creating_in_a_new_folder_syncs_what_it_is_in(local, synced):
    (local.root / ".staging/an-instance").rmdir()
    staged = local.staged(10)
    assert synced == [".", ".staging", staged.staging_key, ".staging/an-instance"]
    local.storage.discard(staged)


@pytest.mark.parametrize("folders", ["new", "there already"])
def test_publishing_syncs_the_file_then_every_folder_on_the_way(local, synced, folders):
    """Those that are there too: who made them may have been killed before syncing."""
    staged = local.filled(b"content", "a/b/movie.mp4")
    if folders == "there already":
        (local.root / "a/b").mkdir(parents=True)
    synced.clear()
    local.publish(staged)
    assert synced == [staged.staging_key, ".", "a", "a/b", ".staging/an-instance"]
    synced.clear()
    local.publish(staged)
    assert synced == [staged.target_key, ".", "a", "a/b", ".", ".staging", ".staging/an-instance"]
    local.storage.delete(staged.target_key)


def test_without_renameat2_the_new_name_is_synced_before_the_old_one_goes(
    local, synced, monkeypatch
):
    staged = local.filled(b"content")
    monkeypatch.setattr(files, "_libc_renameat2", None)
    synced.clear()
    local.publish(staged)
    assert synced == [staged.staging_key, ".", "files", "files", ".staging/an-instance"]
    local.storage.delete(staged.target_key)


def test_a_first_start_syncs_all_it_made(tmp_path, local, synced):
    LocalStorage(local.root / "new/root", "an-instance")
    names = ["new", "new/root", "new/root/.staging"]
    assert set(names) < set(synced)
    assert synced[-1] == "new/root/.staging"
    shutil.rmtree(local.root / "new")
