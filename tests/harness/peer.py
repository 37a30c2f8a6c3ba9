"""A second process at the same ledger and storage, told over pipes what to do.

It is real: it can be killed and frozen, and it stops where it is told to. What
it can do is in ``peer_process.py``. Peers are forked by a nursery that has
imported everything once, which makes one in milliseconds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

from tests.harness.databases import Database
from tests.harness.server import ROOT

#: A peer that has not answered by then never will.
PATIENCE_SECONDS = 30


def ask(requests: TextIO, answers: TextIO, message: object) -> Any:
    """Send a line of JSON and return the one that answers it."""
    requests.write(json.dumps(message) + "\n")
    line = answers.readline()
    assert line, "the process has died; its standard error says why"
    return json.loads(line)


class Nursery:
    """The parent of all peers: only a parent can wait until a process is dead, or has stopped."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.peer_process"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def fork(self, told: dict[str, object]) -> int:
        """Have a peer begin; return its pid."""
        return int(self._ask({"fork": told}))

    def wait(self, pid: int, options: int) -> None:
        """Wait until a peer is dead (options WEXITED), or frozen (WSTOPPED)."""
        self._ask({"wait": pid, "options": options})

    def close(self) -> None:
        """End the nursery, whose peers have been ended before."""
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _ask(self, message: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return ask(self._process.stdin, self._process.stdout, message)


class Peer:
    """A process that does one deed after another. ``stops``: steps before which it waits."""

    def __init__(
        self,
        nursery: Nursery,
        database: Database,
        root: Path | None = None,
        *,
        stops: tuple[str, ...] = (),
    ) -> None:
        self._nursery = nursery
        self._dead = False
        with tempfile.TemporaryDirectory(prefix="longhaul-peer-") as directory:
            orders, answers = f"{directory}/orders", f"{directory}/answers"
            os.mkfifo(orders)
            os.mkfifo(answers)
            self._pid = nursery.fork(
                {
                    "url": database.url,
                    "run_directory": str(database.run_directory),
                    "root": str(root) if root else None,
                    "stops": stops,
                    "orders": orders,
                    "answers": answers,
                }
            )
            self._orders = os.fdopen(os.open(orders, os.O_WRONLY), "w", buffering=1)
            self._answers = os.fdopen(os.open(answers, os.O_RDONLY))

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
        if not self._dead:
            os.kill(self._pid, signal.SIGKILL)
            self._nursery.wait(self._pid, os.WEXITED)
            self._dead = True

    def freeze(self) -> None:
        """SIGSTOP: it lives and does nothing."""
        os.kill(self._pid, signal.SIGSTOP)
        self._nursery.wait(self._pid, os.WSTOPPED)

    def thaw(self) -> None:
        """SIGCONT: it goes on as if nothing had happened."""
        os.kill(self._pid, signal.SIGCONT)

    def close(self) -> None:
        """End it if it lives."""
        self.kill()
        self._orders.close()
        self._answers.close()

    def _tell(self, message: dict[str, object]) -> None:
        self._orders.write(json.dumps(message) + "\n")

    def _expect(self, name: str) -> Any:
        waiting = select.poll()  # select knows no descriptor beyond 1,023
        waiting.register(self._answers, select.POLLIN)
        ready = waiting.poll(PATIENCE_SECONDS * 1000)
        assert ready, f"no {name} of the peer in {PATIENCE_SECONDS} s"
        line = self._answers.readline()
        assert line, "the peer has died; its standard error says why"
        message = json.loads(line)
        assert name in message, message.get("bug", message)
        return message[name]
