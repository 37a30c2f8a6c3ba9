"""The staged way's last step: a finished file moves from this node's disk into the bucket.

Small files go in one request. Large ones become a multipart upload whose parts
are sent by several native threads. A crash loses nothing: the multipart upload is
found again by its note, and a part that is there already is compared with the
file's bytes by its digest instead of being sent again.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

from gevent.threadpool import ThreadPoolExecutor

from app.buffers import page_aligned
from app.domain.parts import Geometry, Span
from app.errors import PartsLost, StorageUnavailable, TargetExists
from app.native_threads import native_lock
from app.storage.base import Progress, StagedObject
from app.storage.s3_bucket import UPLOAD_METADATA, Bucket
from app.storage.s3_digests import Digest, Receipt, new_digest, proven
from app.storage.s3_errors import GONE, code_of, translated
from app.storage.s3_multipart import Multiparts, StoredPart

MIB = 1024 * 1024

#: S3's limit of parts in one object.
MAX_PARTS = 10_000

#: Parts of this size keep a fast line busy, and cost little when one is sent again.
PART_BYTES = 16 * MIB

#: Parts sent at a time. More than the disk and one connection need, few enough
#: that other uploads get their share.
THREADS = 4

#: What is there does not fit what is sent: S3_REQUEST_CHECKSUMS was changed since it was
#: begun. Everything is here, so it is begun anew.
_UNFIT = frozenset({"InvalidRequest", "InvalidPart"})

#: Read from the disk at a time. Senders ask for 16 KiB and take what they get.
_PIECE_BYTES = MIB

#: With checksums large pieces cost more: see s3_direct.
_CHECKSUMMED_PIECE_BYTES = 64 * 1024


def part_bytes_for(length: int) -> int:
    """Return the part size, in whole MiB, with which an object has at most 10,000 parts."""
    needed = -(-length // MAX_PARTS)
    return max(PART_BYTES, -(-needed // MIB) * MIB)


class FileSpan:
    """A stretch of an open file as a body of its own; digested while it is read."""

    def __init__(
        self,
        descriptor: int,
        span: Span,
        moved: Callable[[int], None],
        *,
        checksums_sent: bool,
    ) -> None:
        self._descriptor = descriptor
        self._offset = span.offset
        self._length = span.length
        self._moved = moved
        self._checksums_sent = checksums_sent
        piece_bytes = _CHECKSUMMED_PIECE_BYTES if checksums_sent else _PIECE_BYTES
        self._buffer = page_aligned(max(1, min(span.length, piece_bytes)))
        self._position = 0
        self.digest: Digest = new_digest(checksums_sent)

    def __len__(self) -> int:
        return self._length

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go back to the start, as botocore does before it sends a body again."""
        if offset or whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only to the start")
        self._moved(-self._position)
        self._position = 0
        self.digest = new_digest(self._checksums_sent)
        return 0

    def read(self, _size: int = -1) -> memoryview:
        """Return the next piece, valid until the next call, empty at the end."""
        wanted = self._buffer[: self._length - self._position]
        if not wanted:
            return wanted
        count = os.preadv(self._descriptor, [wanted], self._offset + self._position)
        if not count:
            raise OSError("the staged file has become shorter while it was sent")
        piece = wanted[:count]
        self.digest.update(piece)
        self._position += count
        self._moved(count)
        return piece


class _Moved:
    """Counts the bytes of all threads; what is told never goes back."""

    def __init__(self, length: int, on_progress: Progress) -> None:
        self._length = length
        self._on_progress = on_progress
        self._lock = native_lock()
        self._bytes = 0
        self._told_bytes = 0

    def add(self, count: int) -> None:
        """Count bytes sent, or (negative) bytes that have to be sent again."""
        with self._lock:
            self._bytes += count
            if self._bytes > self._told_bytes:
                self._told_bytes = self._bytes
                self._on_progress(self._told_bytes, self._length)


class _Queue:
    """The indexes of parts that are still to be sent; empty once one has failed."""

    def __init__(self, count: int) -> None:
        self._lock = native_lock()
        self._indexes = iter(range(count))
        self._failed = False

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._lock:
                index = None if self._failed else next(self._indexes, None)
            if index is None:
                return
            yield index

    def fail(self) -> None:
        """Let the other threads stop after the part they are at."""
        self._failed = True


