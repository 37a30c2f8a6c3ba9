"""Real file systems, mounted for a test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.harness.missing import lacking

#: Room for ext4's journal, and quickly copied.
DISK_BYTES = 16 << 20

#: Longer than any of the commands takes.
COMMAND_SECONDS = 60


class Mounts:
    """Mounts real file systems for a test; ``sudo`` is asked where we are not root."""

    def __init__(self) -> None:
        self._command = [] if os.geteuid() == 0 else ["sudo", "-n"]
        self._mounted: list[Path] = []
        self._frozen: list[Path] = []

    def run(self, *command: str, accepted: tuple[int, ...] = (0,)) -> None:
        """Run a command as root; without the right to, skip here and fail in CI."""
        try:
            done = subprocess.run(
                [*self._command, *command], capture_output=True, timeout=COMMAND_SECONDS, text=True
            )
            problem = "" if done.returncode in accepted else done.stderr.strip()
        except OSError as error:
            problem = str(error)
        if problem:
            lacking(f"needs the right to mount file systems: {command[0]}: {problem}")

    def tmpfs(self, path: Path, size_kib: int) -> None:
        """Mount an empty disk of ``size_kib`` at ``path``."""
        path.mkdir(exist_ok=True)
        options = f"size={size_kib}k,mode=0755,uid={os.getuid()},gid={os.getgid()}"
        self.run("mount", "-t", "tmpfs", "-o", options, "none", str(path))
        self._mounted.append(path)

    def disk(self, kind: str, image: Path, path: Path) -> None:
        """Make a file system (ext4 has a journal, ext2 none) in ``image``, mount it at ``path``."""
        with image.open("xb") as file:
            file.truncate(DISK_BYTES)
        owner = f"root_owner={os.getuid()}:{os.getgid()}"
        self.run(f"mkfs.{kind}", "-q", "-m0", "-E", owner, str(image))
        self.image(kind, image, path)

    def repair(self, image: Path) -> None:
        """Check the file system in ``image`` as it is done at boot, and put it in order."""
        repaired = 1  # e2fsck(8): errors were found and corrected
        self.run("e2fsck", "-fy", str(image), accepted=(0, repaired))

    def image(self, kind: str, image: Path, path: Path) -> None:
        """Mount the file system in the file ``image`` at ``path``."""
        path.mkdir(exist_ok=True)
        self.run("mount", "-t", kind, "-o", "loop", str(image), str(path))
        self._mounted.append(path)

    def bind(self, source: Path, path: Path) -> None:
        """Make the folder ``source`` appear at ``path`` too."""
        path.mkdir(exist_ok=True)
        self.run("mount", "--bind", str(source), str(path))
        self._mounted.append(path)

    def freeze(self, path: Path) -> None:
        """Let whoever writes to the file system at ``path`` wait until ``thaw``."""
        self.run("fsfreeze", "-f", str(path))
        self._frozen.append(path)

    def thaw(self, path: Path) -> None:
        self.run("fsfreeze", "-u", str(path))
        self._frozen.remove(path)

    def make_read_only(self, path: Path) -> None:
        self.run("mount", "-o", "remount,ro", str(path))

    def unmount(self, path: Path) -> None:
        self.run("umount", str(path))
        self._mounted.remove(path)

    def unmount_all(self) -> None:
        for path in self._frozen[:]:
            self.thaw(path)
        while self._mounted:
            self.unmount(self._mounted[-1])
