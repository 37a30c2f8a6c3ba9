"""Ledger and jobs once more, in an interpreter that gevent has patched, as workers are.

There SQLite's transactions run in native threads and share commits, threads are
greenlets, and PostgreSQL's driver waits in the hub.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gevent import monkey

UNDER_GEVENT = "LONGHAUL_TESTS_UNDER_GEVENT"
PATIENCE_SECONDS = 300

#: What waits and races most; the rest uses transactions in the same ways.
RUNS = {
    "sqlite": [
        "test_transactions.py",
        "test_leases.py",
        "test_parts_ledger.py",
        "test_watching.py",
        "test_webhooks.py",
        "test_runner.py",
    ],
    "postgresql": ["test_runner.py"],
}


def test_this_process_is_patched_exactly_if_it_should_be() -> None:
    assert monkey.is_module_patched("socket") == (UNDER_GEVENT in os.environ)


@pytest.mark.parametrize("backend", RUNS)
def test_all_holds_in_a_patched_process(backend: str, tmp_path: Path) -> None:
    other = "postgresql" if backend == "sqlite" else "sqlite"
    files = [Path(__file__).with_name(name) for name in [*RUNS[backend], Path(__file__).name]]
    spared = [other, "frozen", "sqlite-local", "test_all_holds_in_a_patched_process"]
    chosen = " and ".join(f"not {name}" for name in spared)
    command = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/nested", "-k", chosen]
    run = subprocess.run(
        [sys.executable, "-m", "gevent.monkey", "--module", "pytest", *command, *files],
        check=False,
        env=os.environ | {UNDER_GEVENT: "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
