"""Proof that the server has the bytes that were sent, and the receipt that says so.

While a part is sent its digest is computed; what the server answers must agree
before anybody is told that the part is stored. Without checksums in the requests
the answer's ETag is compared: the MD5 of the part everywhere but on buckets that
are encrypted with keys of a KMS. With checksums the CRC-32 is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.errors import StorageUnavailable
from app.storage.s3_errors import DAMAGED

_ENCRYPTED = (
    "The bucket is encrypted with a KMS key, so its ETags prove nothing: "
    "set S3_REQUEST_CHECKSUMS=when_supported"
)
_NO_CHECKSUM = (
    "The S3 server does not answer with checksums: set S3_REQUEST_CHECKSUMS=when_required"
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What completing an upload needs to know of a part: ETag, and CRC-32 in base64 if sent."""

    etag: str
    crc32: str | None = None

    def to_text(self) -> str:
        """Return it as the opaque string that the ledger keeps."""
        return json.dumps([self.etag] if self.crc32 is None else [self.etag, self.crc32])

    @classmethod
    def from_text(cls, text: str) -> Receipt:
        """Read what ``to_text`` wrote; ValueError or TypeError if it is something else."""
        return cls(*json.loads(text))

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Receipt:
        """Return the receipt in an answer to UploadPart, or in an entry of ListParts."""
        return cls(str(answer.get("ETag", "")), answer.get("ChecksumCRC32"))

    def names_the_same(self, other: Receipt) -> bool:
        """Tell whether both are of the same stored part; servers differ in quoting ETags."""
        return self.etag.strip('"') == other.etag.strip('"')


class Digest(Protocol):
    """Digests one part, front to back."""

    def update(self, data: memoryview, /) -> None:
        """Take the next bytes."""

    def agrees(self, receipt: Receipt) -> bool:
        """Tell whether a receipt is one of exactly these bytes."""


class Md5(Digest):
    """Compared with the ETag."""

    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: memoryview, /) -> None:
        """See Digest."""
        self._md5.update(data)

    def agrees(self, receipt: Receipt) -> bool:
        """See Digest."""
        return receipt.etag.strip('"').lower() == self._md5.hexdigest()


class Crc32(Digest):
    """Compared with the checksum the server has computed."""

    def __init__(self) -> None:
        self._crc = 0

    def update(self, data: memoryview, /) -> None:
        """See Digest."""
        self._crc = zlib.crc32(data, self._crc)

    def agrees(self, receipt: Receipt) -> bool:
        """See Digest."""
        return receipt.crc32 == base64.b64encode(self._crc.to_bytes(4, "big")).decode("ascii")


def new_digest(checksums_sent: bool) -> Digest:
    """Return the digest that proves a part, by whether requests carry checksums."""
    return Crc32() if checksums_sent else Md5()


def proven(digest: Digest, answer: Mapping[str, Any]) -> Receipt:
    """Return the receipt in an answer to UploadPart that proves what was sent.

    Raises StorageUnavailable where it proves something else, or nothing at all.
    """
    receipt = Receipt.of(answer)
    if digest.agrees(receipt):
        return receipt
    if isinstance(digest, Crc32):
        raise StorageUnavailable(_NO_CHECKSUM if receipt.crc32 is None else DAMAGED)
    by_kms = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
    raise StorageUnavailable(_ENCRYPTED if by_kms else DAMAGED)
