"""Checksums of request bodies: the algorithms, and comparing.

All of them release the GIL for buffers of more than a few kilobytes.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol


class Hasher(Protocol):
    """What hashlib's objects offer, as far as it is used."""

    def update(self, data: memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


class Crc32:
    """CRC-32 as zlib, PNG and Ethernet have it; its digest is 4 bytes, big-endian."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _hashlib(name: str) -> Callable[[], Hasher]:
    # Nothing is kept secret or signed by these: they find damage on the way.
    return partial(hashlib.new, name, usedforsecurity=False)


#: Name → constructor, the one every server must have first.
ALGORITHMS: Mapping[str, Callable[[], Hasher]] = {
    "sha1": _hashlib("sha1"),
    "sha256": _hashlib("sha256"),
    "md5": _hashlib("md5"),
    "crc32": Crc32,
}


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a client promises of a body: the digest by one of ALGORITHMS."""

    algorithm: str
    digest: bytes

    def is_of(self, hasher: Hasher) -> bool:
        """Tell whether ``hasher``, of the same algorithm, has seen the promised bytes."""
        return hmac.compare_digest(self.digest, hasher.digest())
