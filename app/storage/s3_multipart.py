"""Multipart uploads: begun, found again, completed once, and never left behind.

S3 tells of a multipart upload its key, its UploadId and its age; nothing says
which program began it. So a small object, the *note*, is put first: it lies in
this instance's own folder under the upload's staging key and holds the key of
the multipart upload. Whoever cleans up goes by the notes, and touches no
multipart upload that no note of this instance names. The note goes last.

The staging key of an upload whose parts are multipart parts is that of the note
and the UploadId, as in S3's own URLs: ``.staging/a/b.partial?uploadId=c``, with
``&checksum=crc32`` where it was begun for parts with checksums: it takes no others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from botocore.exceptions import ClientError

from app.errors import PartsLost, StorageUnavailable, TargetExists
from app.storage import keys
from app.storage.base import StagedObject
from app.storage.s3_bucket import UPLOAD_METADATA, Bucket
from app.storage.s3_digests import Receipt
from app.storage.s3_errors import CONFLICT, GONE, code_of, translated

_UPLOAD_ID_MARK = "?uploadId="
_CHECKSUM_MARK = "&checksum=crc32"

#: Parts that arrive while an upload is aborted may outlive it (so AWS warns): it is
#: aborted again until nothing is left.
_ABORTS = 3

#: Pauses between looks for a file whose parts have gone: it may be about to appear.
_APPEARANCE_SECONDS = (0.1, 0.4, 1.5)


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part as ListParts tells of it; ``number`` counts from 1."""

    number: int
    size_bytes: int
    modified_at_seconds: float
    receipt: Receipt


def is_direct(staging_key: str) -> bool:
    """Tell whether a staging key names a multipart upload, not a file on a disk."""
    return _UPLOAD_ID_MARK in staging_key


def direct_key(note_key: str, s3_upload_id: str, *, checksums_sent: bool = False) -> str:
    """Return the staging key of a multipart upload."""
    mark = _CHECKSUM_MARK if checksums_sent else ""
    return f"{note_key}{_UPLOAD_ID_MARK}{quote(s3_upload_id, safe='')}{mark}"


def takes_checksums(staging_key: str) -> bool:
    """Tell whether a multipart upload was begun for parts with checksums."""
    return staging_key.endswith(_CHECKSUM_MARK)


def split_direct_key(staging_key: str) -> tuple[str, str]:
    """Return note key and UploadId of a staging key, the latter "" if it has none.

    Raises ValueError if it is no staging key.
    """
    note_key, _, quoted = staging_key.removesuffix(_CHECKSUM_MARK).partition(_UPLOAD_ID_MARK)
    keys.split_staging_key(note_key)
    return note_key, unquote(quoted)


