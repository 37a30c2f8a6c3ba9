"""Single files of the local storage: sizing, writing and probing them, and naming their errors."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from app.errors import LonghaulError, PartsLost, StorageFull, StorageUnavailable
from app.storage import files, keys
from app.storage.base import PartWriter

#: off_t has 63 bits; no system can be asked for more.
_MAX_FILE_BYTES = 2**63 - 1

_TOO_LARGE = "The file is larger than the storage's file system, or a limit on it, allows"

#: The disk is told to begin with the bytes of a part by sixteenths, of at least and at
#: most so many bytes: the sync at its end waits for what is left, and each telling costs
#: a little (docs/performance.md).
_EARLY_SHARE = 16
_MIN_EARLY_BYTES = 1024 * 1024
_MAX_EARLY_BYTES = 8 * 1024 * 1024

#: Written at a time, to a multiple of it. Linux takes a block of memory as large as a write
#: fills, up to a MiB and more, and as its place allows. A virtual machine may have handed
#: large blocks back to its host, and each costs it a wait of milliseconds; smaller ones are
#: at hand (docs/performance.md).
_PIECE_BYTES = 128 * 1024

#: splice(2), as Linux has it, and Pythons that were built for it.
_splice: Callable[..., int] | None = getattr(os, "splice", None)

#: Found room for at a time, before it is written: a third faster than to have each
#: write find its own (docs/performance.md), and little enough to be kept by every
#: client that does not go on.
_ALLOCATED_BYTES = 8 * 1024 * 1024

_FINISHED = "the writer is finished"

_UNAVAILABLE = {
    errno.ENOENT: "The storage root or a folder in it is missing: is its disk mounted?",
    errno.EACCES: "The server may not write to the storage: check owner and mode of its folders",
    errno.EPERM: "The server may not write to the storage: check owner and mode of its folders",
    errno.EROFS: "The storage is mounted read-only: mount it writable",
    errno.EIO: "The storage's disk reports errors: look at the system's log",
    errno.EMFILE: "The server has too many files open: raise its limit of open files",
    errno.ENFILE: "The system has too many files open: raise its limit of open files",
    errno.ELOOP: "A symbolic link stands where the storage expects its own file or folder",
    errno.ENOTDIR: "A file or symbolic link stands where the storage expects a folder",
    errno.EEXIST: "A file stands where the storage expects a folder",
}


def named(error: OSError, key: str) -> OSError:
    """Put the whole key into an error: what was opened was one component of it.

    Errors of the system become causes of the contract's, which name no paths;
    whoever logs those logs the cause too. Nothing is logged in this package:
    it runs in native threads, where logging's locks must not be touched.
    """
    error.filename, error.filename2 = key, None
    return error


def storage_error(error: OSError) -> LonghaulError:
    """Return the contract's error for one of the system's."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull()
    if error.errno == errno.EFBIG:
        return StorageFull(_TOO_LARGE)
    message = _UNAVAILABLE.get(error.errno or 0)
    return StorageUnavailable(message) if message else StorageUnavailable()


@contextlib.contextmanager
def translated(key: str) -> Iterator[None]:
    """Turn OSErrors from within into the contract's errors."""
    try:
        yield
    except OSError as error:
        raise storage_error(error) from named(error, key)


