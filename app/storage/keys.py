"""Names on disk: where staged and final objects lie below a storage root.

Shared by every storage that has folders (local disk, SMB share, the staging
side of S3). Knows names only; it opens nothing.

    <root>/                              LOCAL_STORAGE_PATH, SMB_PATH, TEMP_STORAGE_PATH
    ├── .staging/                        refused in clients' names
    │   ├── root-id                      marker: random id of this root, written once
    │   ├── root-id.<random>             the marker, for the moment before it gets its name
    │   ├── 0.claim … f.claim            on a share: one is open while a file is renamed
    │   └── <instance id>/               one installation's ledger; the others' are not ours
    │       ├── <upload id>.partial      an unfinished upload, sparse
    │       └── <random>.probe           a health check's file, unlinked as soon as it is open
    ├── files/
    │   └── <upload id>_movie.mp4        a finished file whose name had no folder
    └── videos/2024/
        └── <upload id>_movie.mp4        a finished file, in the folders of its name

A key is such a path below the root, with ``/`` between its components. Keys are
made from names that were checked when they came in; here they are checked once
more, because a key that leaves the root must not depend on one check alone. A
wrong key is a bug, so it is a ValueError.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Sequence

from app.domain.names import STAGING_DIRECTORY

#: File in STAGING_DIRECTORY that holds the root's id.
MARKER_NAME = "root-id"

#: Longer than any marker; what is read of the file that should be one.
MARKER_MAX_BYTES = 64

_STAGED_SUFFIX = ".partial"
_PROBE_SUFFIX = ".probe"
_CLAIM_SUFFIX = ".claim"

#: 128 random bits, as in a uuid: enough that two never meet.
_RANDOM_BYTES = 16

#: Uuids and hex. Nothing in it means anything to a path, on any system.
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ROOT_ID = re.compile(r"[0-9a-f]{32}")


def new_root_id() -> str:
    """Return a fresh random root id, 32 hex digits."""
    return secrets.token_hex(_RANDOM_BYTES)


def marker_bytes(root_id: str) -> bytes:
    """Return what the marker file of a root holds."""
    return f"{root_id}\n".encode("ascii")


def parse_marker(content: bytes) -> str | None:
    """Return the root id a marker file holds, None if it is no marker."""
    text = content.decode("ascii", errors="replace").removesuffix("\n")
    return text if _ROOT_ID.fullmatch(text) else None


def marker_draft_name() -> str:
    """Return a name under which a marker is written before it gets its own."""
    return f"{MARKER_NAME}.{secrets.token_hex(_RANDOM_BYTES)}"


def probe_name() -> str:
    """Return a name for the file of one health check."""
    return secrets.token_hex(_RANDOM_BYTES) + _PROBE_SUFFIX


def claim_name(names: Sequence[str]) -> str:
    """Return the name of the file that stands for a final name, in whatever case that is."""
    digest = hashlib.sha256("/".join(names).casefold().encode()).hexdigest()
    return digest[0] + _CLAIM_SUFFIX


def checked_id(value: str) -> str:
    """Return an instance or upload id that may become part of a path; else ValueError."""
    if not _ID.fullmatch(value):
        raise ValueError(f"not an id: {value!r}")
    return value


def staging_folder(instance_id: str) -> tuple[str, str]:
    """Return the components of the folder that holds an instance's staged objects."""
    return STAGING_DIRECTORY, checked_id(instance_id)


def staged_name(upload_id: str) -> str:
    """Return the file name of an upload's staged object."""
    return checked_id(upload_id) + _STAGED_SUFFIX


def staging_key(instance_id: str, upload_id: str) -> str:
    """Return the key of an upload's staged object."""
    return "/".join((*staging_folder(instance_id), staged_name(upload_id)))


def staged_upload_id(name: str) -> str | None:
    """Return the upload id in the file name of a staged object, None for other files."""
    upload_id = name.removesuffix(_STAGED_SUFFIX)
    return upload_id if upload_id != name and _ID.fullmatch(upload_id) else None


def split_staging_key(key: str) -> tuple[str, str, str]:
    """Return the three components of a staging key; ValueError if it is none."""
    folder, instance_id, name = (*key.split("/", 2), "", "")[:3]
    known = folder == STAGING_DIRECTORY and _ID.fullmatch(instance_id)
    if not known or staged_upload_id(name) is None:
        raise ValueError(f"not a staging key: {key!r}")
    return folder, instance_id, name


def split_final_key(key: str) -> tuple[str, ...]:
    """Return the components of a final key, at least one.

    ValueError if it could leave the root or reach the storage's own folder.
    """
    components = tuple(key.split("/"))
    for component in components:
        hostile = component in {"", ".", ".."} or "\\" in component or not _printable(component)
        # Case-folded because SMB and macOS do not tell .STAGING from .staging.
        if hostile or component.casefold() == STAGING_DIRECTORY:
            raise ValueError(f"not a final key: {key!r}")
    return components


def split_key(key: str) -> tuple[str, ...]:
    """Return the components of a staging or final key; ValueError if it is neither."""
    if key.startswith(f"{STAGING_DIRECTORY}/"):
        return split_staging_key(key)
    return split_final_key(key)


def _printable(component: str) -> bool:
    return all(unicodedata.category(character) not in {"Cc", "Cs"} for character in component)
