"""Tables and JSON of a run. Pure: takes rows, returns text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.control import ControlRow
from bench.loads import KIB, MIB, Durability
from bench.stats import MEGABYTE, Row, Sample, Spread, find_row

#: The row that others of the same load and durability are compared with.
BASELINE = "nginx"

#: The kernel's writeback stays below this while strict cells run.
NOISY_CORES = 0.4
NOISY_SHARE = 0.1

_COLUMNS = (
    "load",
    "durability",
    "receiver",
    "MB/s (min–max)",
    "x nginx",
    "server CPU s/GiB",
    "client CPU s/GiB",
    "busy cores (others)",
    "peak RSS MiB (sum)",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was measured; ``reached`` None where something was not measured."""

    goal: str
    measured: str
    reached: bool | None

    def text(self) -> str:
        mark = {True: "reached", False: "MISSED", None: "not measured"}[self.reached]
        return f"- {mark}: {self.goal}: {self.measured}"


def markdown_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned for reading as plain text."""
    cells = [list(columns), *(list(line) for line in lines)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    )


def throughput_table(rows: Sequence[Row]) -> str:
    """Return the table of all cells, by load, then durability, then receiver as in ``rows``."""
    order = list(Durability)
    peers = list(dict.fromkeys(row.peer for row in rows))
    ordered = sorted(
        rows,
        key=lambda row: (
            -row.load.body_bytes,
            row.load.connections,
            -order.index(row.durability),
            peers.index(row.peer),
        ),
    )
    return markdown_table(_COLUMNS, (_line(row, rows) for row in ordered))


def _line(row: Row, rows: Sequence[Row]) -> list[str]:
    ratio = ratio_to(BASELINE, row, rows)
    return [
        row.load.label,
        row.durability.value,
        row.peer,
        row.mb_per_second.text(),
        "" if ratio is None else f"{ratio:.2f}",
        f"{row.server_cpu_per_gib.median:.2f}",
        f"{row.client_cpu_per_gib.median:.2f}",
        f"{row.busy_cores.median:.2f} ({row.other_cores.median:.2f})",
        f"{row.peak_rss_bytes / MIB:.0f} ({row.sum_peak_rss_bytes / MIB:.0f})",
    ]


def ratio_to(peer: str, row: Row, rows: Sequence[Row]) -> float | None:
    """Return a row's median speed over that of ``peer`` in the same cell, None without one."""
    other = find_row(rows, peer, row.durability, row.load)
    return None if other is None else row.mb_per_second.median / other.mb_per_second.median


def hashing_line(hash_rates: Sequence[float], cores: int) -> str:
    """Return what is said of the hashing measured in each round (bytes/s of all cores)."""
    spread = Spread.of(rate / MEGABYTE for rate in hash_rates)
    return f"SHA-256, 1 MiB buffers, {cores} threads at once: {spread.text()} MB/s together."


def noise_line(samples: Sequence[Sample]) -> str | None:
    """Return a warning if other programs ran beside many cells, None on a quiet machine."""
    noisy = sum(sample.other_cores > NOISY_CORES for sample in samples)
    if noisy <= len(samples) * NOISY_SHARE:
        return None
    return (
        f"NOISY: beside {noisy} of {len(samples)} cells other programs used more than "
        f"{NOISY_CORES} cores. Measure again on a quiet machine, or with --patience."
    )


def control_table(rows: Iterable[ControlRow]) -> str:
    """Return the table of the control plane."""
    return markdown_table(
        ("call", "seconds (min–max)", "answer KiB"),
        ([row.call, row.seconds.text(3), f"{row.answer_bytes / KIB:.0f}"] for row in rows),
    )


def sample_json(sample: Sample) -> dict[str, Any]:
    """Return a sample as plain JSON values, with what the tables derive from it."""
    return {
        **asdict(sample),
        "durability": sample.durability.value,
        "mb_per_second": sample.mb_per_second,
        "server_cpu_per_gib": sample.server_cpu_per_gib,
        "client_cpu_per_gib": sample.client_cpu_per_gib,
    }
