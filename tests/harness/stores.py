"""What a server under test has stored, looked at and meddled with past the server.

A store is where one server keeps its files: a disk, a share, a bucket. All files
have what tests use of a ``Path``, wherever they are.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import ClientError

from app.storage.smb_names import stored_name
from tests.harness.s3 import S3Server, stored
from tests.harness.samba import Samba


class StoredFile(Protocol):
    """A finished file."""

    @property
    def name(self) -> str:
        """The last component of its key."""

    def exists(self) -> bool:
        """Tell whether it is there."""

    def read_bytes(self) -> bytes:
        """Return all its bytes."""

    def stat(self) -> object:
        """Return what is another one once somebody has changed the file."""

    def unlink(self) -> None:
        """Remove it."""


class StagedFile(Protocol):
    """What there is of an unfinished upload. A ``Path`` where it is a file on some disk."""

    @property
    def name(self) -> str:
        """A name with the upload's id in it."""

    def unlink(self) -> None:
        """Remove it."""


class Store(ABC):
    """The place of one server's files."""

    #: As answers name it.
    backend: str

    @property
    @abstractmethod
    def settings(self) -> dict[str, object]:
        """A server's settings that have it store here."""

    @abstractmethod
    def location(self, key: str) -> str:
        """Return where the file with this key is, as answers say it."""

    @abstractmethod
    def file(self, location: str) -> StoredFile:
        """Return the file at a location, whether it is there or not."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> StoredFile:
        """Store a file that the server knows nothing of."""

    @abstractmethod
    def files(self) -> list[StoredFile]:
        """Return all finished files, and whatever else lies there."""

    @abstractmethod
    def staged(self) -> list[StagedFile]:
        """Return what there is of unfinished uploads."""

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """Take the whole away for a while."""

    def key(self, location: str) -> str:
        """Return the key of the file at a location."""
        return location.removeprefix(self.location(""))


class Disk(Store):
    """A folder of the server's own disk."""

    backend = "local"

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def settings(self) -> dict[str, object]:
        """See Store."""
        return {"LOCAL_STORAGE_PATH": self.root}

    def location(self, key: str) -> str:
        """See Store."""
        return f"{self.root}/{key}"

    def file(self, location: str) -> Path:
        """See Store."""
        return self.root / self.key(location)

    def put(self, key: str, data: bytes) -> Path:
        """See Store."""
        path = self.file(self.location(key))
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        return path

    def files(self) -> list[StoredFile]:
        """See Store."""
        found = (path for path in self.root.rglob("*") if ".staging" not in path.parts)
        return sorted(path for path in found if path.is_file())

    def staged(self) -> list[StagedFile]:
        """See Store."""
        return sorted(self.root.glob(".staging/*/*.partial"))

    @contextmanager
    def away(self) -> Iterator[None]:
        """See Store: as if the disk were not mounted."""
        elsewhere = self.root.with_name(f"{self.root.name}-unmounted")
        self.root.rename(elsewhere)
        try:
            yield
        finally:
            elsewhere.rename(self.root)


class Share(Disk):
    """A folder of a real share, whose disk is at hand."""

    backend = "smb"

    def __init__(self, samba: Samba) -> None:
        self._samba = samba
        self._folder = f"server-{uuid.uuid4().hex}"
        super().__init__(samba.path_of("share") / self._folder)

    @property
    def settings(self) -> dict[str, object]:
        """See Store."""
        return self._samba.settings(SMB_PATH=self._folder)

    def location(self, key: str) -> str:
        """See Store."""
        return f"smb://127.0.0.1/share/{self._folder}/{key}"

    def file(self, location: str) -> Path:
        """See Store: shares do not take all the characters of a key."""
        return self.root.joinpath(*map(stored_name, self.key(location).split("/")))


class Bucket(Store):
    """A bucket, and the disk on which what it cannot take piece by piece waits."""

    backend = "s3"

    def __init__(self, server: S3Server, directory: Path, **settings: object) -> None:
        self._server = server
        self._client = server.client()
        self.name = server.new_bucket()
        self._directory = directory
        self._more = settings

    @property
    def settings(self) -> dict[str, object]:
        """See Store."""
        return self._server.settings(self.name, **self._more)

    def location(self, key: str) -> str:
        """See Store."""
        return f"s3://{self.name}/{key}"

    def file(self, location: str) -> StoredFile:
        """See Store."""
        return _Object(self._client, self.name, self.key(location))

    def put(self, key: str, data: bytes) -> StoredFile:
        """See Store."""
        self._client.put_object(Bucket=self.name, Key=key, Body=data)
        return self.file(self.location(key))

    def files(self) -> list[StoredFile]:
        """See Store."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [
            _Object(self._client, self.name, key)
            for key in sorted(keys)
            if not key.startswith(".staging/")
        ]

    def everything(self) -> list[str]:
        """Return what is in the bucket, whatever it is; see ``stored``."""
        return stored(self._client, self.name)

    def staged(self) -> list[StagedFile]:
        """See Store: multipart uploads, and what waits on the disk."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name)
        coming: list[StagedFile] = [
            Multipart(self._client, self.name, item["Key"], item["UploadId"])
            for page in pages
            for item in page.get("Uploads", [])
        ]
        return coming + sorted(self._directory.rglob("*.partial"))

    def away(self) -> AbstractContextManager[None]:
        """See Store: the server is killed, and started again."""
        return self._server.away()


@dataclass(frozen=True)
class Multipart:
    """A multipart upload: nobody can read it before it is a file."""

    client: Any
    bucket: str
    key: str
    upload_id: str

    @property
    def name(self) -> str:
        """See StagedFile."""
        return self.key.rpartition("/")[2]

    def unlink(self) -> None:
        """See StagedFile."""
        self.client.abort_multipart_upload(
            Bucket=self.bucket, Key=self.key, UploadId=self.upload_id
        )

    def md5_of(self, part: int) -> str | None:
        """Return the MD5 of a part's bytes (parts are counted from 0), None if it has none."""
        told = self.client.list_parts(Bucket=self.bucket, Key=self.key, UploadId=self.upload_id)
        for found in told.get("Parts", []):
            if found["PartNumber"] == part + 1:
                return str(found["ETag"]).strip('"')
        return None


@dataclass(frozen=True)
class _Object:
    client: Any
    bucket: str
    key: str

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    def exists(self) -> bool:
        try:
            self.client.head_object(Bucket=self.bucket, Key=self.key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return True

    def read_bytes(self) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.bucket, Key=self.key)["Body"].read()
        return data

    def stat(self) -> object:
        head = self.client.head_object(Bucket=self.bucket, Key=self.key)
        return head["ETag"], head["LastModified"]

    def unlink(self) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=self.key)
