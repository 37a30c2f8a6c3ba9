"""Samples and what is said of them: medians with their range, ratios, the hashing bound.

Pure: no clock, no processes, no files.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.loads import GIB, Durability, Load

#: MB/s in all tables are of 10^6 bytes, as disks and networks are sold.
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One cell in one round: what one receiver did with one load.

    ``server_cpu_seconds`` and ``client_cpu_seconds`` are user + system time of
    the two process trees; ``busy_cores`` is how many cores of the machine were
    not idle on average, ``other_cores`` how many of them neither server nor
    client used: writeback, and programs that had better not be running.
    ``peak_rss_bytes`` is the peak of the largest server process, shared pages
    included; ``sum_peak_rss_bytes`` adds up the peaks of all of them.
    """

    peer: str
    durability: Durability
    load: Load
    round: int
    seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    busy_cores: float
    other_cores: float
    peak_rss_bytes: int
    sum_peak_rss_bytes: int

    @property
    def mb_per_second(self) -> float:
        return self.load.timed_bytes / self.seconds / MEGABYTE

    @property
    def server_cpu_per_gib(self) -> float:
        return self.server_cpu_seconds / (self.load.timed_bytes / GIB)

    @property
    def client_cpu_per_gib(self) -> float:
        return self.client_cpu_seconds / (self.load.timed_bytes / GIB)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of some measurements."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise at least one value; raises ValueError on none."""
        found = list(values)
        if not found:
            raise ValueError("no values to summarise")
        return cls(statistics.median(found), min(found), max(found))

    def text(self, digits: int = 0) -> str:
        """Return ``median (least–greatest)``."""
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}–{self.greatest:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Row:
    """All rounds of one cell."""

    peer: str
    durability: Durability
    load: Load
    mb_per_second: Spread
    server_cpu_per_gib: Spread
    client_cpu_per_gib: Spread
    busy_cores: Spread
    other_cores: Spread
    peak_rss_bytes: int
    sum_peak_rss_bytes: int


def rows_of(samples: Sequence[Sample]) -> list[Row]:
    """Fold the samples of each (peer, durability, load) into a row, in order of appearance."""
    cells: dict[tuple[str, Durability, Load], list[Sample]] = {}
    for sample in samples:
        cells.setdefault((sample.peer, sample.durability, sample.load), []).append(sample)
    return [
        Row(
            peer=peer,
            durability=durability,
            load=load,
            mb_per_second=Spread.of(s.mb_per_second for s in found),
            server_cpu_per_gib=Spread.of(s.server_cpu_per_gib for s in found),
            client_cpu_per_gib=Spread.of(s.client_cpu_per_gib for s in found),
            busy_cores=Spread.of(s.busy_cores for s in found),
            other_cores=Spread.of(s.other_cores for s in found),
            peak_rss_bytes=max(s.peak_rss_bytes for s in found),
            sum_peak_rss_bytes=max(s.sum_peak_rss_bytes for s in found),
        )
        for (peer, durability, load), found in cells.items()
    ]


def find_row(rows: Iterable[Row], peer: str, durability: Durability, load: Load) -> Row | None:
    """Return the row of a cell, None if it was not measured."""
    for row in rows:
        if (row.peer, row.durability, row.load) == (peer, durability, load):
            return row
    return None


def hashing_bound(hash_bytes_per_second: float, cores: int, unhashed: Row) -> float:
    """Return the MB/s that a receiver which hashes every byte could reach at best.

    ``hash_bytes_per_second`` is what all ``cores`` hash together when they do
    nothing else (SHA-256, 1 MiB buffers, a thread a core), and ``unhashed`` the
    same transfer without hashing. A GiB then costs

    - H = cores x 1 GiB / hash_bytes_per_second core seconds of hashing, and
    - U = the server's and the client's CPU seconds per GiB, measured unhashed
      (the client runs on the same cores),

    so that cores which are never idle take cores / (H + U) GiB a second. The
    bound is that, and never more than the speed of the unhashed transfer, which
    also waits for the disk. It is what could be reached at best, so the best
    rounds of the unhashed transfer count: the least CPU, the greatest speed.
    """
    hashing = cores * GIB / hash_bytes_per_second
    moving = unhashed.server_cpu_per_gib.least + unhashed.client_cpu_per_gib.least
    cpu_bound = cores / (hashing + moving) * GIB / MEGABYTE
    return min(cpu_bound, unhashed.mb_per_second.greatest)
