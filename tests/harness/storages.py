"""Storages as processes beside a test open them: by a kind, and a place in one word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from app.storage.base import Storage
from app.storage.local import LocalStorage
from app.storage.smb import SmbStorage
from app.storage.smb_login import Target
from app.storage.smb_share import Share

if TYPE_CHECKING:
    from app.storage.s3_client import S3Place

#: Longer than any answer takes, on a machine however slow.
TIMEOUT_SECONDS = 30.0


def local_place(root: Path) -> tuple[str, str]:
    """Return kind and place of local storage."""
    return "local", str(root)


def smb_place(target: Target, path: Sequence[str]) -> tuple[str, str]:
    """Return kind and place of storage on a share."""
    return "smb", json.dumps({"target": asdict(target), "path": list(path)})


def s3_place(place: S3Place, staging: Path) -> tuple[str, str]:
    """Return kind and place of storage in a bucket, with its folder on a disk."""
    return "s3", json.dumps({"place": asdict(place), "staging": str(staging)})


def opened(kind: str, place: str, instance_id: str) -> Storage:
    """Open the storage at a place."""
    if kind == "local":
        return LocalStorage(place, instance_id)
    told = json.loads(place)
    if kind == "s3":
        # Large: who needs it not starts sooner.
        from app.storage.s3 import S3Storage
        from app.storage.s3_client import S3Place

        return S3Storage(S3Place(**told["place"]), told["staging"], instance_id)
    share = Share(Target(**told["target"]), connections=2, timeout_seconds=TIMEOUT_SECONDS)
    return SmbStorage(share, tuple(told["path"]), instance_id)