class Multiparts:
    """The multipart uploads of one instance in a bucket. Raises the contract's errors."""

    def __init__(self, bucket: Bucket, instance_id: str) -> None:
        self._bucket = bucket
        self._instance_id = instance_id

    def note_key(self, upload_id: str) -> str:
        """Return the key of an upload's note."""
        return keys.staging_key(self._instance_id, upload_id)

    def begin(self, staged: StagedObject) -> str:
        """Begin an upload's multipart upload, or find the one that was begun; return its UploadId.

        The note is there before it, so one that a crash cuts loose is found.
        """
        note = staged.target_key.encode()
        if not self._bucket.put_new(self.note_key(staged.upload_id), note):
            for s3_upload_id in self.find(staged.target_key, fitting=True):
                return s3_upload_id
        more: dict[str, Any] = {}
        if staged.content_type:
            more["ContentType"] = staged.content_type
        if self._bucket.clients.place.checksums_sent:
            more["ChecksumAlgorithm"] = "CRC32"
        with translated():
            answer = self._bucket.clients.calls.create_multipart_upload(
                Bucket=self._bucket.name,
                Key=staged.target_key,
                Metadata={UPLOAD_METADATA: staged.upload_id},
                **more,
            )
        return answer["UploadId"]

    def find(self, key: str, *, fitting: bool = False) -> list[str]:
        """Return the UploadIds of a key's multipart uploads, oldest first.

        ``fitting``: none that is told to want checksums which are not sent. Asks for
        exactly this key, because MinIO lists only by whole keys.
        """
        unfit = {"CRC32"} if fitting and not self._bucket.clients.place.checksums_sent else set()
        with translated():
            pages = self._bucket.clients.calls.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket.name, Prefix=key
            )
            found = [
                (item["Initiated"], item["UploadId"])
                for page in pages
                for item in page.get("Uploads", [])
                if item["Key"] == key and item.get("ChecksumAlgorithm") not in unfit
            ]
        return [s3_upload_id for _, s3_upload_id in sorted(found)]

    def parts(self, key: str, s3_upload_id: str) -> Iterator[StoredPart]:
        """Yield the parts that are stored, by number. Raises PartsLost where it has gone."""
        with translated():
            try:
                pages = self._bucket.clients.calls.get_paginator("list_parts").paginate(
                    Bucket=self._bucket.name, Key=key, UploadId=s3_upload_id
                )
                for page in pages:
                    for item in page.get("Parts", []):
                        yield StoredPart(
                            item["PartNumber"],
                            item["Size"],
                            item["LastModified"].timestamp(),
                            Receipt.of(item),
                        )
            except ClientError as error:
                if code_of(error) in GONE:
                    raise PartsLost() from error
                raise

    def is_published(self, staged: StagedObject) -> bool:
        """Tell whether the final object is there, whole and of this upload.

        Raises TargetExists where another one has its name.
        """
        found = self._bucket.find(staged.target_key)
        if found is None:
            return False
        if found.upload_id != staged.upload_id:
            raise TargetExists()
        return found.stat.size_bytes == staged.length

    def complete(
        self, staged: StagedObject, s3_upload_id: str, receipts: Mapping[int, Receipt]
    ) -> None:
        """Make the final object of the parts; ``receipts``: part index → what proved it.

        Done, too, where it was done before: an answer may have been lost, or
        another process may have been faster. Raises PartsLost, with indexes where
        the server still has others, or TargetExists.
        """
        if self.is_published(staged):
            return
        trouble = StorageUnavailable()
        parts: list[Any] = [_completed(index, receipts[index]) for index in sorted(receipts)]
        try:
            self._ask_to_complete(staged, s3_upload_id, parts)
        except StorageUnavailable as error:
            trouble = error
        # Whatever was answered: an answer may be lost, another process be faster. Ceph
        # calls an upload that has gone an internal error, or completed.
        if self.is_published(staged):
            return
        lost = self._find_lost(staged, s3_upload_id, receipts)
        if lost is None:
            raise trouble
        # The parts vanish, too, where another process is making the final object of them.
        if not self._appears(staged):
            raise lost from trouble.__cause__

    def discard(self, staged: StagedObject) -> None:
        """Abort what a note names, and remove the note; idempotent.

        Of an orphan only the note knows the key: without it, it was discarded before.
        """
        staging_key = staged.staging_key or self.note_key(staged.upload_id)
        note_key, s3_upload_id = split_direct_key(staging_key)
        noted = self._bucket.get(note_key)
        key = staged.target_key if noted is None else noted.decode()
        doomed = [] if noted is None else self.find(key)
        if key and s3_upload_id and s3_upload_id not in doomed:
            doomed.append(s3_upload_id)
        for found in doomed:
            self._abort(key, found)
        if noted is not None:
            self._bucket.delete(note_key)

    def notes(self) -> Iterator[tuple[str, str, float]]:
        """Yield upload id, note key and time (Unix seconds) of each note of this instance."""
        folder = "/".join(keys.staging_folder(self._instance_id))
        for found in self._bucket.list(f"{folder}/"):
            upload_id = keys.staged_upload_id(found.key.rpartition("/")[2])
            if upload_id is not None:
                yield upload_id, found.key, found.stat.modified_at_seconds

    def find_noted(self, note_key: str) -> list[str]:
        """Return the UploadIds of the multipart uploads that a note names, oldest first."""
        key = self.noted_key(note_key)
        return [] if key is None else self.find(key)

    def noted_key(self, note_key: str) -> str | None:
        """Return the key of the multipart upload that a note names; None without a note."""
        noted = self._bucket.get(note_key)
        return None if noted is None else noted.decode()

    def prove_writable(self) -> None:
        """Begin a multipart upload and abort it: it leaves nothing, even in a versioned bucket."""
        client = self._bucket.clients.probes
        folder = "/".join(keys.staging_folder(self._instance_id))
        where = {"Bucket": self._bucket.name, "Key": f"{folder}/{keys.probe_name()}"}
        with translated():
            begun = client.create_multipart_upload(**where)  # type: ignore[arg-type]
            client.abort_multipart_upload(**where, UploadId=begun["UploadId"])  # type: ignore[arg-type]

    def _abort(self, key: str, s3_upload_id: str) -> None:
        where: Any = {"Bucket": self._bucket.name, "Key": key, "UploadId": s3_upload_id}
        client = self._bucket.clients.calls
        with translated():
            try:
                for _ in range(_ABORTS):
                    client.abort_multipart_upload(**where)
                    client.list_parts(**where, MaxParts=1)
            except ClientError as error:
                if code_of(error) in GONE:
                    return
                raise
        raise StorageUnavailable()

    def _ask_to_complete(self, staged: StagedObject, s3_upload_id: str, parts: list[Any]) -> None:
        def complete(condition: Any) -> object:
            return self._bucket.clients.calls.complete_multipart_upload(
                Bucket=self._bucket.name,
                Key=staged.target_key,
                UploadId=s3_upload_id,
                MultipartUpload={"Parts": parts},
                **condition,
            )

        with translated():
            try:
                self._bucket.unless_there(complete)
            except ClientError as error:
                # An object of this name was removed since the upload began. AWS would
                # refuse the condition forever, though nothing is there.
                if code_of(error) != CONFLICT or self._bucket.find(staged.target_key):
                    raise
                complete({})

    def _appears(self, staged: StagedObject) -> bool:
        """Wait a little for the final object of an upload that another process completes.

        Not every server changes the one into the other in one step.
        """
        for pause_seconds in _APPEARANCE_SECONDS:
            if self.is_published(staged):
                return True
            time.sleep(pause_seconds)
        return self.is_published(staged)

    def _find_lost(
        self, staged: StagedObject, s3_upload_id: str, receipts: Mapping[int, Receipt]
    ) -> PartsLost | None:
        """Return which parts are not as their receipts say, or that all have gone."""
        try:
            stored = {part.number: part for part in self.parts(staged.target_key, s3_upload_id)}
        except PartsLost as gone:
            return gone
        lost = [
            index
            for index, receipt in receipts.items()
            if index + 1 not in stored or not stored[index + 1].receipt.names_the_same(receipt)
        ]
        return PartsLost(lost) if lost else None


def _completed(index: int, receipt: Receipt) -> dict[str, Any]:
    part: dict[str, Any] = {"PartNumber": index + 1, "ETag": receipt.etag}
    if receipt.crc32 is not None:
        part["ChecksumCRC32"] = receipt.crc32
    return part
