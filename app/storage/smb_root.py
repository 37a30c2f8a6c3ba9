"""The root on a share: its folder, its marker, and whether it is the one we began with.

A share may lose the disk behind it, or be pointed at another one, while the
connection stays. So every operation begins with reading the marker: one request.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from app.domain.names import STAGING_DIRECTORY
from app.errors import StorageUnavailable, WrongRoot
from app.storage import keys, smb_files
from app.storage.marker import root_id_in
from app.storage.smb_channel import Channel
from app.storage.smb_claim import rename_alone
from app.storage.smb_errors import Refused, Status
from app.storage.smb_files import Names

_NO_MARKER = (
    "The storage root's marker file on the SMB share is missing: is the right disk behind "
    "the share, and SMB_PATH the right folder?"
)


@dataclass(frozen=True, slots=True)
class Root:
    """The folder ``names`` of a share, with the id that its marker must have."""

    names: tuple[str, ...]
    root_id: str

    def below(self, names: Names) -> tuple[str, ...]:
        """Return the components of a key's path on the share."""
        return (*self.names, *names)

    def verify(self, channel: Channel) -> None:
        """Raise StorageUnavailable or WrongRoot unless the marker is there and the right one."""
        found = read_marker(channel, self.names)
        if found != self.root_id:
            cause = FileNotFoundError(f"root {found} instead of {self.root_id}")
            raise (StorageUnavailable(_NO_MARKER) if found is None else WrongRoot()) from cause


def read_marker(channel: Channel, root: Names) -> str | None:
    """Return the id of a root, None where no marker is."""
    names = (*root, STAGING_DIRECTORY, keys.MARKER_NAME)
    return root_id_in(smb_files.read_small_file(channel, names, keys.MARKER_MAX_BYTES))


def settle_marker(channel: Channel, root: Names) -> str:
    """Return the id of a root, giving it one if it has none. Durable on return.

    Processes that start at once agree: the first marker that gets the name
    stays, and all read that one.
    """
    staging = (*root, STAGING_DIRECTORY)
    smb_files.make_folder(channel, staging)
    root_id = read_marker(channel, root)
    if root_id is None:
        _write_marker(channel, root)
        root_id = read_marker(channel, root)
    smb_files.sync_folder(channel, staging)
    if root_id is None:
        raise StorageUnavailable("The storage root's marker vanished while it was written")
    return root_id


def _write_marker(channel: Channel, root: Names) -> None:
    draft = (*root, STAGING_DIRECTORY, keys.marker_draft_name())
    try:
        with smb_files.create_new(channel, draft) as file:
            file.write(0, keys.marker_bytes(keys.new_root_id()))
            file.flush()
            rename_alone(channel, file, root, (STAGING_DIRECTORY, keys.MARKER_NAME))
    except Refused as error:
        with contextlib.suppress(Refused):
            smb_files.remove_file(channel, draft)
        if error.status != Status.OBJECT_NAME_COLLISION:
            raise
