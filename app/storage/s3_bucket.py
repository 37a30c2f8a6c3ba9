"""Objects of one bucket: put, got, looked at, listed, removed, read in ranges.

The bucket looks like a root of ``keys.py``. Finished files lie under their target
keys; under ``.staging/`` is what belongs to this program:

    <bucket>
    ├── .staging/
    │   ├── root-id                      marker: random id of this bucket, written once
    │   └── <instance id>/
    │       └── <upload id>.partial      note of a multipart upload: its key (s3_multipart.py)
    ├── files/<upload id>_movie.mp4      finished files
    └── videos/2024/<upload id>_movie.mp4
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from botocore.exceptions import ClientError

from app.domain.names import STAGING_DIRECTORY
from app.errors import StorageUnavailable
from app.storage import keys
from app.storage.base import ObjectStat
from app.storage.s3_client import Clients
from app.storage.s3_errors import EXISTS, GONE, UNSUPPORTED, code_of, translated

MARKER_KEY = f"{STAGING_DIRECTORY}/{keys.MARKER_NAME}"

#: Metadata of a final object: which upload it is, whoever has put it there.
UPLOAD_METADATA = "longhaul-upload"

#: Bytes asked for at a time when reading: each is a request of its own.
READ_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """An object as HEAD or a listing tells; ``upload_id`` None where it is not known."""

    key: str
    stat: ObjectStat
    upload_id: str | None = None


class Bucket:
    """The bucket of a storage. Raises the contract's errors."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.name = clients.place.bucket
        self._conditional = True

    def find(self, key: str) -> Found | None:
        """Look at an object; None where there is none."""
        with translated():
            try:
                head = self.clients.calls.head_object(Bucket=self.name, Key=key)
            except ClientError as error:
                if code_of(error) in GONE:
                    return None
                raise
        stat = ObjectStat(head["ContentLength"], head["LastModified"].timestamp())
        return Found(key, stat, head["Metadata"].get(UPLOAD_METADATA))

    def get(self, key: str) -> bytes | None:
        """Return a small object whole; None where there is none."""
        with translated():
            try:
                return self.clients.calls.get_object(Bucket=self.name, Key=key)["Body"].read()
            except ClientError as error:
                if code_of(error) in GONE:
                    return None
                raise

    def put_new(self, key: str, body: Any, **more: Any) -> bool:
        """Put an object that must not be there yet; False if one is, which stays.

        ``body``: bytes or a seekable file. Servers that know no conditions
        (none of those tried) overwrite it.
        """
        with translated():
            try:
                self.unless_there(
                    lambda condition: self.clients.calls.put_object(
                        Bucket=self.name, Key=key, Body=body, **condition, **more
                    )
                )
            except ClientError as error:
                if code_of(error) in EXISTS:
                    return False
                raise
        return True

    def unless_there(self, act: Any) -> Any:
        """Call ``act`` with the condition that the object is not there yet.

        Where the server refuses conditions altogether it is called without.
        """
        if self._conditional:
            try:
                return act({"IfNoneMatch": "*"})
            except ClientError as error:
                if code_of(error) not in UNSUPPORTED:
                    raise
                self._conditional = False
        return act({})

    def delete(self, key: str) -> None:
        """Remove an object; idempotent."""
        with translated():
            self.clients.calls.delete_object(Bucket=self.name, Key=key)

    def list(self, prefix: str) -> Iterator[Found]:
        """Yield all objects below ``prefix``."""
        with translated():
            pages = self.clients.calls.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    stat = ObjectStat(item["Size"], item["LastModified"].timestamp())
                    yield Found(item["Key"], stat)

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading. Raises FileNotFoundError."""
        found = self.find(key)
        if found is None:
            raise FileNotFoundError(key)
        reader = _Reader(self, key, found.stat.size_bytes)
        return cast(BinaryIO, io.BufferedReader(reader, READ_BYTES))

    def read_marker(self) -> str | None:
        """Return the bucket's root id, None if it has none yet. Asks with little patience.

        Raises StorageUnavailable if the marker is damaged.
        """
        with translated():
            try:
                answer = self.clients.probes.get_object(Bucket=self.name, Key=MARKER_KEY)
                content = answer["Body"].read(keys.MARKER_MAX_BYTES)
            except ClientError as error:
                if code_of(error) == "NoSuchKey":
                    return None
                raise
        root_id = keys.parse_marker(content)
        if root_id is None:
            raise StorageUnavailable(
                "The bucket's marker object is damaged: remove .staging/root-id "
                "if no unfinished upload matters"
            )
        return root_id

    def settle_marker(self) -> str:
        """Return the bucket's root id, giving it one if it has none; all who do so agree."""
        root_id = self.read_marker()
        if root_id is None:
            self.put_new(MARKER_KEY, keys.marker_bytes(keys.new_root_id()))
            root_id = self.read_marker()
        if root_id is None:
            raise StorageUnavailable("The bucket's marker object vanished while it was written")
        return root_id


class _Reader(io.RawIOBase):
    """Reads an object range by range; holds no connection between two reads.

    So it may be read in whatever thread, one after the other, and costs nothing
    while nobody reads.
    """

    def __init__(self, bucket: Bucket, key: str, size_bytes: int) -> None:
        self._bucket = bucket
        self._key = key
        self._size_bytes = size_bytes
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size_bytes}[whence]
        self._offset = max(0, start + offset)
        return self._offset

    def readall(self) -> bytes:
        """Return the rest; the inherited one would ask for 8 KiB at a time."""
        content = bytearray()
        buffer = bytearray(READ_BYTES)
        while count := self.readinto(buffer):
            content += memoryview(buffer)[:count]
        return bytes(content)

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        wanted = min(len(target), self._size_bytes - self._offset)
        if wanted <= 0:
            return 0
        span = f"bytes={self._offset}-{self._offset + wanted - 1}"
        with translated():
            answer = self._bucket.clients.calls.get_object(
                Bucket=self._bucket.name, Key=self._key, Range=span
            )
            filled = 0
            with answer["Body"] as body:
                while filled < wanted:
                    count = body.readinto(target[filled:wanted])  # type: ignore[arg-type]  # any buffer
                    if not count:
                        break
                    filled += count
        if filled < wanted:
            raise StorageUnavailable()
        self._offset += filled
        return filled
