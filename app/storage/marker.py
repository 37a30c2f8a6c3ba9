"""The marker of a root: a file with a random id that tells one disk from another.

A mount point without its disk is an empty folder, and two nodes may have the
same path for different disks. So whoever opens a root reads its marker, through
the descriptor that is used for everything else, and compares.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from app.domain.names import STAGING_DIRECTORY
from app.errors import StorageUnavailable
from app.storage import files, keys


def read_marker(root: int) -> str | None:
    """Return the id of the root open as ``root``, None where no marker is.

    Raises StorageUnavailable if the marker is damaged, OSError as it comes.
    """
    try:
        staging = files.open_folder(root, (STAGING_DIRECTORY,))
    except FileNotFoundError:
        return None
    with files.closing(staging):
        return _read(staging)


def settle_marker(root: int, *, file_mode: int, folder_mode: int) -> str:
    """Return the id of a root, giving it one if it has none. Durable on return.

    Processes that start at once agree: the first marker that gets the name
    stays, and all read that one.
    """
    with files.closing(files.make_folder(root, (STAGING_DIRECTORY,), folder_mode)) as staging:
        root_id = _read(staging)
        if root_id is None:
            _write(staging, file_mode)
            root_id = _read(staging)
        files.sync_folder(staging)
    if root_id is None:
        raise StorageUnavailable("The storage root's marker vanished while it was written")
    return root_id


class RootMemory:
    """Which id a root had when this node last used it; kept outside the root, per path.

    Without it a mount point whose disk is missing would look like a new, empty
    root, and be given an id and files of its own.
    """

    def __init__(self, directory: str, root_path: str) -> None:
        self._directory = Path(directory)
        self._file = self._directory / f"root-{sha256(root_path.encode()).hexdigest()[:16]}"

    def refuse_stranger(self, found: str | None) -> None:
        """Raise StorageUnavailable if a root that had an id shows none."""
        if found is None and self._file.exists():
            raise StorageUnavailable(
                "The storage root's marker file is missing: is its disk mounted? To begin with "
                f"an empty root, remove {self._file.name} in TEMP_STORAGE_PATH"
            )

    def remember(self, root_id: str) -> None:
        """Note a root's id."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file.write_text(root_id)


def root_id_in(content: bytes | None) -> str | None:
    """Return the root id in a marker file's content, None where there is no file.

    Raises StorageUnavailable if it is damaged.
    """
    if content is None:
        return None
    root_id = keys.parse_marker(content)
    if root_id is None:
        raise StorageUnavailable(
            "The storage root's marker file is damaged; restore it from a backup, "
            "or remove it if no unfinished upload matters"
        )
    return root_id


def _read(staging: int) -> str | None:
    content = files.read_small_file(staging, keys.MARKER_NAME, keys.MARKER_MAX_BYTES)
    return root_id_in(content)


def _write(staging: int, mode: int) -> None:
    draft = keys.marker_draft_name()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = files.open_file(staging, draft, flags, mode)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            file.write(keys.marker_bytes(keys.new_root_id()))
            os.fchmod(descriptor, mode)
            files.sync_file(descriptor)
        files.rename_exclusively(staging, draft, staging, keys.MARKER_NAME)
    except OSError as error:
        os.unlink(draft, dir_fd=staging)
        if not isinstance(error, FileExistsError):
            raise
