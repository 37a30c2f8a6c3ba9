"""The contract every storage keeps; ``tests/storage`` runs it against each backend.

A storage knows objects of two kinds. A *staged* object belongs to an unfinished
upload and is written in parts, in any order, by several processes at once. A
*final* object is a finished file under its target key. ``publish`` turns the
first into the second atomically. The storage knows nothing of users, states or
HTTP; who may write when is the ledger's business (leases), and so are the
bounds of each part (``domain.parts``).

Errors: StorageUnavailable when it may work later, StorageFull, WrongRoot,
PartsLost, TargetExists, StorageFault where the storage cannot hold the final
name. Vendor exceptions stop here and become the cause, which whoever logs the
error logs with it: a storage runs in native threads and logs nothing itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

from app.errors import PartsLost, WrongRoot

#: What ``join`` reads at a time.
_JOIN_BYTES = 1024 * 1024

#: Told how many bytes of how many have been moved so far.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do natively. Protocols advertise what follows from this.

    ``random_writes``: parts may be of any size and come in any order.
    ``native_thread_writes``: ``PartWriter.write`` may be called from a native
    thread that must not touch gevent; otherwise it is called in a greenlet.
    ``readable_staging``: bytes of unfinished uploads can be read back; without
    it ``open`` does not find them, and ``stat`` counts the bytes stored so far.
    ``concatenation``: staged objects can be joined without moving their bytes
    through this process. ``publishing_moves_no_bytes``: it has no progress to tell.
    """

    random_writes: bool
    native_thread_writes: bool
    readable_staging: bool
    concatenation: bool
    publishing_moves_no_bytes: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """How an upload's bytes will come; a storage chooses the root by it.

    ``length`` in bytes, None while it is deferred. ``part_size`` and
    ``part_count`` are None where bytes are appended front to back; the last
    part has the rest, which may be longer than ``part_size``. ``verified``:
    the whole file's checksum will be compared before it is published.
    """

    length: int | None
    part_size: int | None
    part_count: int | None
    verified: bool


@dataclass(frozen=True, slots=True)
class StagedObject:
    """What a storage needs to know of an upload.

    ``length`` in bytes is None while it is deferred. ``staging_key`` is what
    ``create`` returned, None before. ``root_id`` names the root (disk, share,
    bucket) the bytes are on. ``target_key`` is relative to the storage root; it
    is this upload's alone and stays as it was when the object was created.
    ``content_type`` is kept with the final object where the storage can.
    """

    upload_id: str
    length: int | None
    target_key: str
    root_id: str
    staging_key: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """Size in bytes and modification time in Unix seconds of a stored object."""

    size_bytes: int
    modified_at_seconds: float


@dataclass(frozen=True, slots=True)
class Orphan:
    """A staged object found on the storage, which the sweeper may ask to discard."""

    upload_id: str
    staging_key: str
    root_id: str
    modified_at_seconds: float


