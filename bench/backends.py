"""Whole files to a share and to a bucket, from the first request until they are there.

Longhaul's time is that of creating the upload, sending its parts, and finalizing
it; the others' that of one command that copies the same file: ``smbclient put``,
and boto3's ``upload_file``, which is what ``aws s3 cp`` does. The servers are
the tests': Samba, and Ceph's gateway with all of its data in memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.cells import Bench, cell_directory, wait_until_quiet
from bench.loads import MIB
from bench.memory import EXTRA_BYTES, Reserve
from bench.report import Verdict, markdown_table
from bench.stats import MEGABYTE, Spread
from bench.ways import ERRORS as ERRORS
from bench.ways import FILE_BYTES, WAYS, Copying
from tests.harness.ceph import missing_program

#: Share of the speed of a plain copy that is reached end to end.
SPEED_SHARE = 0.9


def missing_servers() -> str | None:
    """Return what is not installed of what is needed, None if everything is."""
    for program in ("smbd", "smbclient"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            return f"{program} is not installed"
    program = missing_program()
    return f"{program} is not installed" if program else None


def measure_backends(
    directory: Path, rounds: int, patience_seconds: float, tell: Callable[[str], None]
) -> str:
    """Store the file in every way, once a round; return table and verdicts. See ``ERRORS``."""
    directory.mkdir()
    source = _new_source(directory / "source")
    bench = Bench(directory, {}, Reserve(2 * FILE_BYTES + EXTRA_BYTES))  # staged and stored
    bench.reserve.fill()
    found: dict[str, list[Copying]] = {way.name: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
            wait_until_quiet(patience_seconds)
            with cell_directory(bench.new_directory(), bench.reserve) as place:
                with bench.reserve.feeding():
                    copying = way.copy(place, source, not found[way.name])
            found[way.name].append(copying)
            tell(f"round {number + 1}: {way.name}: {copying.seconds:.2f} s")
    bench.reserve.release()
    verdicts = "\n".join(verdict.text() for verdict in verdicts_of(found))
    return f"{table_of(found)}\n\n{verdicts}"


def table_of(found: Mapping[str, list[Copying]]) -> str:
    """Return the table of what each way took, by its name."""
    seconds = {name: Spread.of(copying.seconds for copying in all_) for name, all_ in found.items()}
    lines = []
    for way in WAYS:
        spread = seconds[way.name]
        compared = [
            f"{seconds[other].median / spread.median:.2f} x {other}" for other in way.beside
        ]
        peaks = [copying.peak_rss_bytes for copying in found[way.name] if copying.peak_rss_bytes]
        lines.append(
            [
                way.name,
                spread.text(2),
                f"{FILE_BYTES / spread.median / MEGABYTE:.0f}",
                ", ".join(compared),
                f"{max(peaks) / MIB:.0f}" if peaks else "",
            ]
        )
    return markdown_table(
        ("2 GiB", "seconds (min–max)", "MB/s", "speed compared", "peak RSS MiB"), lines
    )


def verdicts_of(found: Mapping[str, list[Copying]]) -> list[Verdict]:
    """Return a verdict on each comparison of the table."""
    seconds = {name: Spread.of(copying.seconds for copying in all_) for name, all_ in found.items()}
    return [
        Verdict(
            f"2 GiB: {way.name}: at least {SPEED_SHARE} x {other}",
            f"{(ratio := seconds[other].median / seconds[way.name].median):.2f} x",
            ratio >= SPEED_SHARE,
        )
        for way in WAYS
        for other in way.beside
    ]


def _new_source(path: Path) -> Path:
    with path.open("wb") as file:
        for _ in range(FILE_BYTES // MIB):
            file.write(os.urandom(MIB))
    return path
