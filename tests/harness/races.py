"""Deeds done at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier, Thread

from tests.harness.rig import outcome


def at_once(*deeds: Callable[[], object]) -> list[object]:
    """Do all at the same moment in threads; return results, or the names of errors."""
    barrier = Barrier(len(deeds))
    outcomes: list[object] = [None] * len(deeds)

    def do(number: int) -> None:
        barrier.wait()
        outcomes[number] = outcome(deeds[number])

    threads = [Thread(target=do, args=(number,)) for number in range(len(deeds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