class PartWriter(ABC):
    """Writes one stretch of bytes into a staged object, front to back.

    A context manager: leaving it without ``commit`` aborts. Never shared
    between threads at the same time.
    """

    @abstractmethod
    def write(self, buffer: memoryview) -> None:
        """Store all of ``buffer`` behind what was written before.

        The buffer belongs to the caller and is reused after the call. The
        caller never writes past the part's length. Raises StorageFull,
        StorageUnavailable, or PartsLost as ``commit`` does.
        """

    @abstractmethod
    def commit(self, *, durable: bool) -> str | None:
        """Finish the part; once only. Returns the storage's own receipt (opaque) or None.

        With ``durable`` all that was written to the object before the call, by
        whichever writer, survives a power cut when this returns. Raises PartsLost
        if the object was removed meanwhile. May block for tens of milliseconds:
        call it in a native thread where ``native_thread_writes`` is declared.
        """

    @abstractmethod
    def abort(self) -> None:
        """Give the part up and release what it holds; idempotent, harmless after ``commit``.

        Bytes that were written may stay where they are: nobody reads a part
        whose bit is not set.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()


class Storage(ABC):
    """A place for staged and final objects. Safe to use from many threads and greenlets.

    Most storages have one root. One that has several (a bucket, and a disk for
    what the bucket cannot take piece by piece) overrides the three methods
    below that tell of roots.
    """

    #: As users see it in answers: "local", "smb", "s3", "memory".
    backend: str
    capabilities: Capabilities
    #: Random id of the root, kept on it in a marker file. Uploads of another root are refused.
    root_id: str

    @property
    def root_ids(self) -> frozenset[str]:
        """Return the ids of all roots that this process can reach."""
        return frozenset({self.root_id})

    def root_for(self, arrival: Arrival) -> str:
        """Return the id of the root on which an upload is to be staged.

        One whose checksum will be compared gets a root with ``readable_staging``.
        """
        return self.root_id

    def reaches_final(self, root_id: str) -> bool:
        """Tell whether final objects of uploads that were staged on a root are within reach."""
        return root_id in self.root_ids

    def capabilities_of(self, root_id: str) -> Capabilities:
        """Return what can be done with objects that are staged on a root."""
        return self.capabilities

    @abstractmethod
    def create(self, staged: StagedObject) -> str:
        """Make the staged object, sparse and of full length where known; return its staging key.

        Never truncates one that exists: called again after a crash it returns
        the same key. ``staged.staging_key`` is ignored. Durable on return.
        """

    @abstractmethod
    def writer(
        self, staged: StagedObject, index: int, offset: int, length: int | None
    ) -> PartWriter:
        """Open the staged object for ``length`` bytes at ``offset`` (part ``index``).

        ``length`` None: until the end of an object of unknown length. Never
        creates the object: raises PartsLost where it has vanished, or leaves that
        to the writer; WrongRoot where it lies on another root.
        """

    @abstractmethod
    def publish(
        self, staged: StagedObject, receipts: Mapping[int, str | None], on_progress: Progress
    ) -> str:
        """Turn the full staged object into the final one; return the final key.

        Atomic: nobody ever sees a half file under the final name. Idempotent:
        where the final object is there and staging is gone, it happened
        before, and only durability is made sure of again. Durable on return.
        ``receipts``: part index → what ``commit`` returned. Bytes beyond the
        length are cut off: nobody acknowledged them. Raises TargetExists
        (nothing is overwritten), PartsLost, or StorageFault where the final
        name cannot be had; ValueError while the length is unknown.
        """

    def join(
        self, target: StagedObject, sources: Sequence[StagedObject], on_progress: Progress
    ) -> None:
        """Fill a staged object with the bytes of others, one behind the other.

        For roots with ``readable_staging``; all objects are on the same one, and
        ``sources`` have lengths, which add up to the target's. The same one may
        come twice. Sources stay as they are. Idempotent: called again after a
        crash it begins anew. Durable on return. Called as ``publish`` is;
        ``on_progress`` may raise to stop it. Raises PartsLost where an object has
        vanished or a source is too short, WrongRoot where they lie apart.
        """
        total = sum(source.length or 0 for source in sources)
        done = 0
        for index, source in enumerate(sources):
            length = source.length or 0
            with (
                self._opened_source(source) as file,
                self.writer(target, index, done, length) as writer,
            ):
                end = done + length
                while done < end:
                    piece = file.read(min(_JOIN_BYTES, end - done))
                    if not piece:
                        raise PartsLost()
                    writer.write(memoryview(piece))
                    done += len(piece)
                    on_progress(done, total)
                writer.commit(durable=True)

    def _opened_source(self, source: StagedObject) -> BinaryIO:
        if source.root_id not in self.root_ids:
            raise WrongRoot
        try:
            if source.staging_key is None:
                raise FileNotFoundError(source.upload_id)
            return self.open(source.staging_key)
        except FileNotFoundError as error:
            raise PartsLost() from error

    @abstractmethod
    def discard(self, staged: StagedObject) -> None:
        """Remove what is staged of an upload; idempotent."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open a staged or final object for reading: seekable, ``fileno()`` where there is one.

        Whoever opens it reads it in native threads, one at a time. A staged object
        may grow meanwhile, and may be published: what is open stays readable.
        ``key`` is a staging key or a final key. Raises FileNotFoundError.
        """

    @abstractmethod
    def delete(self, final_key: str) -> None:
        """Remove a final object; idempotent."""

    @abstractmethod
    def stat(self, key: str) -> ObjectStat:
        """Return size and time of a staged or final object. Raises FileNotFoundError."""

    @abstractmethod
    def check(self, root_id: str | None = None) -> int | None:
        """Prove that the storage can be written to now; return its free bytes, None if unknown.

        ``root_id``: only that root is looked at, None: all of them. Raises
        StorageUnavailable, or StorageFull, with a message an operator can act on,
        without secrets, paths or host names.
        """

    @abstractmethod
    def orphans(self, older_than_seconds: float) -> Iterator[Orphan]:
        """Yield staged objects of this instance last changed before that Unix time.

        Touches only this instance's own staging, nothing of other instances.
        """

    @abstractmethod
    def location(self, final_key: str) -> str:
        """Return where the file is, as shown to people: a path or an URL. No I/O."""