class LocalWriter(PartWriter):
    """Writes at its own running offset of an open staged file, ``length`` bytes if that is known.

    With ``write_early`` the disk begins with the bytes while more are being
    received, so the sync of ``commit`` waits for the last few only: on a file
    that four connections write, that doubled the speed of durable parts.
    """

    __slots__ = (
        "_allocated",
        "_descriptor",
        "_early_bytes",
        "_end",
        "_key",
        "_offset",
        "_unwritten",
        "_write_early",
        "splices",
    )

    def __init__(
        self, descriptor: int, key: str, offset: int, length: int | None, *, write_early: bool
    ) -> None:
        self._descriptor = descriptor
        self._key = key
        self._offset = offset
        self._end = offset if length is None else offset + length
        self._allocated = offset
        self._unwritten = offset
        self._write_early = write_early
        self.splices = _splice is not None
        share = 0 if length is None else length // _EARLY_SHARE
        self._early_bytes = min(max(share, _MIN_EARLY_BYTES), _MAX_EARLY_BYTES)

    def write(self, buffer: memoryview) -> None:
        """See PartWriter."""
        self._write(
            lambda done, count: os.pwrite(
                self._descriptor, buffer[done : done + count], self._offset
            ),
            len(buffer),
        )

    def write_from(self, pipe: int, count: int) -> None:
        """Store ``count`` bytes that wait in a pipe (its reading end); else as ``write``."""
        self._write(lambda _done, count: self._from_pipe(pipe, count), count)

    def _from_pipe(self, pipe: int, count: int) -> int:
        if self.splices:
            try:
                assert _splice is not None
                return _splice(pipe, self._descriptor, count, offset_dst=self._offset)
            except OSError as error:
                if error.errno not in files.UNSUPPORTED:
                    raise
                self.splices = False
        taken = memoryview(os.read(pipe, count))
        files.write_all(self._descriptor, taken, self._offset)
        return len(taken)

    def _write(self, write: Callable[[int, int], int], count: int) -> None:
        """Write ``count`` bytes; ``write`` is given how many are done, and how many more to do."""
        try:
            done = 0
            # Short where the disk or a limit ends within a piece: the next call says why.
            while done < count:
                if self._allocated <= self._offset < self._end:
                    self._allocate()
                to_next_piece = _PIECE_BYTES - self._offset % _PIECE_BYTES
                written = write(done, min(to_next_piece, count - done))
                self._offset += written
                done += written
            if self._write_early and self._offset - self._unwritten >= self._early_bytes:
                # Not the piece that is being filled: it would have to be written twice.
                whole = self._offset - self._offset % _PIECE_BYTES
                files.start_writeback(self._descriptor, self._unwritten, whole - self._unwritten)
                self._unwritten = whole
        except OSError as error:
            raise self._failure(error) from named(error, self._key)

    def _allocate(self) -> None:
        length = min(_ALLOCATED_BYTES, self._end - self._offset)
        if files.allocate(self._descriptor, self._offset, length):
            self._allocated = self._offset + length
        else:  # never again: if there is no room, a write will say so
            self._allocated = self._end

    def commit(self, *, durable: bool) -> str | None:
        """See PartWriter. PartsLost if the file was removed while it was written."""
        if self._descriptor < 0:
            raise ValueError(_FINISHED)
        try:
            try:
                if durable:
                    files.sync_data(self._descriptor)
                links = os.fstat(self._descriptor).st_nlink
            finally:
                self._close()
        except OSError as error:
            raise self._failure(error) from named(error, self._key)
        if links == 0:
            raise PartsLost()
        return None

    def abort(self) -> None:
        """See PartWriter."""
        # An error of close concerns bytes that were given up or synced already.
        with contextlib.suppress(OSError):
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            files.close(descriptor)

    def _failure(self, error: OSError) -> LonghaulError:
        if error.errno == errno.EBADF:
            raise ValueError(_FINISHED) from error
        return storage_error(error)


def size_file(folder: int, name: str, length: int, mode: int) -> None:
    """Make sure that the file is there with at least ``length`` bytes; synced, the folder is not.

    New bytes are a hole. Bytes that are there are never touched. Of a new file
    that cannot have this length, nothing is left.
    """
    if length > _MAX_FILE_BYTES:
        raise StorageFull(_TOO_LARGE)
    try:
        # Private until the mode is set: the umask may allow more than ``mode``.
        descriptor = files.open_file(folder, name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        made = True
    except FileExistsError:
        descriptor = files.open_file(folder, name, os.O_RDWR)
        made = False
    with files.closing(descriptor):
        try:
            if os.fstat(descriptor).st_size < length:
                os.ftruncate(descriptor, length)
        except OSError:
            if made:
                os.unlink(name, dir_fd=folder)
            raise
        os.fchmod(descriptor, mode)
        files.sync_file(descriptor)


def probe(folder: int) -> None:
    """Prove that files can be made, written and removed in ``folder``.

    Removed before it is written, so that a kill leaves nothing behind.
    """
    name = keys.probe_name()
    with files.closing(
        files.open_file(folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    ) as descriptor:
        os.unlink(name, dir_fd=folder)
        os.write(descriptor, b"probe")


def staged_files(folder: int) -> Iterator[tuple[str, float]]:
    """Yield upload id and modification time (Unix seconds) of each staged file in ``folder``."""
    with os.scandir(folder) as entries:
        for entry in entries:
            upload_id = keys.staged_upload_id(entry.name)
            if upload_id is None or not entry.is_file(follow_symlinks=False):
                continue
            try:
                modified_at_seconds = entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:
                continue  # discarded meanwhile
            yield upload_id, modified_at_seconds
