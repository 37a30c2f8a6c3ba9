"""A second process at the same ledger and storage, told over a pipe what to do.

It is real: it can be killed and frozen, and it stops where it is told to. What
it can do is in ``peer_process.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.databases import Database
from tests.harness.server import ROOT

#: A peer that has not answered by then never will.
PATIENCE_SECONDS = 30


class Peer:
    """A process that does one deed after another. ``stops``: steps before which it waits."""

    def __init__(
        self, database: Database, root: Path | None = None, *, stops: tuple[str, ...] = ()
    ) -> None:
        told = {
            "url": database.url,
            "run_directory": str(database.run_directory),
            "root": str(root) if root else None,
            "stops": stops,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.peer_process", json.dumps(told)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._expect("ready")

    def do(self, deed: str, *arguments: object) -> Any:
        """Have a deed done and return what it returned, or the name of the error it raised."""
        self.begin(deed, *arguments)
        return self.outcome()

    def begin(self, deed: str, *arguments: object) -> None:
        """Have a deed begun."""
        self._tell({"deed": deed, "arguments": arguments})

    def outcome(self) -> Any:
        """Wait until the deed is done; return what it returned, or the name of its error."""
        return self._expect("outcome")

    def wait_for_stop(self) -> str:
        """Wait until it has come to one of its stops; return which."""
        return str(self._expect("stopped_before"))

    def go_on(self) -> None:
        """Let it go on from its stop."""
        self._tell({})

    def kill(self) -> None:
        """Kill -9, and wait until it is dead."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE_SECONDS)

    def freeze(self) -> None:
        """SIGSTOP: it lives and does nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """SIGCONT: it goes on as if nothing had happened."""
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it if it lives."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _tell(self, message: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")

    def _expect(self, name: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the peer has died; its standard error says why"
        message = json.loads(line)
        assert name in message, message
        return message[name]