@dataclass(frozen=True, slots=True)
class Transfer:
    """Moves full staged files into a bucket; up to ``PART_BYTES`` go in one request.

    ``sync_first``: the files' parts were not synced, so the disk has still to
    say whether it has them all.
    """

    bucket: Bucket
    multiparts: Multiparts
    sync_first: bool

    def carry_out(self, staged: StagedObject, source: BinaryIO, on_progress: Progress) -> None:
        """Make the final object of the open staged file, of which ``length`` bytes count.

        Raises PartsLost if the file is too short, TargetExists, StorageFull,
        StorageUnavailable; then the next call goes on where this one stopped.
        """
        length, descriptor = staged.length, source.fileno()
        assert length is not None
        if os.fstat(descriptor).st_size < length:
            raise PartsLost()
        if self.sync_first:
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise PartsLost() from error
        if self.multiparts.is_published(staged):
            return
        moved = _Moved(length, on_progress)
        try:
            if length <= PART_BYTES:
                self._put(staged, descriptor, moved)
            else:
                self._send_parts(staged, descriptor, moved)
        except (PartsLost, StorageUnavailable) as error:
            if code_of(error.__cause__) in GONE and self.multiparts.is_published(staged):
                return  # another process was faster
            if code_of(error.__cause__) in _UNFIT:
                self.multiparts.discard(staged)
            if isinstance(error, StorageUnavailable):
                raise
            # What was sent is lost. The bytes are all here, to be sent once more.
            raise StorageUnavailable() from error.__cause__

    def _put(self, staged: StagedObject, descriptor: int, moved: _Moved) -> None:
        assert staged.length is not None
        more: dict[str, Any] = {}
        if staged.content_type:
            more["ContentType"] = staged.content_type
        body = self._span(descriptor, Span(0, staged.length), moved)
        if not self.bucket.clients.place.checksums_sent:
            # Compared before the object is there: nobody sees a damaged one.
            more["ContentMD5"] = _md5_in_base64(body)
        put = self.bucket.put_new(
            staged.target_key,
            body if staged.length else b"",
            ContentLength=staged.length,
            Metadata={UPLOAD_METADATA: staged.upload_id},
            **more,
        )
        if not put and not self.multiparts.is_published(staged):
            raise TargetExists()

    def _send_parts(self, staged: StagedObject, descriptor: int, moved: _Moved) -> None:
        assert staged.length is not None
        geometry = Geometry.of(staged.length, part_bytes_for(staged.length))
        s3_upload_id = self.multiparts.begin(staged)
        known = self._known(staged, s3_upload_id)
        if known and max(known) > geometry.part_count:
            # Cut in another way, by another version. Some servers complete only whole uploads.
            self.multiparts.discard(staged)
            s3_upload_id, known = self.multiparts.begin(staged), {}
        receipts: dict[int, Receipt] = {}
        queue = _Queue(geometry.part_count)

        def send() -> None:
            try:
                for index in queue:
                    body = self._span(descriptor, geometry.span(index), moved)
                    receipts[index] = self._stored(known.get(index + 1), body) or self._sent(
                        staged, s3_upload_id, index, body
                    )
            except BaseException:
                queue.fail()
                raise
            finally:
                self.bucket.clients.close_here()

        with ThreadPoolExecutor(THREADS) as pool:
            for sender in [pool.submit(send) for _ in range(min(THREADS, geometry.part_count))]:
                sender.result()
        self.multiparts.complete(staged, s3_upload_id, receipts)

    def _known(self, staged: StagedObject, s3_upload_id: str) -> dict[int, StoredPart]:
        parts = self.multiparts.parts(staged.target_key, s3_upload_id)
        return {part.number: part for part in parts}

    def _stored(self, part: StoredPart | None, body: FileSpan) -> Receipt | None:
        """Return the receipt of a part that is there already, if it has the file's bytes."""
        if part is None or part.size_bytes != len(body):
            return None
        while body.read():
            pass
        if body.digest.agrees(part.receipt):
            return part.receipt
        body.seek(0)
        return None

    def _sent(self, staged: StagedObject, s3_upload_id: str, index: int, body: FileSpan) -> Receipt:
        with translated():
            answer = self.bucket.clients.calls.upload_part(
                Bucket=self.bucket.name,
                Key=staged.target_key,
                UploadId=s3_upload_id,
                PartNumber=index + 1,
                Body=cast(IO[bytes], body),  # has all that is asked of it
                ContentLength=len(body),
            )
        return proven(body.digest, answer)

    def _span(self, descriptor: int, span: Span, moved: _Moved) -> FileSpan:
        checksums_sent = self.bucket.clients.place.checksums_sent
        return FileSpan(descriptor, span, moved.add, checksums_sent=checksums_sent)


def _md5_in_base64(body: FileSpan) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    while piece := body.read():
        md5.update(piece)
    body.seek(0)
    return base64.b64encode(md5.digest()).decode("ascii")
