"""A storage in memory: for tests of everything that uses a storage, and for trying things out.

It keeps the whole contract, and it is the one backend at hand whose writers want
to be called in greenlets (``native_thread_writes`` is False, as for SMB and S3).
Holes cost nothing, so an upload may have any length.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, cast

from app.errors import PartsLost, StorageFull, StorageUnavailable, TargetExists, WrongRoot
from app.storage import keys
from app.storage.base import (
    Capabilities,
    ObjectStat,
    Orphan,
    PartWriter,
    Progress,
    StagedObject,
    Storage,
)

#: What is taken for a hole, and counted against the capacity: ext4's block.
_BLOCK_BYTES = 4096


@dataclass
class _Object:
    """Sparse bytes: blocks that were written, by their number."""

    length: int = 0
    blocks: dict[int, bytearray] = field(default_factory=dict)
    modified_at_seconds: float = field(default_factory=time.time)

    def write(self, offset: int, data: memoryview) -> None:
        """Store ``data`` at ``offset``, lengthening the object where it ends."""
        end = offset + len(data)
        while data:
            number, start = divmod(offset, _BLOCK_BYTES)
            piece = data[: _BLOCK_BYTES - start]
            block = self.blocks.setdefault(number, bytearray(_BLOCK_BYTES))
            block[start : start + len(piece)] = piece
            data = data[len(piece) :]
            offset += len(piece)
        self.length = max(self.length, end)
        self.modified_at_seconds = time.time()

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes at ``offset``: no more than one block, none at the end."""
        number, start = divmod(offset, _BLOCK_BYTES)
        size = max(0, min(size, _BLOCK_BYTES - start, self.length - offset))
        block = self.blocks.get(number)
        return bytes(size) if block is None else bytes(block[start : start + size])

    def truncate(self, length: int) -> None:
        """Cut off what lies beyond ``length``."""
        self.length = length
        kept = -(-length // _BLOCK_BYTES)
        self.blocks = {number: block for number, block in self.blocks.items() if number < kept}


@dataclass
class _Disk:
    """What the instances on one root share. The lock is held for each whole operation."""

    capacity_bytes: int | None
    available: bool = True
    objects: dict[str, _Object] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def used(self) -> Iterator[dict[str, _Object]]:
        """Yield the objects for one operation; StorageUnavailable while out of reach."""
        with self.lock:
            if not self.available:
                raise StorageUnavailable()
            yield self.objects

    def free_bytes(self) -> int | None:
        """Return what still fits, None without a limit."""
        if self.capacity_bytes is None:
            return None
        blocks = sum(len(item.blocks) for item in self.objects.values())
        return max(0, self.capacity_bytes - blocks * _BLOCK_BYTES)

    def make_room(self, item: _Object, offset: int, size: int) -> None:
        """Raise StorageFull unless ``size`` bytes at ``offset`` of ``item`` fit."""
        free = self.free_bytes()
        if free is None or size == 0:
            return
        touched = range(offset // _BLOCK_BYTES, (offset + size - 1) // _BLOCK_BYTES + 1)
        new = sum(number not in item.blocks for number in touched)
        if new * _BLOCK_BYTES > free:
            raise StorageFull()


@dataclass
class _MemoryWriter(PartWriter):
    _disk: _Disk
    _key: str
    _item: _Object
    _offset: int
    _finished: bool = False

    def write(self, buffer: memoryview) -> None:
        self._check_unfinished()
        with self._disk.used():
            self._disk.make_room(self._item, self._offset, len(buffer))
            self._item.write(self._offset, memoryview(buffer))
        self._offset += len(buffer)

    def commit(self, *, durable: bool) -> str | None:
        self._check_unfinished()
        self._finished = True
        with self._disk.used() as objects:
            if objects.get(self._key) is not self._item:
                raise PartsLost()
        return None

    def abort(self) -> None:
        self._finished = True

    def _check_unfinished(self) -> None:
        if self._finished:
            raise ValueError("the writer is finished")


class _Reader(io.RawIOBase):
    """Reads an object as it is at that moment: one that grows can be read on."""

    def __init__(self, disk: _Disk, item: _Object) -> None:
        self._disk = disk
        self._item = item
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._item.length}[whence]
        self._offset = max(0, start + offset)
        return self._offset

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        with self._disk.used():
            data = self._item.read(self._offset, len(target))
        target[: len(data)] = data
        self._offset += len(data)
        return len(data)


class MemoryStorage(Storage):
    """Objects in this process.

    ``capacity_bytes`` is what fits, in whole blocks of 4 KiB; None: no limit.
    While ``available`` is False, every call raises StorageUnavailable, as with a
    share that is down.
    """

    backend = "memory"
    capabilities = Capabilities(
        random_writes=True,
        native_thread_writes=False,
        readable_staging=True,
        concatenation=False,
        publishing_moves_no_bytes=True,
    )

    def __init__(self, capacity_bytes: int | None = None, *, instance_id: str = "memory") -> None:
        self._instance_id = keys.checked_id(instance_id)
        self._disk = _Disk(capacity_bytes)
        self.root_id = keys.new_root_id()

    def sibling(self, instance_id: str) -> MemoryStorage:
        """Return a storage of another instance on the same root, as another process has it."""
        sibling = MemoryStorage(instance_id=instance_id)
        sibling._disk = self._disk
        sibling.root_id = self.root_id
        return sibling

    @property
    def available(self) -> bool:
        """Whether the root answers; settable, and one for all instances on it."""
        return self._disk.available

    @available.setter
    def available(self, available: bool) -> None:
        self._disk.available = available

    def stored_keys(self) -> list[str]:
        """Return the keys of all objects on the root, sorted."""
        with self._disk.lock:
            return sorted(self._disk.objects)

    def create(self, staged: StagedObject) -> str:
        """See Storage."""
        key = self._staging_key(replace(staged, staging_key=None))
        with self._disk.used() as objects:
            found = objects.setdefault(key, _Object())
            found.length = max(found.length, staged.length or 0)
        return key

    def writer(
        self, staged: StagedObject, index: int, offset: int, length: int | None
    ) -> PartWriter:
        """See Storage."""
        key = self._staging_key(staged)
        with self._disk.used() as objects:
            if key not in objects:
                raise PartsLost()
            return _MemoryWriter(self._disk, key, objects[key], offset)

    def publish(
        self, staged: StagedObject, receipts: Mapping[int, str | None], on_progress: Progress
    ) -> str:
        """See Storage. Bytes beyond the length are cut off: nobody acknowledged them."""
        if staged.length is None:
            raise ValueError("an upload of unknown length cannot be published")
        keys.split_final_key(staged.target_key)
        key = self._staging_key(staged)
        with self._disk.used() as objects:
            source, final = objects.get(key), objects.get(staged.target_key)
            if source is not None:
                if source.length < staged.length:
                    raise PartsLost()
                if final is not None:
                    raise TargetExists()
                source.truncate(staged.length)
                objects[staged.target_key] = objects.pop(key)
            elif final is None or final.length != staged.length:
                raise PartsLost()
        on_progress(staged.length, staged.length)
        return staged.target_key

    def discard(self, staged: StagedObject) -> None:
        """See Storage."""
        key = self._staging_key(staged)
        with self._disk.used() as objects:
            objects.pop(key, None)

    def open(self, key: str) -> BinaryIO:
        """See Storage. There is no ``fileno()``."""
        return cast(BinaryIO, io.BufferedReader(_Reader(self._disk, self._find(key))))

    def delete(self, final_key: str) -> None:
        """See Storage."""
        keys.split_final_key(final_key)
        with self._disk.used() as objects:
            objects.pop(final_key, None)

    def stat(self, key: str) -> ObjectStat:
        """See Storage."""
        found = self._find(key)
        return ObjectStat(found.length, found.modified_at_seconds)

    def check(self, root_id: str | None = None) -> int | None:
        """See Storage."""
        with self._disk.used():
            return self._disk.free_bytes()

    def orphans(self, older_than_seconds: float) -> Iterator[Orphan]:
        """See Storage."""
        found = []
        with self._disk.used() as objects:
            for key, item in objects.items():
                *folder, name = key.split("/")
                upload_id = keys.staged_upload_id(name)
                own = tuple(folder) == keys.staging_folder(self._instance_id)
                if own and upload_id and item.modified_at_seconds < older_than_seconds:
                    found.append(Orphan(upload_id, key, self.root_id, item.modified_at_seconds))
        return iter(found)

    def location(self, final_key: str) -> str:
        """See Storage."""
        return f"memory:///{final_key}"

    def _find(self, key: str) -> _Object:
        keys.split_key(key)
        with self._disk.used() as objects:
            if key not in objects:
                raise FileNotFoundError(key)
            return objects[key]

    def _staging_key(self, staged: StagedObject) -> str:
        if staged.root_id != self.root_id:
            raise WrongRoot()
        key = staged.staging_key or keys.staging_key(self._instance_id, staged.upload_id)
        return "/".join(keys.split_staging_key(key))
