"""What a POSIX file system needs to be safe: walking, syncing, renaming without overwriting.

Below a root everything is reached through descriptors of folders, one component
at a time and never through a symbolic link, so a path that began inside the root
cannot lead out of it, whatever is replaced meanwhile. Knows nothing of uploads;
OSError goes through as it comes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence

# Not os.close: gevent replaces that (25.8.1 and later) by one that leaves a
# folder open until the hub's next round, and may let other greenlets run first.
from posix import close as close

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: O_NONBLOCK means nothing to regular files; without it a named pipe planted in
#: the place of a file would hang the process that opens it.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: Linux, renameat2(2): fail with EEXIST instead of replacing the target.
_RENAME_NOREPLACE = 1

#: Linux, fallocate(2): leave the file's length as it is.
_FALLOC_FL_KEEP_SIZE = 1

#: Linux, sync_file_range(2): start writing dirty pages that are not being written yet.
_SYNC_FILE_RANGE_WRITE = 2

#: How kernels and file systems say that they cannot do what they were asked, or not that way.
UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP})


if sys.platform == "darwin":

    def sync_file(descriptor: int) -> None:
        """Put a file on the platter: macOS's fsync leaves it in the drive's cache."""
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            os.fsync(descriptor)  # network volumes know no F_FULLFSYNC

    sync_data = sync_file
else:
    sync_file = os.fsync
    sync_data = os.fdatasync


def _linux_function(name: str, *argument_types: type) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:  # older libraries lack some
        function.argtypes = argument_types
        function.restype = ctypes.c_int
    return function


_libc_fallocate = _linux_function(
    "fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
)
_libc_sync_file_range = _linux_function(
    "sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
)


def write_all(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Write all of ``buffer`` at ``offset``."""
    written = 0
    while written < len(buffer):
        written += os.pwrite(descriptor, buffer[written:], offset + written)


def allocate(descriptor: int, offset: int, length: int) -> bool:
    """Have the file system find room for bytes that will be written; False if it does not.

    A hint (Linux, fallocate(2)): it spares each write to look for room. Bytes that
    are there are not touched. POSIX's own function would write where a file
    system cannot do this.
    """
    if _libc_fallocate is None:
        return False
    return _libc_fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, offset, length) == 0


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Have the disk begin to write bytes that will be synced soon; waits for nothing.

    A hint (Linux, sync_file_range(2)): what it may fail to do is left to the
    sync, which also tells of errors.
    """
    if _libc_sync_file_range is not None:
        _libc_sync_file_range(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE)


def sync_folder(descriptor: int) -> None:
    """Make a folder's entries durable."""
    try:
        sync_file(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder and say EINVAL;
        # PostgreSQL lets that pass too, there is nothing else to call.
        if error.errno != errno.EINVAL:
            raise


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Yield ``descriptor`` and close it at the end."""
    try:
        yield descriptor
    finally:
        close(descriptor)


def make_root(path: str, mode: int) -> None:
    """Make the folder at ``path`` (absolute) with its parents, durably; fine if it is there."""
    missing = []
    ancestor = path
    while not os.path.lexists(ancestor):
        missing.append(ancestor)
        ancestor = os.path.dirname(ancestor)
    os.makedirs(path, mode=mode, exist_ok=True)
    for made in reversed(missing):
        with closing(os.open(os.path.dirname(made), os.O_RDONLY | os.O_CLOEXEC)) as parent:
            sync_folder(parent)


def open_folder(root: int, names: Sequence[str]) -> int:
    """Return a descriptor of the folder ``names`` below the folder ``root``.

    Raises FileNotFoundError, and NotADirectoryError or ELOOP at a symbolic link.
    """
    folder = os.dup(root)
    for name in names:
        with closing(folder) as parent:
            folder = os.open(name, _FOLDER, dir_fd=parent)
    return folder


def make_folder(root: int, names: Sequence[str], mode: int) -> int:
    """Return a descriptor of the folder ``names`` below ``root``, making what is missing.

    ``mode`` of new folders is exact, whatever the umask. All parents are synced,
    those of folders that exist too: whoever made them may have been killed, or
    may still be running, between the mkdir and the sync.
    """
    folder = os.dup(root)
    for name in names:
        with closing(folder) as parent:
            folder = _open_or_make_folder(parent, name, mode)
    return folder


def _open_or_make_folder(parent: int, name: str, mode: int) -> int:
    made = False
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=parent)
            made = True
        folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        if made:
            os.fchmod(folder, mode)
        sync_folder(parent)
    except BaseException:
        close(folder)
        raise
    return folder


def open_file(folder: int, name: str, flags: int, mode: int = 0) -> int:
    """Return a descriptor of a regular file in ``folder``; ``flags`` and ``mode`` as os.open.

    Raises ELOOP at a symbolic link and anything else that is no regular file.
    """
    descriptor = os.open(name, flags | _FILE, mode, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        close(descriptor)
        raise OSError(errno.ELOOP, "not a regular file", name)
    return descriptor


def find_file(root: int, names: Sequence[str], flags: int) -> int | None:
    """Return a descriptor of the regular file ``names`` below ``root``, None if it is not there."""
    try:
        with closing(open_folder(root, names[:-1])) as folder:
            return open_file(folder, names[-1], flags)
    except FileNotFoundError:
        return None


def read_small_file(folder: int, name: str, max_bytes: int) -> bytes | None:
    """Return at most ``max_bytes`` of a file in ``folder``, None if it is not there."""
    descriptor = find_file(folder, (name,), os.O_RDONLY)
    if descriptor is None:
        return None
    with closing(descriptor):
        return os.read(descriptor, max_bytes)


def is_same_file(descriptor: int, folder: int, name: str) -> bool:
    """Tell whether ``name`` in ``folder`` is the open file ``descriptor`` itself."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


_libc_renameat2 = _linux_function(
    "renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)


def rename_exclusively(from_folder: int, name: str, to_folder: int, new_name: str) -> None:
    """Rename a file without overwriting: FileExistsError if ``new_name`` is taken.

    A crash leaves the file under its old name, its new one, or (without
    renameat2) both; then the new one is whole and the old one may go. Not
    durable before both folders are synced.
    """
    if _libc_renameat2 is not None:
        try:
            rename_noreplace(from_folder, name, to_folder, new_name)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        else:
            return
    link_then_unlink(from_folder, name, to_folder, new_name)


def rename_noreplace(from_folder: int, name: str, to_folder: int, new_name: str) -> None:
    """Rename by renameat2 (Linux 3.15+, most file systems): one step, nothing in between."""
    if _libc_renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    old, new = os.fsencode(name), os.fsencode(new_name)
    if _libc_renameat2(from_folder, old, to_folder, new, _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name, None, new_name)


def link_then_unlink(from_folder: int, name: str, to_folder: int, new_name: str) -> None:
    """Rename by a second link (macOS, old kernels): for a moment the file has both names.

    The new name is synced before the old one goes: a power cut must not find
    the second change on disk without the first.
    """
    try:
        os.link(name, new_name, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        look_then_rename(from_folder, name, to_folder, new_name)
        return
    sync_folder(to_folder)
    os.unlink(name, dir_fd=from_folder)


def look_then_rename(from_folder: int, name: str, to_folder: int, new_name: str) -> None:
    """Rename on a file system without links (exFAT, sshfs): look first, then rename.

    Who takes the name in between is overwritten. Final names carry a random
    upload id and publishing holds a lease, so nobody does.
    """
    try:
        os.stat(new_name, dir_fd=to_folder, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(name, new_name, src_dir_fd=from_folder, dst_dir_fd=to_folder)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
