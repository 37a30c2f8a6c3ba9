"""Publishing on a share: a staged file gets its final name, in one step and for good.

    check size, cut off → flush → (make folders) → rename → flush file and folders

One renames at a time, so never over another file (``smb_claim``). Killed before,
the staged file is as it was and everything is done again; after it, flushing is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from app.errors import PartsLost, StorageFault, StorageUnavailable, TargetExists
from app.storage import smb_files
from app.storage.smb_channel import Channel
from app.storage.smb_claim import rename_alone
from app.storage.smb_errors import MISSING, NAME_REFUSED, Refused, Status
from app.storage.smb_files import ShareFile
from app.storage.smb_root import Root

#: Each further attempt needs somebody else to have removed the target's folder
#: or published the same upload in the very moment between two requests.
_ATTEMPTS = 10

_NAME_REFUSED = (
    "The SMB share cannot hold a file of this name: a folder of it is a file or a "
    "symbolic link there, or the name is too long for the server"
)

#: What making a folder meets where its name is a file.
_NO_FOLDER = NAME_REFUSED | {Status.OBJECT_NAME_COLLISION}


@dataclass(frozen=True, slots=True)
class SmbPublication:
    """One file to publish: from the key ``staged`` to the key ``target``, ``length`` bytes long.

    ``parts_synced``: all bytes were flushed when their parts were committed.
    """

    root: Root
    staged: tuple[str, ...]
    target: tuple[str, ...]
    length: int
    parts_synced: bool

    def carry_out(self, channel: Channel) -> None:
        """Publish, or finish what an earlier call began. Durable on return.

        Raises PartsLost, TargetExists, StorageFault (the name is refused),
        WrongRoot, StorageUnavailable, Refused, ConnectionLost.
        """
        self.root.verify(channel)
        blocked_count = 0
        for _ in range(_ATTEMPTS):
            staged = smb_files.find_for_renaming(channel, self.root.below(self.staged))
            if staged is None:
                self._confirm(channel)
                return
            with staged:
                self._trim(staged)
                self._flush(staged)
                try:
                    self._rename(channel, staged)
                except Refused as error:
                    if error.status not in MISSING:
                        raise
                    blocked_count += self._is_blocked(channel)
                    continue
                staged.flush()
            self._sync_folders(channel)
            # Renaming does not save a file that somebody discards meanwhile: it
            # goes, whatever its name, when the last handle is closed.
            if smb_files.stat_file(channel, self.root.below(self.target)) is None:
                raise PartsLost()
            return
        if blocked_count == _ATTEMPTS:
            raise StorageFault(_NAME_REFUSED)
        raise StorageUnavailable("Folders of the final name keep vanishing; try again")

    def _trim(self, staged: ShareFile) -> None:
        if staged.size_bytes < self.length:
            raise PartsLost()
        if staged.size_bytes > self.length:
            staged.set_size(self.length)

    def _flush(self, staged: ShareFile) -> None:
        """Flush the file before it gets its final name.

        Systems tell of a lost write once and forget it. So where bytes may have
        waited for this call, it must not be tried again.
        """
        try:
            staged.flush()
        except Refused as error:
            if self.parts_synced:
                raise
            raise PartsLost() from error

    def _rename(self, channel: Channel, staged: ShareFile) -> None:
        target = self.root.below(self.target)
        with self._name_refused(NAME_REFUSED):
            try:
                rename_alone(channel, staged, self.root.names, self.target)
                return
            except Refused as error:
                if error.status == Status.OBJECT_NAME_COLLISION:
                    if self._is_published(channel, staged):
                        return
                    raise TargetExists() from error
                if error.status not in MISSING:
                    raise
        with self._name_refused(_NO_FOLDER):
            smb_files.make_folder(channel, target[:-1])
        self._rename_into(channel, staged)

    def _is_blocked(self, channel: Channel) -> bool:
        """Tell whether the final name cannot be had though nothing is missing.

        Servers say the same of symbolic links that lead out of the share, or
        nowhere, as of what is not there: the name may be one, or a folder of it.
        """
        folder = self.root.below(self.target[:-1])
        found = smb_files.find_folder(channel, folder)
        if found is not None:
            found.close()
            return True
        try:
            smb_files.make_folder(channel, folder)
        except Refused as error:
            return error.status in MISSING
        return False

    def _rename_into(self, channel: Channel, staged: ShareFile) -> None:
        """Rename into a folder that has just been made."""
        with self._name_refused(NAME_REFUSED):
            try:
                rename_alone(channel, staged, self.root.names, self.target)
            except Refused as error:
                if error.status != Status.OBJECT_NAME_COLLISION:
                    raise
                if not self._is_published(channel, staged):
                    raise TargetExists() from error

    def _is_published(self, channel: Channel, staged: ShareFile) -> bool:
        """Tell whether the file under the final name is the staged one: another was faster."""
        final = smb_files.find_for_reading(channel, self.root.below(self.target))
        if final is None:
            return False
        with final:
            return final.number() == staged.number()

    def _confirm(self, channel: Channel) -> None:
        """Make durable again what an earlier call has renamed; PartsLost if it has not."""
        final = smb_files.find_for_writing(channel, self.root.below(self.target))
        if final is None:
            raise PartsLost()
        with final:
            if final.size_bytes != self.length:
                raise PartsLost()
            final.flush()
        self._sync_folders(channel)

    def _sync_folders(self, channel: Channel) -> None:
        for names in (self.target[:-1], self.staged[:-1]):
            smb_files.sync_folder(channel, self.root.below(names))

    @contextlib.contextmanager
    def _name_refused(self, statuses: frozenset[Status]) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            if error.status not in statuses:
                raise
            raise StorageFault(_NAME_REFUSED) from error
