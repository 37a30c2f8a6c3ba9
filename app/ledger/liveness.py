"""Which processes of this node are alive, and what time it is for leases.

A process holds an flock on a file of random name in the run directory. Whoever
can take that lock knows that the process is dead, however it died: host names
and pids mislead in containers. The clock of leases on SQLite is the time since
boot together with the boot's id: nobody sets it, and a reboot ends all leases.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import threading
from pathlib import Path

from app.domain.clock import boot_seconds

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the id of this boot of the machine; the same for all its processes."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # macOS
        asked = subprocess.run(
            ["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False
        )
        return asked.stdout.strip() or "unknown"


def boot_clock_ms() -> int:
    """Return milliseconds since boot, on the clock by which holders know their deadlines."""
    return int(boot_seconds() * 1000)


class ProcessLife:
    """This process's proof of life, and its view of the others'.

    ``owner`` is the random name leases are held under. It is made on first use
    in each process: a forked worker is not its parent.
    """

    def __init__(self, run_directory: Path) -> None:
        self._directory = run_directory
        self._birth = threading.Lock()
        self._pid = 0
        self._owner = ""
        self._descriptor = -1

    @property
    def owner(self) -> str:
        """The name of this process in the ledger; from the first call on it counts as alive."""
        if self._pid != os.getpid():
            with self._birth:
                if self._pid != os.getpid():
                    self._come_alive()
        return self._owner

    def is_dead(self, owner: str) -> bool:
        """Tell whether a process of this node is known to be dead; False if in doubt."""
        if owner == self.owner:
            return False
        try:
            descriptor = os.open(self._path(owner), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False  # another node's, or buried by somebody else
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def dead(self) -> list[str]:
        """Return the owners of this node that are known to be dead and not buried yet."""
        names = [path.stem for path in self._directory.glob("*.alive")]
        return [name for name in names if self.is_dead(name)]

    def bury(self, owner: str) -> None:
        """Remove a dead owner's file, once its leases are gone from the ledger."""
        self._path(owner).unlink(missing_ok=True)

    def _path(self, owner: str) -> Path:
        return self._directory / f"{owner}.alive"

    def _come_alive(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)  # inherited by fork: the parent keeps its own
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = secrets.token_hex(16)
        # Locked under another name first: a file that can be seen is locked.
        fresh = self._directory / f"{owner}.new"
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fresh.rename(self._path(owner))
        self._owner, self._descriptor = owner, descriptor
        self._pid = os.getpid()  # last: who sees it may use the others
