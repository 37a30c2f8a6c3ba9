"""S3: finished files are objects of a bucket; there are two ways to get them there.

*Direct*: every part goes straight into a multipart upload, and completing it makes
the file, in moments for any size. Any node can take any part. *Staged*, for what a
multipart upload cannot take piece by piece (appended uploads, small parts, a
checksum of the whole file): a sparse file on this node's disk, moved into the
bucket at the end. Each way is a root with an id of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import BinaryIO

from app.domain.names import STAGING_DIRECTORY
from app.errors import PartsLost, StorageUnavailable, WrongRoot
from app.storage import keys
from app.storage.base import (
    Arrival,
    Capabilities,
    ObjectStat,
    Orphan,
    PartWriter,
    Progress,
    StagedObject,
    Storage,
)
from app.storage.local import LocalStorage
from app.storage.s3_bucket import Bucket
from app.storage.s3_client import Clients, S3Place
from app.storage.s3_digests import Receipt
from app.storage.s3_direct import DirectWriter
from app.storage.s3_multipart import (
    Multiparts,
    direct_key,
    is_direct,
    split_direct_key,
    takes_checksums,
)
from app.storage.s3_transfer import MAX_PARTS, Transfer

#: Amazon S3's limits, which all servers have: of every part but the last, and of any part.
MIN_PART_BYTES = 5 * 1024 * 1024
MAX_PART_BYTES = 5 * 1024**3

#: That the bucket can be written to is tried at most once in so long: it is paid for.
WRITE_CHECK_SECONDS = 60.0

_STRANGE_BUCKET = (
    "The bucket is not the one this server started with: its marker object is another one "
    "or is gone; restart the server if that is meant"
)


class S3Storage(Storage):
    """Objects of one bucket, with a staging folder on this node's disk.

    ``staging_root`` is that folder's root; ``file_mode`` and ``parts_synced`` are
    for its files, as in LocalStorage. ``larger_last_part``: the server takes a
    last part that is longer than the others (Cloudflare R2 does not). Raises
    StorageUnavailable while the bucket cannot be used.
    """

    backend = "s3"
    capabilities = Capabilities(
        random_writes=False,
        native_thread_writes=False,
        readable_staging=False,
        concatenation=False,
    )

    def __init__(
        self,
        place: S3Place,
        staging_root: str,
        instance_id: str,
        *,
        file_mode: int = 0o640,
        parts_synced: bool = True,
        larger_last_part: bool = False,
    ) -> None:
        self._local = LocalStorage(
            staging_root, instance_id, file_mode=file_mode, parts_synced=parts_synced
        )
        self._bucket = Bucket(Clients(place))
        self._multiparts = Multiparts(self._bucket, instance_id)
        self._transfer = Transfer(self._bucket, self._multiparts, sync_first=not parts_synced)
        self._larger_last_part = larger_last_part
        self._write_checked_at: float | None = None
        self.root_id = self._bucket.settle_marker()
        #: Of uploads staged on this node's disk: they are on their way into this bucket.
        self._disk_root_id = self._local.root_id + self.root_id

    @property
    def root_ids(self) -> frozenset[str]:
        """See Storage: the bucket's, and that of this node's disk before this bucket."""
        return frozenset({self.root_id, self._disk_root_id})

    def root_for(self, arrival: Arrival) -> str:
        """See Storage: the bucket, where the parts can be those of a multipart upload.

        The bytes of parts cannot be read back before the file is complete, so an
        upload whose checksum will be compared is staged.
        """
        length, part_size, part_count = arrival.length, arrival.part_size, arrival.part_count
        if arrival.verified or length is None or part_size is None or part_count is None:
            return self._disk_root_id
        last_bytes = length - (part_count - 1) * part_size
        largest = MAX_PART_BYTES if self._larger_last_part or part_count == 1 else part_size
        fits = (
            1 <= part_count <= MAX_PARTS
            and MIN_PART_BYTES <= part_size <= MAX_PART_BYTES
            and 0 < last_bytes <= largest
        )
        return self.root_id if fits else self._disk_root_id

    def reaches_final(self, root_id: str) -> bool:
        """See Storage: final objects are in the bucket, on whatever node's disk they were staged.

        Those of another bucket, or of another storage that this one has replaced, are not.
        """
        return root_id.endswith(self.root_id)

    def capabilities_of(self, root_id: str) -> Capabilities:
        """See Storage."""
        return self._local.capabilities if root_id == self._disk_root_id else self.capabilities

    def create(self, staged: StagedObject) -> str:
        """See Storage."""
        if not self._is_direct(staged):
            return self._local.create(self._on_disk(staged))
        keys.split_final_key(staged.target_key)
        s3_upload_id = self._multiparts.begin(staged)
        return direct_key(
            self._multiparts.note_key(staged.upload_id),
            s3_upload_id,
            checksums_sent=self._bucket.clients.place.checksums_sent,
        )

    def writer(
        self, staged: StagedObject, index: int, offset: int, length: int | None
    ) -> PartWriter:
        """See Storage. That a multipart upload has vanished the server tells in the end."""
        if not self._is_direct(staged):
            return self._local.writer(self._on_disk(staged), index, offset, length)
        if length is None:
            raise ValueError("a part of unknown length cannot go straight into the bucket")
        _, s3_upload_id = self._split_key(staged)
        if not s3_upload_id:
            raise PartsLost()
        clients, checksums = self._bucket.clients, takes_checksums(staged.staging_key or "")
        return DirectWriter(clients, staged, s3_upload_id, index, length, checksums_sent=checksums)

    def publish(
        self, staged: StagedObject, receipts: Mapping[int, str | None], on_progress: Progress
    ) -> str:
        """See Storage. Staged files move; for direct ones the server joins what it has."""
        if staged.length is None:
            raise ValueError("an upload of unknown length cannot be published")
        keys.split_final_key(staged.target_key)
        if self._is_direct(staged):
            self._publish_direct(staged, receipts)
        else:
            self._publish_staged(staged, on_progress)
        self.discard(staged)
        on_progress(staged.length, staged.length)
        return staged.target_key

    def join(
        self, target: StagedObject, sources: Sequence[StagedObject], on_progress: Progress
    ) -> None:
        """See Storage: for staged files, as the disk they are on can do it."""
        self._local.join(
            self._on_disk(target), [self._on_disk(source) for source in sources], on_progress
        )

    def discard(self, staged: StagedObject) -> None:
        """See Storage. A staged file may be on its way into the bucket: that is given up, too."""
        if self._is_direct(staged):
            self._multiparts.discard(staged)
        else:
            self._local.discard(self._on_disk(staged))
            self._multiparts.discard(replace(staged, staging_key=None))

    def open(self, key: str) -> BinaryIO:
        """See Storage. There is no ``fileno()`` but that of a staged file."""
        if is_direct(key):
            split_direct_key(key)
            raise FileNotFoundError(key)
        if _is_staging_key(key):
            return self._local.open(key)
        return self._bucket.open("/".join(keys.split_final_key(key)))

    def delete(self, final_key: str) -> None:
        """See Storage."""
        self._bucket.delete("/".join(keys.split_final_key(final_key)))

    def stat(self, key: str) -> ObjectStat:
        """See Storage; of a multipart upload: the bytes of its parts, and the latest one's time."""
        if is_direct(key):
            return self._stat_direct(key)
        if _is_staging_key(key):
            return self._local.stat(key)
        found = self._bucket.find("/".join(keys.split_final_key(key)))
        if found is None:
            raise FileNotFoundError(key)
        return found.stat

    def check(self, root_id: str | None = None) -> int | None:
        """See Storage. A bucket has no free bytes: those of the staging disk are returned."""
        if root_id in {None, self.root_id}:
            self._check_bucket()
        return None if root_id == self.root_id else self._local.check()

    def orphans(self, older_than_seconds: float) -> Iterator[Orphan]:
        """See Storage: staged files of this node, and multipart uploads with a note."""
        on_disk = (
            replace(orphan, root_id=self._disk_root_id)
            for orphan in self._local.orphans(older_than_seconds)
        )
        return itertools.chain(on_disk, self._direct_orphans(older_than_seconds))

    def location(self, final_key: str) -> str:
        """See Storage."""
        return f"s3://{self._bucket.name}/{final_key}"

    def _is_direct(self, staged: StagedObject) -> bool:
        if staged.root_id not in self.root_ids:
            raise WrongRoot()
        return staged.root_id == self.root_id

    def _on_disk(self, staged: StagedObject) -> StagedObject:
        """Return a staged upload as this node's disk knows it. Raises WrongRoot."""
        if staged.root_id != self._disk_root_id:
            raise WrongRoot()
        return replace(staged, root_id=self._local.root_id)

    def _split_key(self, staged: StagedObject) -> tuple[str, str]:
        """Return note key and UploadId of a direct upload, the latter "" if it has none."""
        return split_direct_key(staged.staging_key or self._multiparts.note_key(staged.upload_id))

    def _publish_direct(self, staged: StagedObject, receipts: Mapping[int, str | None]) -> None:
        _, s3_upload_id = self._split_key(staged)
        proofs = {index: Receipt.from_text(text or "null") for index, text in receipts.items()}
        self._multiparts.complete(staged, s3_upload_id, proofs)

    def _publish_staged(self, staged: StagedObject, on_progress: Progress) -> None:
        staging_key = staged.staging_key or self._multiparts.note_key(staged.upload_id)
        try:
            source = self._local.open("/".join(keys.split_staging_key(staging_key)))
        except FileNotFoundError:
            if not self._multiparts.is_published(staged):
                raise PartsLost() from None
            return
        with source:
            self._transfer.carry_out(staged, source, on_progress)

    def _check_bucket(self) -> None:
        if self._bucket.read_marker() != self.root_id:
            raise StorageUnavailable(_STRANGE_BUCKET)
        now = time.monotonic()
        checked_at = self._write_checked_at
        if checked_at is None or now - checked_at >= WRITE_CHECK_SECONDS:
            self._multiparts.prove_writable()
            self._write_checked_at = now

    def _stat_direct(self, staging_key: str) -> ObjectStat:
        note_key, s3_upload_id = split_direct_key(staging_key)
        found, key = self._bucket.find(note_key), self._multiparts.noted_key(note_key)
        if found is None or key is None:
            raise FileNotFoundError(staging_key)
        try:
            parts = list(self._multiparts.parts(key, s3_upload_id))
        except PartsLost:
            raise FileNotFoundError(staging_key) from None
        times = [found.stat.modified_at_seconds, *(part.modified_at_seconds for part in parts)]
        return ObjectStat(sum(part.size_bytes for part in parts), max(times))

    def _direct_orphans(self, older_than_seconds: float) -> Iterator[Orphan]:
        for upload_id, note_key, modified_at_seconds in self._multiparts.notes():
            if modified_at_seconds >= older_than_seconds:
                continue
            s3_upload_id = next(iter(self._multiparts.find_noted(note_key)), "")
            staging_key = direct_key(note_key, s3_upload_id)
            with contextlib.suppress(FileNotFoundError):  # a note without its upload is as old
                modified_at_seconds = self.stat(staging_key).modified_at_seconds
            if modified_at_seconds < older_than_seconds:
                yield Orphan(upload_id, staging_key, self.root_id, modified_at_seconds)


def _is_staging_key(key: str) -> bool:
    return key.startswith(f"{STAGING_DIRECTORY}/")
