"""Processes that are stopped, or die, before any change they make to what is stored."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Protocol, TypeVar

from app.storage.base import StagedObject
from tests.harness.server import ROOT

INSTANCE = "an-instance"

_STEPWISE = (ROOT / "tests/storage/stepwise.py").read_text()

_Prepared = TypeVar("_Prepared", bound="StagedObject | None")


class Processes(Protocol):
    """What starts programs, and kills them."""

    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]: ...

    def kill(self, process: subprocess.Popen[str]) -> None: ...


class Stepping:
    """A process that waits before each change it makes; see stepwise.py.

    ``receipts``: those of the parts that are published; one part without one by default.
    """

    def __init__(
        self,
        processes: Processes,
        place: tuple[str, str],
        action: str,
        staged: StagedObject | None = None,
        way: str = "best",
        receipts: Mapping[int, str | None] | None = None,
    ) -> None:
        upload = [json.dumps(asdict(staged)), json.dumps(receipts or {0: None})] if staged else []
        self._processes = processes
        self.process = processes.start(_STEPWISE, *place, INSTANCE, way, action, *upload)
        self.step = self._read()

    def _read(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def proceed(self) -> bool:
        """Let it make the change it waits with; return False if it is done."""
        if self.step[0] == "done":
            return False
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.step = self._read()
        return True

    def proceed_to(self, *steps: str) -> None:
        """Let it go on until it waits before one of ``steps``."""
        while self.step[0] not in steps:
            assert self.proceed(), f"it never came to {steps}"

    def finish(self) -> str:
        """Let it make all its changes; return the outcome it printed."""
        while self.proceed():
            pass
        self.process.communicate()
        return " ".join(self.step[1:])

    def kill(self) -> None:
        """Kill -9."""
        self._processes.kill(self.process)


def killed_before_each_change(
    prepare: Callable[[], _Prepared],
    start: Callable[[_Prepared], Stepping],
    *,
    at_least: int = 3,
) -> Iterator[_Prepared]:
    """Yield what ``prepare`` returned, once for each step, after a kill at that step.

    The last time the process has come to its end unkilled. ``at_least`` so many
    changes are known to be made: who sees fewer does not see what changes.
    """
    steps, done = 0, False
    while not done:
        prepared = prepare()
        running = start(prepared)
        done = not all(running.proceed() for _ in range(steps)) or running.step[0] == "done"
        running.kill()
        yield prepared
        steps += 1
    assert steps > at_least, "the process was never stopped: it does not see what changes"
