"""By which system calls bytes get into a file, as strace tells."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.missing import lacking
from tests.harness.server import Server
from tests.live.wire import until

#: By which bytes can get into a file (those of its ledger and log, too).
_WRITING = "copy_file_range,write,writev,pwrite64,pwritev,pwritev2,sendfile,splice"


@contextlib.contextmanager
def traced(server: Server, log: Path, *options: str) -> Iterator[None]:
    """Have what a server's only worker writes noted by strace, for each thread in a file whose
    name begins as ``log``: in one file the calls of several would be cut in pieces."""
    if not shutil.which("strace"):
        lacking("strace is not installed (Debian: apt-get install strace)")
    (worker,) = server.worker_pids()
    command = ["strace", "-ff", "-y", "-qq", "-o", str(log), "-e", f"trace={_WRITING}", *options]
    tracer = subprocess.Popen([*command, "-p", str(worker)], stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: tracer.poll() is not None or is_traced(worker), what="strace is attached")
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            # No installation helps against that.
            pytest.skip(f"processes may not be traced here: {tracer.stderr.read()}")
        yield
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)  # it lets go of the worker
        tracer.communicate(timeout=30)


def is_traced(worker: int) -> bool:
    """Tell whether every thread of a process is being traced."""
    for path in Path(f"/proc/{worker}/task").glob("*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if re.search(r"^TracerPid:\t0$", path.read_text(), re.MULTILINE):
                return False
    return True


def written(log: Path, upload_id: str) -> list[tuple[str, int]]:
    """Return the calls that wrote to an upload's staged file, and how many bytes each."""
    call = re.compile(rf"^(\w+)\(.*{upload_id}\.partial>.* = (\d+)$", re.MULTILINE)
    noted = "".join(path.read_text() for path in log.parent.glob(f"{log.name}.*"))
    return [(found[1], int(found[2])) for found in call.finditer(noted)]
