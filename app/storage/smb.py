"""An SMB share: parts go straight into a sparse file on the share where it will stay.

The same tree as on local disk (it is drawn in ``keys.py``), below SMB_PATH of the
share, so publishing is a flush and a rename on the server, whatever the size.
Names are stored as ``smb_names`` says. Everything is signed, and encrypted where
the server offers it.

    smb.py           the contract
    smb_root.py      which root this is      smb_publish.py   staged → final
    smb_claim.py     one renames at a time
    smb_writer.py    parts                   smb_reader.py    reading
    smb_files.py     files and folders, over one connection
    smb_share.py     a few connections, made when needed, renewed when lost
    smb_channel.py   requests and answers    smb_login.py     negotiation, login
    smb_requests.py, smb_seal.py, smb_names.py, smb_errors.py   bytes and words

All of it blocks and runs in native threads; a caller in gevent's hub waits as a
greenlet. One limit remains: a server that froze with parts of a request already
received may write them when it wakes up, after the client has sent the part
again. As the same part has the same bytes, that changes nothing, unless the
client's file has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, TypeVar, cast

from app.errors import PartsLost, StorageFull, StorageUnavailable, WrongRoot
from app.storage import keys, smb_files
from app.storage.base import (
    Capabilities,
    ObjectStat,
    Orphan,
    PartWriter,
    Progress,
    StagedObject,
    Storage,
)
from app.storage.marker import RootMemory
from app.storage.smb_channel import Channel
from app.storage.smb_errors import Refused, Status, translated
from app.storage.smb_files import ShareFile
from app.storage.smb_publish import SmbPublication
from app.storage.smb_reader import SmbReader
from app.storage.smb_root import Root, read_marker, settle_marker
from app.storage.smb_share import Lane, Share
from app.storage.smb_writer import SmbWriter

T = TypeVar("T")

#: Sizes are 63 bits in the protocol.
_MAX_FILE_BYTES = 2**63 - 1
_TOO_LARGE = "The file is larger than the SMB share's file system allows"


class SmbStorage(Storage):
    """Files below a folder of a share.

    ``path`` has the folder's components and is made if it is not there.
    ``instance_id``, ``parts_synced`` and ``memory_directory`` are as for
    LocalStorage. Raises StorageUnavailable or StorageFull if the share cannot be
    used.
    """

    backend = "smb"
    capabilities = Capabilities(
        random_writes=True,
        native_thread_writes=True,
        readable_staging=True,
        concatenation=False,
    )

    def __init__(
        self,
        share: Share,
        path: tuple[str, ...],
        instance_id: str,
        *,
        parts_synced: bool = True,
        memory_directory: str | None = None,
    ) -> None:
        self._share = share
        self._path = path
        self._instance_id = keys.checked_id(instance_id)
        self._parts_synced = parts_synced
        memory = None
        if memory_directory is not None:
            memory = RootMemory(memory_directory, "/".join((share.address, *path)))
            memory.refuse_stranger(self._use("/".join(path), lambda c: read_marker(c, path)))
        self.root_id = self._use("/".join(path), self._settle)
        self._root = Root(path, self.root_id)
        if memory is not None:
            memory.remember(self.root_id)

    def create(self, staged: StagedObject) -> str:
        """See Storage; StorageFull also where the file system has no files of that length."""
        key = keys.staging_key(self._instance_id, staged.upload_id)
        self._require_root(staged)
        length = staged.length or 0
        if length > _MAX_FILE_BYTES:
            raise StorageFull(_TOO_LARGE)
        names = self._root.below(keys.split_staging_key(key))

        def create(channel: Channel) -> str:
            self._root.verify(channel)
            folder = names[:-1]
            with _made(channel, folder, lambda: smb_files.open_or_create(channel, names)) as file:
                if file.size_bytes < length:
                    _lengthen(channel, file, names, length)
                file.flush()
            smb_files.sync_folder(channel, folder)
            return key

        return self._use(key, create)

    def writer(
        self, staged: StagedObject, index: int, offset: int, length: int | None
    ) -> PartWriter:
        """See Storage."""
        names = self._staged_names(staged)
        self._require_root(staged)
        opened = self._opened(names, smb_files.find_for_writing)
        if opened is None:
            raise PartsLost()
        return SmbWriter(self._share, *opened, "/".join(names), offset)

    def publish(
        self, staged: StagedObject, receipts: Mapping[int, str | None], on_progress: Progress
    ) -> str:
        """See Storage. Takes as long as flushing does; the bytes are not moved."""
        if staged.length is None:
            raise ValueError("an upload of unknown length cannot be published")
        names, target = self._staged_names(staged), keys.split_final_key(staged.target_key)
        self._require_root(staged)
        publication = SmbPublication(self._root, names, target, staged.length, self._parts_synced)
        self._use(staged.target_key, publication.carry_out)
        on_progress(staged.length, staged.length)
        return staged.target_key

    def discard(self, staged: StagedObject) -> None:
        """See Storage. The file goes when the last of its writers has closed it."""
        names = self._staged_names(staged)
        self._require_root(staged)
        self._remove(names, durably=False)

    def open(self, key: str) -> BinaryIO:
        """See Storage. There is no ``fileno()``."""
        names = keys.split_key(key)
        opened = self._opened(names, smb_files.find_for_reading)
        if opened is None:
            raise FileNotFoundError(key)
        return cast(BinaryIO, SmbReader(self._share, *opened, key))

    def delete(self, final_key: str) -> None:
        """See Storage. Folders stay, empty or not: whether an upload made them is not known."""
        self._remove(keys.split_final_key(final_key), durably=True)

    def stat(self, key: str) -> ObjectStat:
        """See Storage."""
        names = keys.split_key(key)

        found = self._use(key, lambda channel: self._found(channel, names, smb_files.stat_file))
        if found is None:
            raise FileNotFoundError(key)
        return ObjectStat(found.size_bytes, found.modified_at_seconds)

    def check(self, root_id: str | None = None) -> int | None:
        """See Storage."""
        folder = self._root.below(keys.staging_folder(self._instance_id))

        def check(channel: Channel) -> int:
            self._root.verify(channel)
            name = (*folder, keys.probe_name())
            with _made(channel, folder, lambda: smb_files.create_passing(channel, name)) as probe:
                probe.write(0, b"probe")
                return probe.free_bytes()

        try:
            return self._use("/".join(self._path), check)
        except WrongRoot as error:
            raise StorageUnavailable(
                "The storage root on the SMB share is not the one this server started with: "
                "another disk is behind the share; put the right one there, or restart the server"
            ) from error

    def orphans(self, older_than_seconds: float) -> Iterator[Orphan]:
        """See Storage."""
        folder = self._root.below(keys.staging_folder(self._instance_id))

        def orphans(channel: Channel) -> list[Orphan]:
            self._root.verify(channel)
            found = []
            for entry in smb_files.list_folder(channel, folder):
                upload_id = keys.staged_upload_id(entry.name)
                if upload_id and entry.modified_at_seconds < older_than_seconds:
                    key = keys.staging_key(self._instance_id, upload_id)
                    found.append(Orphan(upload_id, key, self.root_id, entry.modified_at_seconds))
            return found

        return iter(self._use("/".join(folder), orphans))

    def location(self, final_key: str) -> str:
        """See Storage."""
        return "/".join((self._share.location, *self._path, final_key))

    def _settle(self, channel: Channel) -> str:
        root_id = settle_marker(channel, self._path)
        folder = (*self._path, *keys.staging_folder(self._instance_id))
        smb_files.make_folder(channel, folder)
        return root_id

    def _use(self, key: str, work: Callable[[Channel], T]) -> T:
        """Run ``work``, which can be repeated, with a connection. Raises the contract's errors."""

        def use() -> T:
            with translated(key):
                return self._share.use(work)

        return self._share.off_hub(use)

    def _opened(
        self, names: tuple[str, ...], find: Callable[[Channel, tuple[str, ...]], ShareFile | None]
    ) -> tuple[Lane, ShareFile] | None:
        """Open a file that stays open, and keep the lane of its connection; None if not there."""

        def opened(channel: Channel) -> ShareFile | None:
            return self._found(channel, names, find)

        def open_on(lane: Lane) -> ShareFile | None:
            with translated("/".join(names)):
                return self._share.use_lane(lane, opened)

        lane, file = self._share.take_lane(), None
        try:
            file = self._share.off_hub(lambda: open_on(lane))
        finally:
            if file is None:
                self._share.leave_lane(lane)
        return None if file is None else (lane, file)

    def _found(
        self,
        channel: Channel,
        names: tuple[str, ...],
        find: Callable[[Channel, tuple[str, ...]], T | None],
    ) -> T | None:
        """Find a file on the root, once that is proven to be the one this began with."""
        self._root.verify(channel)
        return find(channel, self._root.below(names))

    def _remove(self, names: tuple[str, ...], *, durably: bool) -> None:
        path = self._root.below(names)

        def remove(channel: Channel) -> None:
            self._root.verify(channel)
            if smb_files.remove_file(channel, path) and durably:
                smb_files.sync_folder(channel, path[:-1])

        self._use("/".join(names), remove)

    def _staged_names(self, staged: StagedObject) -> tuple[str, ...]:
        key = staged.staging_key or keys.staging_key(self._instance_id, staged.upload_id)
        return keys.split_staging_key(key)

    def _require_root(self, staged: StagedObject) -> None:
        if staged.root_id != self.root_id:
            raise WrongRoot()


def _made(channel: Channel, folder: tuple[str, ...], make: Callable[[], ShareFile]) -> ShareFile:
    """Make a file, and first the folder it is in if that is missing."""
    try:
        return make()
    except Refused as error:
        if error.status != Status.OBJECT_PATH_NOT_FOUND:
            raise
    smb_files.make_folder(channel, folder)
    return make()


def _lengthen(channel: Channel, file: ShareFile, names: tuple[str, ...], length: int) -> None:
    """Give a file its length as a hole; of a new one that cannot have it, nothing is left."""
    try:
        if file.is_new:
            file.make_sparse()
        file.set_size(length)
    except Refused:
        if file.is_new:
            smb_files.remove_file(channel, names)
        raise
