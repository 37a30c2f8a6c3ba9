"""Names that come from clients, and the names files get on the storage.

A client's name is data. It may hold a path (``videos/2024/movie.mp4``); every
component is checked here before anything else sees it, and the stored name
carries the upload's id, so two uploads never meet.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from app.errors import InvalidName

#: Longest file name of ext4, xfs, NTFS, APFS and SMB, in bytes of UTF-8.
MAX_COMPONENT_BYTES = 255

#: S3 keys end at 1,024 bytes; this leaves room for the id and a key prefix.
MAX_NAME_BYTES = 900

#: Where a name without folders goes (as chunked-uploader does).
DEFAULT_DIRECTORY = "files"

#: The storage's own folder for unfinished uploads; refused in clients' names.
STAGING_DIRECTORY = ".staging"

#: An extension longer than this is not worth keeping when a name is shortened.
_MAX_KEPT_EXTENSION_BYTES = 32


@dataclass(frozen=True, slots=True)
class ClientName:
    """A checked name: ``directory`` without slashes at its ends, "" for none."""

    directory: str
    filename: str

    def below(self, directory: str) -> ClientName:
        """Return this name inside ``directory``, itself checked; "" changes nothing.

        Raises InvalidName where both together are too long.
        """
        folders = "/".join(filter(None, (directory, self.directory)))
        _check_length("/".join(filter(None, (folders, self.filename))))
        return ClientName(folders, self.filename)


def parse_client_name(raw: str) -> ClientName:
    """Check a client's file name, which may hold a path, and split it.

    Returns the name in Unicode NFC; spaces and every other printable character
    are kept. Raises InvalidName naming the hostile component: absolute paths,
    ``.``, ``..``, empty components, NUL and control characters, backslashes,
    lone surrogates, over-long components, and the storage's own folder.
    """
    name = unicodedata.normalize("NFC", raw)
    if name.startswith("/"):
        raise InvalidName(raw, "is absolute; give a path without a leading slash")
    components = name.split("/")
    for component in components:
        _check_component(component)
    _check_length(name)
    return ClientName("/".join(components[:-1]), components[-1])


def _check_length(name: str) -> None:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidName(name, f"is longer than {MAX_NAME_BYTES} bytes with its folders")


def _check_component(component: str) -> None:
    if not component:
        raise InvalidName(component, "is empty")
    if component in {".", ".."}:
        raise InvalidName(component, "is not allowed")
    if "\\" in component:
        raise InvalidName(component, "holds a backslash; folders are separated by /")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in component):
        raise InvalidName(component, "holds a control character or an unpaired surrogate")
    if len(component.encode()) > MAX_COMPONENT_BYTES:
        raise InvalidName(component, f"is longer than {MAX_COMPONENT_BYTES} bytes")
    # Case-folded because SMB and macOS do not tell .STAGING from .staging.
    if component.casefold() == STAGING_DIRECTORY:
        raise InvalidName(component, "is reserved for the server")


def target_key(upload_id: str, name: ClientName) -> str:
    """Return the key of the finished file below the storage root.

    ``videos/movie.mp4`` → ``videos/<upload_id>_movie.mp4``; a bare name goes to
    ``files/``. Where the id makes the name too long for a file system, the stem
    is shortened on a character boundary and the extension kept.
    """
    directory = name.directory or DEFAULT_DIRECTORY
    stored = _shortened(f"{upload_id}_", name.filename)
    return f"{directory}/{stored}"


def _shortened(prefix: str, filename: str) -> str:
    excess = len(prefix.encode()) + len(filename.encode()) - MAX_COMPONENT_BYTES
    if excess <= 0:
        return prefix + filename
    stem, dot, extension = filename.rpartition(".")
    if not stem or len(extension.encode()) > _MAX_KEPT_EXTENSION_BYTES:
        stem, dot, extension = filename, "", ""
    kept = stem.encode()[: len(stem.encode()) - excess].decode(errors="ignore")
    return prefix + kept + dot + extension
