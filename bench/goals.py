"""What must be reached, checked against the rows of a run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from bench.control import ControlRow
from bench.loads import Durability, make_load, parse_loads
from bench.peers.native import NativeParts
from bench.peers.nginx import Nginx
from bench.peers.pump import UnhashedPump
from bench.peers.reading import LonghaulGrowing, LonghaulReading
from bench.peers.resumable import ResumableForm, ResumableOctet
from bench.peers.tus import LonghaulTus, LonghaulTusChecksum
from bench.peers.tus_node import TusNode
from bench.peers.tusd import Tusd
from bench.report import Verdict, ratio_to
from bench.stats import Row, find_row, hashing_bound

#: Share of the hashing bound that native parts reach.
HASHING_SHARE = 0.85
#: Share of nginx's speed that reading a file back reaches.
READING_SHARE = 0.8
#: Seconds in which an upload of 1 TiB is created, or its status told.
CONTROL_SECONDS = 1.0
#: Share of nginx's speed that Resumable chunks reach under strict durability, by load.
RESUMABLE_SHARES = {"10x4": 0.8, "1x4": 1 / 3}

_BODY_MIB, _CONNECTIONS = 50, 4


def verdicts(
    rows: Sequence[Row],
    hash_rates: Sequence[float],
    cores: int,
    control: Sequence[ControlRow],
    scale: float,
) -> list[Verdict]:
    """Return a verdict on every goal.

    ``hash_rates`` are bytes/s of all cores together, one a round; the best of
    them is what the machine can hash.
    """
    found = list(_unhashed_verdicts(rows, scale))
    found += _hashing_verdicts(rows, max(hash_rates), cores, scale)
    found += _tus_verdicts(rows, scale)
    found += _reading_verdicts(rows, scale)
    found += _resumable_verdicts(rows, scale)
    found += (
        Verdict(
            f"{row.call}: under {CONTROL_SECONDS:.0f} s",
            f"{row.seconds.text(2)} s",
            row.seconds.median < CONTROL_SECONDS,
        )
        for row in control
    )
    return found


def _unhashed_verdicts(rows: Sequence[Row], scale: float) -> Iterator[Verdict]:
    load = make_load(_BODY_MIB, _CONNECTIONS, scale)
    for durability in (Durability.RELAXED, Durability.STRICT):
        baseline = "nginx" if durability is Durability.RELAXED else "nginx + 1 fdatasync a file"
        goal = f"{load.label} {durability}, unhashed: at least {baseline}"
        row = find_row(rows, UnhashedPump.name, durability, load)
        ratio = None if row is None else ratio_to(Nginx.name, row, rows)
        if ratio is None:
            yield Verdict(goal, "-", None)
        else:
            yield Verdict(goal, f"{ratio:.2f} x", ratio >= 1)


def _hashing_verdicts(
    rows: Sequence[Row], hash_rate: float, cores: int, scale: float
) -> Iterator[Verdict]:
    load = make_load(_BODY_MIB, _CONNECTIONS, scale)
    for durability in (Durability.RELAXED, Durability.STRICT):
        goal = f"{load.label} {durability}, native: {HASHING_SHARE:.0%} of the hashing bound"
        native = find_row(rows, NativeParts.name, durability, load)
        unhashed = find_row(rows, UnhashedPump.name, durability, load)
        if native is None or unhashed is None:
            yield Verdict(goal, "-", None)
            continue
        bound = hashing_bound(hash_rate, cores, unhashed)
        speed = native.mb_per_second
        share, best = speed.median / bound, speed.greatest / bound
        measured = f"{speed.text()} of {bound:.0f} MB/s, {share:.0%} (best round {best:.0%})"
        yield Verdict(goal, measured, share >= HASHING_SHARE)


def _tus_verdicts(rows: Sequence[Row], scale: float) -> Iterator[Verdict]:
    """In every cell ahead of the reference servers, and unhashed not behind nginx."""
    for peer in (LonghaulTus, LonghaulTusChecksum):
        others = [TusNode.name, Tusd.name, *([] if peer.checksum else [Nginx.name])]
        for load in parse_loads(peer.loads, scale):
            for durability in (Durability.RELAXED, Durability.STRICT):
                goal = f"{load.label} {durability}, {peer.name}: ahead of {', '.join(others)}"
                row = find_row(rows, peer.name, durability, load)
                yield _ahead(goal, row, others, rows)


def _reading_verdicts(rows: Sequence[Row], scale: float) -> Iterator[Verdict]:
    for peer in (LonghaulReading, LonghaulGrowing):
        for load in parse_loads(peer.loads, scale):
            goal = f"{load.label} read, {peer.name}: at least {READING_SHARE:.0%} of nginx"
            row = find_row(rows, peer.name, Durability.READ, load)
            ratio = None if row is None else ratio_to(Nginx.name, row, rows)
            measured = "-" if ratio is None else f"{ratio:.2f} x"
            yield Verdict(goal, measured, None if ratio is None else ratio >= READING_SHARE)


def _resumable_verdicts(rows: Sequence[Row], scale: float) -> Iterator[Verdict]:
    for peer, (text, share) in product((ResumableForm, ResumableOctet), RESUMABLE_SHARES.items()):
        (load,) = parse_loads([text], scale)
        goal = f"{load.label} strict, {peer.name}: {share:.2f} x nginx + 1 fdatasync a file"
        row = find_row(rows, peer.name, Durability.STRICT, load)
        ratio = None if row is None else ratio_to(Nginx.name, row, rows)
        if ratio is None:
            yield Verdict(goal, "-", None)
        else:
            yield Verdict(goal, f"{ratio:.2f} x", ratio >= share)


def _ahead(goal: str, row: Row | None, others: Sequence[str], rows: Sequence[Row]) -> Verdict:
    """Judge a row by its ratio to each of the others: one that is faster is enough to miss."""
    if row is None:
        return Verdict(goal, "-", None)
    ratios = {other: ratio_to(other, row, rows) for other in others}
    measured = ", ".join(
        f"{other} not measured" if ratio is None else f"{ratio:.2f} x {other}"
        for other, ratio in ratios.items()
    )
    if any(ratio is not None and ratio < 1 for ratio in ratios.values()):
        return Verdict(goal, measured, False)
    return Verdict(goal, measured, None if None in ratios.values() else True)
