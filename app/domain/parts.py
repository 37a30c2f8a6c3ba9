"""Geometry: which bytes a part covers, and which bit stands for it.

Parts are counted from 0. All parts but the last have ``part_size`` bytes; the
last has the rest, which is shorter for native uploads and may be longer for
Resumable.js (up to twice a chunk).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

#: Parts whose bits share one row of the bitmap table. 32 bits fit a signed
#: BIGINT of every database with room to spare.
BITS_PER_WORD = 32

#: Upper bound of parts in an upload: a token for each must fit one answer.
MAX_PARTS = 100_000


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``offset`` to ``offset + length`` of the file."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """How ``length`` bytes are cut into ``part_count`` parts of ``part_size`` bytes."""

    length: int
    part_size: int
    part_count: int

    @classmethod
    def of(cls, length: int, part_size: int) -> Geometry:
        """Cut ``length`` bytes the native way: ceil(length / part_size) parts, 0 for 0 bytes.

        Raises ValueError on a negative length or a part size below 1 byte.
        """
        if length < 0 or part_size < 1:
            raise ValueError("length must be >= 0 and part_size >= 1")
        return cls(length, part_size, -(-length // part_size))

    def span(self, index: int) -> Span:
        """Return the bytes of part ``index``; raises IndexError outside 0..part_count-1."""
        if not 0 <= index < self.part_count:
            raise IndexError(f"part {index} of {self.part_count}")
        offset = index * self.part_size
        end = self.length if index == self.part_count - 1 else offset + self.part_size
        return Span(offset, end - offset)


def word_and_mask(index: int) -> tuple[int, int]:
    """Return the bitmap row of a part and the mask of its bit in that row."""
    word, bit = divmod(index, BITS_PER_WORD)
    return word, 1 << bit


def received_parts(words: Mapping[int, int]) -> Iterator[int]:
    """Yield, in order, the indexes of the parts whose bit is set in word → bits."""
    for word in sorted(words):
        bits = words[word]
        while bits:
            lowest = bits & -bits
            yield word * BITS_PER_WORD + lowest.bit_length() - 1
            bits ^= lowest


def pending_parts(words: Mapping[int, int], part_count: int) -> Iterator[int]:
    """Yield, in order, the indexes below ``part_count`` whose bit is not set."""
    for index in range(part_count):
        word, mask = word_and_mask(index)
        if not words.get(word, 0) & mask:
            yield index


def words_without(words: Mapping[int, int], lost: Iterable[int]) -> dict[int, int]:
    """Return a copy of ``words`` with the bits of the ``lost`` parts cleared."""
    cleared = dict(words)
    for index in lost:
        word, mask = word_and_mask(index)
        cleared[word] = cleared.get(word, 0) & ~mask
    return cleared
