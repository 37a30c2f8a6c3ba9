"""Server processes: started, watched through /proc, and ended by their ids. Linux only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

#: Interpreters that import a whole application on a busy machine take seconds.
START_SECONDS = 30.0
#: gunicorn's default graceful timeout is 30 s; idle servers stop at once.
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 4000


class ServerFailed(Exception):
    """A server did not start, or died; the message ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """A line of /proc/<pid>/stat: parent and CPU seconds, those of reaped children apart."""

    pid: int
    parent: int
    cpu_seconds: float
    reaped_cpu_seconds: float


def parse_stat(text: str) -> ProcessTimes:
    """Read /proc/<pid>/stat (proc(5)). The command's name may hold blanks and brackets."""
    pid, _, rest = text.partition(" ")
    fields = rest[rest.rindex(")") + 2 :].split()
    # Field 3 (state) is fields[0]: 4 is the parent, 14–17 utime stime cutime cstime in ticks.
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    return ProcessTimes(
        pid=int(pid),
        parent=int(fields[1]),
        cpu_seconds=(utime + stime) / _TICKS_PER_SECOND,
        reaped_cpu_seconds=(cutime + cstime) / _TICKS_PER_SECOND,
    )


def parse_status_bytes(text: str, field: str) -> int:
    """Return a size such as ``VmHWM`` of /proc/<pid>/status in bytes, 0 where there is none."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def parse_machine_cpu(text: str) -> tuple[float, float]:
    """Return busy and all CPU seconds of the machine since boot from /proc/stat (proc(5)).

    Idle and waiting for the disk are not busy; guest time is in user time already.
    """
    user, nice, system, idle, iowait, irq, softirq, steal = (
        int(field) for field in text.splitlines()[0].split()[1:9]
    )
    busy = user + nice + system + irq + softirq + steal
    return busy / _TICKS_PER_SECOND, (busy + idle + iowait) / _TICKS_PER_SECOND


def machine_cpu() -> tuple[float, float]:
    """Return busy and all CPU seconds of the machine since boot, over all cores."""
    return parse_machine_cpu(Path("/proc/stat").read_text())


def tree(root: int) -> list[ProcessTimes]:
    """Return process ``root`` and all its living descendants; empty when it is gone."""
    found: dict[int, ProcessTimes] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                times = parse_stat(Path(f"/proc/{entry}/stat").read_text())
                found[times.pid] = times
    members = [found[root]] if root in found else []
    for member in members:  # grows while it is walked: breadth first
        members.extend(times for times in found.values() if times.parent == member.pid)
    return members


def cpu_seconds(root: int) -> float:
    """Return user + system seconds of a process tree, of reaped children too."""
    return sum(times.cpu_seconds + times.reaped_cpu_seconds for times in tree(root))


def reset_peaks(root: int) -> None:
    """Let the peak of resident memory of each process start again from what it holds now."""
    for times in tree(root):
        # proc(5), clear_refs: 5 resets VmHWM. Refused on some containers: then it is since start.
        with suppress(OSError):
            Path(f"/proc/{times.pid}/clear_refs").write_text("5")


def peak_memory(root: int) -> tuple[int, int]:
    """Return the peak resident bytes of the largest process of a tree and the sum of all peaks."""
    peaks = []
    for times in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{times.pid}/status").read_text()
            peaks.append(parse_status_bytes(status, "VmHWM"))
    return max(peaks, default=0), sum(peaks)


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def log_tail(log: Path) -> str:
    """Return the end of a log file."""
    return log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    port: int,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run a server until the block is left; yields its process id once ``port`` accepts.

    ``env`` is added to this process's environment. Raises ServerFailed.
    A session of its own keeps Ctrl-C away from it: it is ended here, by its id.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        _wait_for_port(process, port, log)
        yield process.pid
    finally:
        stop(process)


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None:
            raise ServerFailed(f"exited with {process.returncode}:\n{log_tail(log)}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise ServerFailed(f"nothing listens after {START_SECONDS:.0f} s:\n{log_tail(log)}")
        time.sleep(_POLL_SECONDS)


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process and its descendants: asked first, killed after STOP_SECONDS."""
    descendants = [times.pid for times in tree(process.pid)[1:]]
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in descendants:
        # Only what is still in the session this process opened: ids are reused.
        with suppress(ProcessLookupError):
            if os.getsid(pid) == process.pid:
                os.kill(pid, signal.SIGKILL)
