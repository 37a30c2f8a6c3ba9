"""Installs the peers that package registries have, at exact versions, beside the benchmark.

Nothing is downloaded that is there already, and nothing lands outside of what
git ignores (Go's own module cache apart). What cannot be installed is told as a
reason, and the benchmark goes on without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from bench.peers.base import REPOSITORY

#: package.json, package-lock.json, and the programs that start what they name.
NODE_DIRECTORY = REPOSITORY / "bench" / "node"

_GO_DIRECTORY = REPOSITORY / "bench" / "go"
#: Compiling a program with the clients of three clouds takes minutes on two cores.
_INSTALL_SECONDS = 900.0


@cache
def node_packages() -> str | None:
    """Install what the lock file names; return why that cannot be done, or None."""
    lock = NODE_DIRECTORY / "package-lock.json"
    # npm writes it when it has installed everything.
    installed = NODE_DIRECTORY / "node_modules" / ".package-lock.json"
    if shutil.which("node") is None:
        return "node is not installed"
    if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return None
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional"]
    return _run(command, cwd=NODE_DIRECTORY)


def go_program(module: str, version: str) -> Path:
    """Return where ``go_install`` puts the program of a module."""
    return _GO_DIRECTORY / version / module.rpartition("/")[2]


@cache
def go_install(module: str, version: str) -> str | None:
    """Compile a program from Go's module proxy; return why that cannot be done, or None."""
    program = go_program(module, version)
    if program.is_file():
        return None
    return _run(["go", "install", f"{module}@{version}"], env={"GOBIN": str(program.parent)})


def _run(
    command: Sequence[str], *, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None
) -> str | None:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    print(f"{' '.join(command)} ...", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} took longer than {_INSTALL_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    last_line = (done.stderr.strip() or "no message").splitlines()[-1]
    return f"{' '.join(command[:2])} failed: {last_line}"
