"""``flask`` commands, in processes forked from one that has imported everything once.

That spares each of some hundred commands a second. The rest is the command's own: a
process, an environment, a directory, settings. Servers run ``python -m flask`` itself
when they start, as do tests of commands that go on running.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]

#: A command that has not ended by then never will.
PATIENCE_SECONDS = 60

#: What a command would import, whatever its settings are; not ``wsgi``, which reads them.
_IMPORTED = [
    *("alembic.command", "flask.cli", "flask_migrate.cli", "psycopg"),
    *("app.cli", "app.logs", "app.wiring", "app.protocols.upload_page"),
    *("app.storage.local", "app.storage.s3", "app.storage.smb"),
    *(f"app.protocols.{name}" for name in ("cors", "downloads", "native", "requests")),
    *(f"app.protocols.{name}" for name in ("resumable", "sessions", "system", "tus")),
]


class Commands:
    """The process that commands are forked from; it ends with this one."""

    def __init__(self) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.commands"],
            cwd=ROOT,
            env=kept | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._one = threading.Lock()  # at a time, whichever thread wants it
        atexit.register(self.close)

    def run(
        self, arguments: tuple[str, ...], directory: Path, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run ``flask ARGUMENTS``; return its status and what it has written."""
        with self._one, tempfile.TemporaryDirectory(prefix="longhaul-command-") as place:
            output, errors = Path(place, "output"), Path(place, "errors")
            told = {"arguments": arguments, "directory": str(directory), "environment": environment}
            pid = self._ask({**told, "output": str(output), "errors": str(errors)})
            try:
                status = self._ask({"wait": pid})
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
            return subprocess.CompletedProcess(
                ["flask", *arguments], status, output.read_text(), errors.read_text()
            )

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, message: dict[str, object]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        answering = select.poll()  # select knows no descriptor beyond 1,023
        answering.register(self._process.stdout, select.POLLIN)
        if not answering.poll(PATIENCE_SECONDS * 1000):
            raise TimeoutError(f"{message} has not ended after {PATIENCE_SECONDS} s")
        return int(self._process.stdout.readline())


def _be_command(told: dict[str, Any]) -> NoReturn:
    """Do as ``python -m flask`` does. SystemExit tells the status, as it does there."""
    import runpy

    os.chdir(told["directory"])
    os.environ.clear()
    os.environ.update(told["environment"])
    for descriptor, path in enumerate((os.devnull, told["output"], told["errors"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)  # the other one may have read ahead
    sys.argv = ["flask", "--app", "wsgi:app", *told["arguments"]]
    runpy.run_module("flask", run_name="__main__", alter_sys=True)
    sys.exit(0)


def _be_parent() -> None:
    """Fork commands and wait for them."""
    import importlib

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # nobody looks through it again, which would copy it
    for line in iter(sys.stdin.readline, ""):
        told = json.loads(line)
        if "wait" in told:
            _, status = os.waitpid(told["wait"], 0)
            answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        elif pid := os.fork():
            answers.write(f"{pid}\n")
        else:
            _be_command(told)


if __name__ == "__main__":
    _be_parent()
