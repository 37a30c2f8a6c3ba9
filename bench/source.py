"""The bytes that are sent: one file of random bytes, in the page cache.

Random, because zeros compress and deduplicate on some disks. Body ``i`` begins
``i`` strides into the file, so that neighbouring bodies differ and a receiver
that swaps two of them is found out.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.loads import KIB, MIB

#: Sendfile sends whole pages fastest: a multiple of the page size.
STRIDE_BYTES = 64 * KIB
STRIDES = 64


@dataclass(frozen=True, slots=True)
class Source:
    """A file of random bytes, long enough for bodies of ``body_bytes`` at any stride."""

    path: Path
    body_bytes: int

    @classmethod
    def create(cls, path: Path, body_bytes: int) -> Source:
        """Write the file; it stays in the page cache."""
        left = body_bytes + STRIDES * STRIDE_BYTES
        with path.open("wb") as file:
            while left:
                left -= file.write(os.urandom(min(left, MIB)))
        return cls(path, body_bytes)

    def offset(self, index: int) -> int:
        """Return where body ``index`` begins in the file, in bytes."""
        return index % STRIDES * STRIDE_BYTES

    def digest(self, algorithm: str, index: int) -> bytes:
        """Return a digest of body ``index``, by an algorithm of hashlib."""
        return _digest(self.path, algorithm, self.offset(index), self.body_bytes)

    def sha256(self, indexes: Iterable[int]) -> str:
        """Return the SHA-256 (hex) of these bodies, one behind the other."""
        digest = hashlib.sha256()
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            for index in indexes:
                offset = self.offset(index)
                with view[offset : offset + self.body_bytes] as body:
                    digest.update(body)
        return digest.hexdigest()


@cache  # each round sends the same bodies again
def _digest(path: Path, algorithm: str, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.new(algorithm, os.pread(file.fileno(), length, offset)).digest()


def file_sha256(path: Path, length: int | None = None) -> str:
    """Return the SHA-256 (hex) of a file, or of its first ``length`` bytes."""
    digest = hashlib.sha256()
    left = path.stat().st_size if length is None else length
    with path.open("rb") as file:
        while left and (data := file.read(min(left, MIB))):
            digest.update(data)
            left -= len(data)
    return digest.hexdigest()
