"""What became of an upload: its file on the disk, and what the server says of it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from urllib.parse import urlsplit

import requests

from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, finished_file
from tests.harness.wire import wait_until


def head(server: Server, url: str) -> requests.Response:
    """Ask for an upload past the network that its client goes through."""
    return Tus(server).head(TusUpload(server.url + urlsplit(url).path))


def metadata(server: Server, url: str) -> dict[str, str]:
    """Return the metadata that the server has of an upload."""
    pairs = (pair.split(" ") for pair in head(server, url).headers["Upload-Metadata"].split(","))
    return {key: base64.b64decode("".join(value)).decode() for key, *value in pairs}


def is_gone(server: Server, url: str) -> bool:
    """Tell whether nothing is left of an upload: no answer and no file."""
    upload = TusUpload(url)
    left = any(upload.id in path.name for path in server.uploads.rglob("*"))
    return not left and head(server, url).status_code in (404, 410)


def assert_stored(server: Server, url: str, sent: Path, name: str | None = None) -> None:
    """Assert that an upload's file has the bytes that were sent, and the name."""
    upload = TusUpload(url)
    stored = wait_until(lambda: finished_file(server, upload), f"{url} is published")
    assert stored.name == f"{upload.id}_{sent.name if name is None else name}"
    assert _sha256(stored) == _sha256(sent)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
