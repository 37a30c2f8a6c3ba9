"""Renaming without overwriting, in each of the ways that file systems allow."""

from __future__ import annotations

import os

import pytest

from app.storage import files
from tests.harness.missing import lacking

#: The user "nobody" on Linux and most others: owns nothing.
NOBODY = 65534

WAYS = [
    files.rename_exclusively,
    files.rename_noreplace,
    files.link_then_unlink,
    files.look_then_rename,
]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def rename(request, tmp_path):
    """Each way in turn, from the folder ``old`` to the folder ``new``."""
    if request.param is files.rename_noreplace and files._libc_renameat2 is None:
        lacking("this system has no renameat2")
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    (tmp_path / "old/file").write_bytes(b"content")

    def rename(name="file", new_name="file"):
        with (
            files.closing(os.open(tmp_path / "old", os.O_RDONLY)) as old,
            files.closing(os.open(tmp_path / "new", os.O_RDONLY)) as new,
        ):
            request.param(old, name, new, new_name)

    return rename


def test_a_file_moves(rename, tmp_path):
    rename()
    assert (tmp_path / "new/file").read_bytes() == b"content"
    assert os.listdir(tmp_path / "old") == []


@pytest.mark.parametrize("name", ["grüße 🎬", "with\nnewline", "x" * 255])
def test_any_name_will_do(rename, tmp_path, name):
    rename(new_name=name)
    assert os.listdir(tmp_path / "new") == [name]


@pytest.mark.parametrize("there", ["file", "empty file", "folder", "dangling link"])
def test_nothing_is_overwritten(rename, tmp_path, there):
    taken = tmp_path / "new/file"
    if there == "folder":
        taken.mkdir()
    elif there == "dangling link":
        taken.symlink_to("nowhere")
    else:
        taken.write_bytes(b"precious" if there == "file" else b"")
    before = taken.lstat()
    with pytest.raises(FileExistsError):
        rename()
    assert taken.lstat() == before
    assert (tmp_path / "old/file").read_bytes() == b"content"


def test_what_is_not_there_is_not_found(rename):
    with pytest.raises(FileNotFoundError):
        rename(name="nothing")


def test_a_symbolic_link_is_moved_itself(rename, tmp_path):
    (tmp_path / "old/link").symlink_to("file")
    rename(name="link", new_name="moved")
    assert os.readlink(tmp_path / "new/moved") == "file"
    assert (tmp_path / "old/file").exists()


def test_a_folder_that_cannot_be_synced_is_no_error():
    """Some network file systems answer EINVAL; the nearest here is a pipe."""
    reading, writing = os.pipe()
    with files.closing(reading), files.closing(writing):
        with pytest.raises(OSError, match="Invalid argument"):
            os.fsync(writing)
        files.sync_folder(writing)


def test_errors_of_syncing_a_folder_come_out():
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.sync_folder(2**30)


WITHOUT_LINKS = """
import os, sys
from app.storage import files
folder, user = sys.argv[1], int(sys.argv[2])
os.setgroups([])
os.setgid(user)
os.setuid(user)
with files.closing(os.open(folder, os.O_RDONLY)) as here:
    try:
        os.link("file", "moved", src_dir_fd=here, dst_dir_fd=here)
    except PermissionError:
        files.link_then_unlink(here, "file", here, "moved")
        print(os.listdir(folder))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to somebody else")
def test_where_no_links_can_be_made_a_file_moves_all_the_same(open_folder, processes):
    """Linux lets nobody link somebody else's private file, but rename it in one's own folder."""
    (open_folder / "file").touch(mode=0o600)
    os.chown(open_folder, NOBODY, NOBODY)
    assert processes.run(WITHOUT_LINKS, open_folder, NOBODY) == "['moved']\n"
