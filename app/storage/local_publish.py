"""Publishing on local disk: a staged file gets its final name, atomically and for good.

    sync file → make folders, sync their parents → rename → sync both folders

Killed before the rename, the staged file is as it was and everything is done
again; killed after it, the syncing is. Where renaming takes two steps, a file
that has both names loses the old one. At no point is there less than one whole
file, or anything but a whole file under the final name.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from app.errors import PartsLost, StorageFault, StorageUnavailable, TargetExists
from app.storage import files
from app.storage.local_files import named

#: Each further attempt needs somebody else to have removed the target's folder
#: or published the same upload in the very moment between two system calls.
_ATTEMPTS = 10

#: The file system will not have the final name, and no retry changes its mind:
#: a folder of it is a file or a symbolic link, or it is too long or unprintable.
_NAME_REFUSED = frozenset(
    {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
)


@dataclass(frozen=True, slots=True)
class Publication:
    """One file to publish below the folder open as ``root``.

    ``staged`` and ``target`` are components of paths below it, ``length`` is in
    bytes, ``folder_mode`` is for new folders. ``parts_synced``: all bytes were
    synced when their parts were committed.
    """

    root: int
    staged: tuple[str, ...]
    target: tuple[str, ...]
    length: int
    folder_mode: int
    parts_synced: bool

    def carry_out(self) -> None:
        """Publish, or finish what an earlier call began. Durable on return.

        Bytes beyond the length are cut off: a request that was killed after
        writing and before recording left them, nobody acknowledged them. Raises
        PartsLost, TargetExists, StorageFault (the name is refused), OSError.
        """
        for _ in range(_ATTEMPTS):
            try:
                staged = files.find_file(self.root, self.staged, os.O_RDWR)
                if staged is None:
                    self._confirm()
                    return
                with files.closing(staged):
                    self._trim(staged)
                    self._sync(staged)
                    self._rename(staged)
                return
            except FileNotFoundError:
                continue
        raise StorageUnavailable("Folders of the final name keep vanishing; try again")

    def _trim(self, staged: int) -> None:
        size = os.fstat(staged).st_size
        if size < self.length:
            raise PartsLost()
        if size > self.length:
            os.ftruncate(staged, self.length)

    def _sync(self, staged: int) -> None:
        """Sync the file before it gets its final name.

        The system tells of a lost write once and forgets it: the next fsync
        succeeds, though the bytes are gone (seen on Linux 6). So where bytes may
        have waited for this call, it must not be tried again.
        """
        try:
            files.sync_file(staged)
        except OSError as error:
            if self.parts_synced:
                raise
            raise PartsLost() from named(error, "/".join(self.staged))

    def _rename(self, staged: int) -> None:
        with contextlib.ExitStack() as folders:
            source = folders.enter_context(
                files.closing(files.open_folder(self.root, self.staged[:-1]))
            )
            with self._name_refused():
                target = folders.enter_context(
                    files.closing(files.make_folder(self.root, self.target[:-1], self.folder_mode))
                )
                try:
                    files.rename_exclusively(source, self.staged[-1], target, self.target[-1])
                except FileExistsError as error:
                    if not files.is_same_file(staged, target, self.target[-1]):
                        raise TargetExists() from error
                    os.unlink(self.staged[-1], dir_fd=source)
            files.sync_folder(target)
            files.sync_folder(source)

    def _confirm(self) -> None:
        """Make durable again what an earlier call has renamed; PartsLost if it has not."""
        final = files.find_file(self.root, self.target, os.O_RDONLY)
        if final is None:
            raise PartsLost()
        with files.closing(final):
            if os.fstat(final).st_size != self.length:
                raise PartsLost()
            files.sync_file(final)
        for names in (self.target[:-1], self.staged[:-1]):
            # Made if need be, because it also syncs every parent on the way.
            with files.closing(files.make_folder(self.root, names, self.folder_mode)) as folder:
                files.sync_folder(folder)

    @contextlib.contextmanager
    def _name_refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NAME_REFUSED:
                raise
            raise StorageFault(
                "The storage cannot hold a file of this name: a folder of it is a file or a "
                "symbolic link there, or the name is too long for its file system"
            ) from named(error, "/".join(self.target))
