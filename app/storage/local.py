"""Local disk: parts go straight into a sparse file on the disk where it will stay.

Staged files lie under ``.staging/<instance id>/`` of the root itself (the tree is
drawn in ``keys.py``), so publishing is fsync and a rename, whatever the size.
Everything below the root is opened as ``files.py`` does it, and every operation
first reads the root's marker through the descriptor it then works with: a disk
that was unmounted or exchanged is noticed before anything is read or written.

No file stays open between calls, except those of writers and readers: an
instance survives fork, and never keeps a disk from being unmounted.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from app.errors import PartsLost, StorageUnavailable, WrongRoot
from app.storage import files, keys
from app.storage.base import (
    Capabilities,
    ObjectStat,
    Orphan,
    PartWriter,
    Progress,
    StagedObject,
    Storage,
)
from app.storage.local_copies import copy_range
from app.storage.local_files import (
    LocalWriter,
    probe,
    size_file,
    staged_files,
    translated,
)
from app.storage.local_publish import Publication
from app.storage.marker import RootMemory, read_marker, settle_marker

_NO_MARKER = "The storage root's marker file is missing: is its disk mounted?"


class LocalStorage(Storage):
    """Files below a folder of this machine.

    ``root`` is made if it is not there; ``location`` shows it as it was given
    (``./uploads`` stays ``./uploads``). ``instance_id`` names this
    installation's ledger and with it its own part of the staging folder.
    ``file_mode`` is the exact mode of stored files, whatever the umask; new
    folders get the same with search permission for whoever may read (0640 →
    0750). ``parts_synced`` says that every part is committed durably; without
    it a sync that fails when publishing has lost bytes, and is PartsLost.
    ``memory_directory``, on another disk, is where the root's id is remembered.
    Raises StorageUnavailable or StorageFull if the root cannot be used.
    """

    backend = "local"
    capabilities = Capabilities(
        random_writes=True,
        native_thread_writes=True,
        readable_staging=True,
        concatenation=True,
        publishing_moves_no_bytes=True,
    )

    def __init__(
        self,
        root: str | os.PathLike[str],
        instance_id: str,
        *,
        file_mode: int = 0o640,
        parts_synced: bool = True,
        memory_directory: str | None = None,
    ) -> None:
        self._shown_root = os.fspath(root)
        self._path = os.path.abspath(self._shown_root)  # servers change their directory
        self._instance_id = keys.checked_id(instance_id)
        self._file_mode = file_mode
        self._parts_synced = parts_synced
        self._folder_mode = 0o700 | file_mode | (file_mode & 0o444) >> 2
        memory = None if memory_directory is None else RootMemory(memory_directory, self._path)
        with translated(self._path):
            if memory is not None:
                memory.refuse_stranger(self._marker())
            files.make_root(self._path, self._folder_mode)
            with files.closing(self._open_root()) as root_fd:
                self.root_id = settle_marker(
                    root_fd, file_mode=file_mode, folder_mode=self._folder_mode
                )
                folder = keys.staging_folder(instance_id)
                files.close(files.make_folder(root_fd, folder, self._folder_mode))
            if memory is not None:
                memory.remember(self.root_id)

    def create(self, staged: StagedObject) -> str:
        """See Storage; StorageFull also where the file system has no files of that length."""
        key = keys.staging_key(self._instance_id, staged.upload_id)
        *folder_names, name = keys.split_staging_key(key)
        with (
            self._rooted(key, staged.root_id) as root_fd,
            files.closing(self._staging_folder(root_fd, folder_names)) as folder,
        ):
            size_file(folder, name, staged.length or 0, self._file_mode)
            files.sync_folder(folder)
        return key

    def writer(
        self, staged: StagedObject, index: int, offset: int, length: int | None
    ) -> PartWriter:
        """See Storage."""
        names = self._staged_names(staged)
        with self._rooted("/".join(names), staged.root_id) as root_fd:
            descriptor = files.find_file(root_fd, names, os.O_WRONLY)
        if descriptor is None:
            raise PartsLost()
        return LocalWriter(
            descriptor, "/".join(names), offset, length, write_early=self._parts_synced
        )

    def publish(
        self, staged: StagedObject, receipts: Mapping[int, str | None], on_progress: Progress
    ) -> str:
        """See Storage. Takes as long as syncing does; the bytes are not moved."""
        if staged.length is None:
            raise ValueError("an upload of unknown length cannot be published")
        names, target = self._staged_names(staged), keys.split_final_key(staged.target_key)
        with self._rooted(staged.target_key, staged.root_id) as root_fd:
            Publication(
                root_fd, names, target, staged.length, self._folder_mode, self._parts_synced
            ).carry_out()
        on_progress(staged.length, staged.length)
        return staged.target_key

    def join(
        self, target: StagedObject, sources: Sequence[StagedObject], on_progress: Progress
    ) -> None:
        """See Storage. The kernel moves the bytes, or shares them where the file system can."""
        names = self._staged_names(target)
        with self._rooted("/".join(names), target.root_id) as root_fd:
            joined = _required(files.find_file(root_fd, names, os.O_WRONLY))
            with files.closing(joined):
                total, done = sum(source.length or 0 for source in sources), 0
                for source in sources:
                    if source.root_id != target.root_id:
                        raise WrongRoot
                    length = source.length or 0
                    source_names = self._staged_names(source)
                    found = _required(files.find_file(root_fd, source_names, os.O_RDONLY))
                    with files.closing(found):
                        for moved in copy_range(found, joined, done, length):
                            on_progress(done + moved, total)
                    done += length
                files.sync_file(joined)

    def discard(self, staged: StagedObject) -> None:
        """See Storage. What a power cut brings back is found again by ``orphans``."""
        names = self._staged_names(staged)
        with (
            self._rooted("/".join(names), staged.root_id) as root_fd,
            contextlib.suppress(FileNotFoundError),
            files.closing(files.open_folder(root_fd, names[:-1])) as folder,
        ):
            os.unlink(names[-1], dir_fd=folder)

    def open(self, key: str) -> BinaryIO:
        """See Storage."""
        names = keys.split_key(key)
        with self._rooted(key) as root_fd:
            descriptor = files.find_file(root_fd, names, os.O_RDONLY)
        if descriptor is None:
            raise FileNotFoundError(key)
        return open(descriptor, "rb")

    def delete(self, final_key: str) -> None:
        """See Storage. Folders stay, empty or not: whether an upload made them is not known."""
        *folder_names, name = keys.split_final_key(final_key)
        with self._rooted(final_key) as root_fd:
            try:
                folder = files.open_folder(root_fd, folder_names)
            except FileNotFoundError:
                return
            with files.closing(folder):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                files.sync_folder(folder)

    def stat(self, key: str) -> ObjectStat:
        """See Storage."""
        with self.open(key) as file:
            found = os.fstat(file.fileno())
        return ObjectStat(found.st_size, found.st_mtime)

    def check(self, root_id: str | None = None) -> int | None:
        """See Storage."""
        try:
            with self._rooted(self._path) as root_fd:
                names = keys.staging_folder(self._instance_id)
                with files.closing(self._staging_folder(root_fd, names)) as folder:
                    probe(folder)
                disk = os.fstatvfs(root_fd)
        except WrongRoot as error:
            raise StorageUnavailable(
                "The storage root is not the one this server started with: another disk is "
                "mounted in its place; mount the right one, or restart the server"
            ) from error
        return disk.f_bavail * disk.f_frsize

    def orphans(self, older_than_seconds: float) -> Iterator[Orphan]:
        """See Storage."""
        found = []
        names = keys.staging_folder(self._instance_id)
        with (
            self._rooted(self._path) as root_fd,
            contextlib.suppress(FileNotFoundError),
            files.closing(files.open_folder(root_fd, names)) as folder,
        ):
            found = [
                Orphan(
                    upload_id, keys.staging_key(self._instance_id, upload_id), self.root_id, mtime
                )
                for upload_id, mtime in staged_files(folder)
                if mtime < older_than_seconds
            ]
        return iter(found)

    def location(self, final_key: str) -> str:
        """See Storage."""
        return f"{self._shown_root.rstrip('/')}/{final_key}"

    def _marker(self) -> str | None:
        try:
            with files.closing(self._open_root()) as root_fd:
                return read_marker(root_fd)
        except FileNotFoundError:
            return None

    def _open_root(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _staging_folder(self, root_fd: int, names: Sequence[str]) -> int:
        try:
            return files.open_folder(root_fd, names)
        except FileNotFoundError:
            return files.make_folder(root_fd, names, self._folder_mode)

    def _staged_names(self, staged: StagedObject) -> tuple[str, ...]:
        key = staged.staging_key or keys.staging_key(self._instance_id, staged.upload_id)
        return keys.split_staging_key(key)

    @contextlib.contextmanager
    def _rooted(self, key: str, root_id: str | None = None) -> Iterator[int]:
        """Yield a descriptor of the root, proven to be the one this instance began with.

        OSErrors from within come out as the contract's errors. Raises WrongRoot
        if the root, or the upload's ``root_id``, is another one.
        """
        if root_id is not None and root_id != self.root_id:
            raise WrongRoot()
        with translated(key), files.closing(self._open_root()) as root_fd:
            found = read_marker(root_fd)
            if found != self.root_id:
                cause = OSError(errno.ESTALE, f"root {found} instead of {self.root_id}", self._path)
                raise (StorageUnavailable(_NO_MARKER) if found is None else WrongRoot()) from cause
            yield root_fd


def _required(descriptor: int | None) -> int:
    if descriptor is None:
        raise PartsLost()
    return descriptor
