"""``python -m bench``: measure all receivers in one run and print the tables.

Rounds are interleaved: each round measures every cell once, in an order of its
own (shuffled, with a fixed seed), so that a disk that slows down or a noisy
neighbour hits all receivers alike. Medians of the rounds are printed with
their range. Compare only figures of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bench import backends, peers
from bench.cells import Bench, measure, refuse_memory_filesystem, wait_until_quiet
from bench.client import TransferFailed
from bench.control import ControlRow, measure_control_plane
from bench.goals import verdicts
from bench.hashing import cores, hash_bytes_per_second
from bench.loads import GIB, Durability, Load, parse_loads
from bench.memory import EXTRA_BYTES, Reserve
from bench.peers.base import CallFailed, Peer, WrongContent
from bench.procs import ServerFailed
from bench.report import control_table, hashing_line, noise_line, sample_json, throughput_table
from bench.source import Source
from bench.stats import Sample, rows_of

_SEED = 20240501
#: Room for the largest cell several times over.
_FREE_BYTES_NEEDED = 8 * GIB
CELL_ERRORS = (ServerFailed, CallFailed, TransferFailed, WrongContent)


@dataclass
class Run:
    """What a run has measured so far."""

    samples: list[Sample] = field(default_factory=list)
    hash_rates: list[float] = field(default_factory=list)
    control: list[ControlRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    thoroughly_checked: set[Peer] = field(default_factory=set)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="how often each cell is measured (default 3)")
    add("--scale", type=float, default=1.0, help="bytes a cell, times this (default 1)")
    add("--loads", default="", help="MiB x connections, by comma, as 50x4 (default: each one's)")
    add("--peers", default="", help="only receivers whose name contains one of these, by comma")
    add("--backends", action="store_true", help="whole files to SMB and S3, and nothing else")
    add("--durability", choices=list(Durability), help="only receivers of this durability")
    add("--patience", type=float, default=0.0, help="wait up to so many seconds for quiet cores")
    add("--dir", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure")
    add("--out", type=Path, default=Path("bench/results"), help="where tables and JSON are kept")
    return parser.parse_args(words)


def chosen_peers(names: str, durability: Durability | None, left_out: list[str]) -> list[Peer]:
    """Return the receivers asked for that can be measured here; adds the others to ``left_out``.

    Raises ValueError if none is left.
    """
    wanted = [name.strip().lower() for name in names.split(",") if name.strip()]
    chosen = []
    for peer in peers.ALL:
        named = any(name in peer.name.lower() for name in wanted)
        if not named and (wanted or peer.on_request):
            continue
        if durability and peer.durability != durability:
            continue
        if reason := peer.missing():
            left_out.append(f"{peer.name} ({peer.durability}): {reason}")
            say(f"left out: {left_out[-1]}")
            continue
        chosen.append(peer)
    if not chosen:
        raise ValueError(f"none of the receivers is called {names!r}")
    return chosen


def cells_of(chosen: Sequence[Peer], loads: str, scale: float) -> list[tuple[Peer, Load]]:
    """Return every receiver with each of its loads, or with those that ``loads`` names.

    Raises ValueError on a name that is not a load.
    """
    named = loads.split(",") if loads else None
    return [(peer, load) for peer in chosen for load in parse_loads(named or peer.loads, scale)]


def stored_bytes(peer: Peer, load: Load) -> int:
    """Return how many bytes a cell stores."""
    count = 1 if peer.durability is Durability.READ else load.total_count
    return count * load.body_bytes


def say(text: str) -> None:
    """Tell the person who waits; results go to stdout, this does not."""
    print(text, file=sys.stderr, flush=True)


def run_round(
    run: Run, number: int, cells: Sequence[tuple[Peer, Load]], bench: Bench, patience_seconds: float
) -> None:
    """Measure every cell once, and the hashing speed, in this round's order.

    Before each it waits ``patience_seconds`` at most for a quiet machine.
    """
    order = list(cells)
    random.Random(_SEED + number).shuffle(order)
    wait_until_quiet(patience_seconds)
    run.hash_rates.append(hash_bytes_per_second(cores()))
    for peer, load in order:
        label = f"round {number + 1}: {load.label:>10} {peer.durability:<7} {peer.name}"
        wait_until_quiet(patience_seconds)
        try:
            thorough = peer not in run.thoroughly_checked
            sample = measure(bench, peer, load, number, thorough)
        except CELL_ERRORS as error:
            run.failures.append(f"{label}: {error}")
            say(f"{label}: FAILED: {error}")
            continue
        run.thoroughly_checked.add(peer)
        run.samples.append(sample)
        say(f"{label}: {sample.mb_per_second:.0f} MB/s")
    run.hash_rates.append(hash_bytes_per_second(cores()))


def run_control_plane(run: Run, directory: Path, rounds: int) -> None:
    """Measure the calls that move no bytes."""
    try:
        run.control = measure_control_plane(directory, rounds)
    except CELL_ERRORS as error:
        run.failures.append(f"control plane: {error}")
        say(run.failures[-1])


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Make a directory for everything that is written, and delete it."""
    directory = Path(tempfile.mkdtemp(prefix="longhaul-bench-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def keep(out: Path, text: str, document: dict[str, Any]) -> None:
    """Write the tables and the JSON beside them."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "latest.md").write_text(text + "\n")
    (out / "latest.json").write_text(json.dumps(document, indent=1) + "\n")
    say(f"kept in {out / 'latest.md'} and {out / 'latest.json'}")


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, _terminated)
    started = time.monotonic()
    disk = refuse_memory_filesystem(options.dir)
    if shutil.disk_usage(options.dir).free < _FREE_BYTES_NEEDED:
        raise ValueError(f"less than 8 GiB free in {options.dir}; give another one by --dir")
    if options.backends:
        return measure_whole_files(options, disk)
    run = Run()
    chosen = chosen_peers(options.peers, options.durability, run.left_out)
    cells = cells_of(chosen, options.loads, options.scale)
    loads = {load for _, load in cells}
    with scratch(options.dir) as directory:
        sources = {
            size: Source.create(directory / f"source-{size}", size)
            for size in {load.body_bytes for load in loads}
        }
        largest = max(stored_bytes(peer, load) for peer, load in cells)
        bench = Bench(directory, sources, Reserve(largest + EXTRA_BYTES))
        bench.reserve.fill()
        for number in range(options.rounds):
            run_round(run, number, cells, bench, options.patience)
        bench.reserve.release()
        if not options.peers:
            run_control_plane(run, directory / "control", options.rounds)
    facts = {**machine(), "filesystem": disk, "run_seconds": round(time.monotonic() - started)}
    text = text_of(run, options, facts)
    print(text)
    document = {
        "machine": facts,
        "hash_bytes_per_second": run.hash_rates,
        "samples": [sample_json(sample) for sample in run.samples],
        "control": [asdict(row) for row in run.control],
        "left_out": run.left_out,
        "failures": run.failures,
    }
    keep(options.out, text, document)
    return 1 if run.failures else 0


def measure_whole_files(options: argparse.Namespace, disk: str) -> int:
    """Measure whole files to remote storages, print the table and keep it."""
    if missing := backends.missing_servers():
        raise ValueError(missing)
    with scratch(options.dir) as directory:
        try:
            table = backends.measure_backends(
                directory / "backends", options.rounds, options.patience, say
            )
        except backends.ERRORS as error:
            say(f"FAILED: {error}")
            return 1
    facts = "\n".join(f"- {name}: {value}" for name, value in machine().items())
    text = f"Medians of {options.rounds} rounds, files on {disk}.\n\n{facts}\n\n{table}"
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "backends.md").write_text(text + "\n")
    return 0


def text_of(run: Run, options: argparse.Namespace, facts: dict[str, Any]) -> str:
    """Return everything that is printed, in Markdown."""
    names = [peer.name for peer in peers.ALL]
    rows = sorted(rows_of(run.samples), key=lambda row: names.index(row.peer))
    found = verdicts(rows, run.hash_rates, cores(), run.control, options.scale)
    parts = [
        f"Medians of {options.rounds} interleaved rounds. MB are 10^6 bytes.",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        throughput_table(rows),
        *remarks({row.peer for row in rows}),
        hashing_line(run.hash_rates, cores()),
    ]
    if noise := noise_line(run.samples):
        parts.append(noise)
    if run.control:
        parts.append(control_table(run.control))
    parts.append("\n".join(verdict.text() for verdict in found))
    parts += (f"LEFT OUT: {reason}" for reason in run.left_out)
    parts += (f"FAILED: {failure}" for failure in run.failures)
    return "\n\n".join(parts)


def remarks(names: Container[str]) -> list[str]:
    """Return what is to be known of the figures of these receivers, as a list in Markdown."""
    told = {peer.name: peer.remark for peer in peers.ALL if peer.name in names and peer.remark}
    return ["\n".join(f"- {name}: {remark}." for name, remark in told.items())] if told else []


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    # As Ctrl-C: every server is ended and every file deleted on the way out.
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as problem:
        sys.exit(f"bench: {problem}")
