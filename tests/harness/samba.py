"""A real Samba on a free port of the loopback, which can be killed, frozen and reconfigured."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.harness.missing import lacking
from tests.harness.ports import free_port

START_SECONDS = 30
STOP_SECONDS = 30

PASSWORD = "pass word of the tests"

#: Debian keeps daemons where an ordinary user's PATH does not look.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"

_GLOBAL = """\
[global]
server role = standalone server
interfaces = 127.0.0.1/8
bind interfaces only = yes
smb ports = {port}
disable netbios = yes
private dir = {directory}/private
lock directory = {directory}/lock
state directory = {directory}/state
cache directory = {directory}/cache
pid directory = {directory}/run
ncalrpc dir = {directory}/ncalrpc
log file = {directory}/log/%m.log
passdb backend = tdbsam:{directory}/private/passdb.tdb
map to guest = never
server min protocol = SMB2_10
load printers = no
printing = bsd
printcap name = /dev/null
disable spoolss = yes
strict sync = yes
"""

_SHARE = """\
[{name}]
path = {path}
read only = no
valid users = {user}
"""


#: A line of ``smbstatus -b``: pid, user, group, machine, dialect, encryption, signing.
_SESSION = re.compile(r"(?m)^(\d+) +\S+ +\S+ +\S+ \(\S+\) +(\S+) +(\S+) +(\S+)")


@dataclass(frozen=True, slots=True)
class Session:
    """A session: the process that serves it, and how it is protected, as smbstatus says it."""

    pid: int
    dialect: str
    encryption: str
    signing: str


def new_samba() -> Samba:
    """Return a server that is not started yet; skip where Samba is not installed, fail in CI."""
    if not all(_program(name) for name in ("smbd", "smbpasswd", "pdbedit")):
        lacking("Samba is not installed (Debian: apt-get install samba)")
    return Samba()


class Samba:
    """A server with the share ``share``, whose files are in ``root``, and others at wish."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="longhaul-samba-"))
        self.port = free_port()
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.password = PASSWORD
        self._process: subprocess.Popen[bytes] | None = None
        self._global: dict[str, str] = {}
        self._shares: dict[str, tuple[Path, dict[str, str]]] = {}
        for name in ("private", "lock", "state", "cache", "run", "ncalrpc", "log", "share"):
            (self._directory / name).mkdir(mode=0o700 if name == "private" else 0o755)
        self.root = self._directory / "share"
        self.add_share("share", self.root)
        self.set_password(PASSWORD)

    def add_share(self, name: str, path: Path, **options: str) -> None:
        """Offer a folder; ``options`` as in smb.conf, with ``_`` for blanks. Known at once."""
        self._shares[name] = (path, options)
        self._configure()

    def remove_share(self, name: str) -> None:
        """Offer a folder no more."""
        del self._shares[name]
        self._configure()

    def set_global(self, **options: str) -> None:
        """Set options of the whole server, for connections made from now on."""
        self._global |= options
        self._configure()

    def set_password(self, password: str) -> None:
        """Let the user have another password from now on."""
        if os.geteuid() == 0:
            command = [_program("smbpasswd"), "-c", self._config, "-a", "-s", self.user]
        else:
            known = [_program("pdbedit"), "-s", self._config, "-u", self.user]
            subprocess.run([*known, "-x"], capture_output=True, timeout=START_SECONDS)
            command = [*known, "-t", "-a"]
        subprocess.run(
            command,
            input=f"{password}\n{password}\n",
            text=True,
            capture_output=True,
            check=True,
            timeout=START_SECONDS,
        )

    def start(self) -> Self:
        """Start the server and wait until it answers."""
        with open(self._directory / "output", "ab") as output:
            self._process = subprocess.Popen(
                [
                    *(_program("smbd"), "-F", "--no-process-group"),
                    *("-s", self._config, "-l", self._directory / "log"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        give_up_at = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_at and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return self
            except OSError:
                time.sleep(0.02)  # starting; the loop ends by its deadline
        raise AssertionError((self._directory / "output").read_text(errors="replace"))

    def kill(self) -> None:
        """Kill -9 the server and the children that serve its connections."""
        process = self._running()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)
        self._process = None

    @property
    def shares(self) -> list[str]:
        """The names of all shares."""
        return list(self._shares)

    def path_of(self, share: str) -> Path:
        """Return the folder that a share offers."""
        return self._shares[share][0]

    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay, nobody answers."""
        os.killpg(self._running().pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        os.killpg(self._running().pid, signal.SIGCONT)

    def sessions(self) -> list[Session]:
        """Return the sessions that are open now."""
        # smbstatus works for root only. Of a namespace of its own everybody may be that.
        as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
        told = subprocess.run(
            [*as_root, _program("smbstatus"), "-s", self._config, "-b"],
            capture_output=True,
            check=False,
            text=True,
            timeout=START_SECONDS,
        )
        if as_root and told.returncode:
            lacking(f"needs root, or the right to unshare(1) users: {told.stderr.strip()}")
        assert told.returncode == 0, told.stderr
        return [
            Session(int(found[1]), *found.groups()[1:]) for found in _SESSION.finditer(told.stdout)
        ]

    def freeze_sessions(self) -> None:
        """Stop the processes that serve the connections open now; new ones are served."""
        for session in self.sessions():
            os.kill(session.pid, signal.SIGSTOP)

    def kill_sessions(self) -> None:
        """Kill -9 the processes that serve the connections open now."""
        for session in self.sessions():
            os.kill(session.pid, signal.SIGKILL)

    def close_share(self, name: str) -> None:
        """End everybody's use of a share, as an administrator may."""
        subprocess.run(
            [_program("smbcontrol"), "-s", self._config, "smbd", "close-share", name],
            capture_output=True,
            check=True,
            timeout=START_SECONDS,
        )

    def wait_for_a_request(self) -> None:
        """Wait until bytes have come that a frozen process does not read."""
        give_up_at = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_at:
            if any(self._unread_bytes()):
                return
            time.sleep(0.01)  # the kernel does not announce it; the loop ends by its deadline
        raise AssertionError("no request has come")

    def _unread_bytes(self) -> Iterator[int]:
        """Yield the receive queue of each of the server's connections: proc(5), net/tcp."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, queues, *_ = line.split()
            if int(local.rpartition(":")[2], 16) == self.port and state == "01":
                yield int(queues.partition(":")[2], 16)

    def close(self) -> None:
        """End the server if it runs, and remove its files."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._directory)

    def settings(self, **more: object) -> dict[str, object]:
        """Return a Longhaul's settings that have it store in the share."""
        return {
            "STORAGE_BACKEND": "smb",
            "SMB_HOST": "127.0.0.1",
            "SMB_PORT": self.port,
            "SMB_USER": self.user,
            "SMB_PASS": self.password,
            **more,
        }

    @property
    def _config(self) -> Path:
        return self._directory / "smb.conf"

    def _configure(self) -> None:
        text = _GLOBAL.format(port=self.port, directory=self._directory)
        text += _options(self._global)
        for name, (path, options) in self._shares.items():
            text += _SHARE.format(name=name, path=path, user=self.user) + _options(options)
        draft = self._directory / "smb.conf.new"
        draft.write_text(text)
        draft.replace(self._config)  # whoever reads it reads the whole
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server does not run"
        return self._process


def _options(options: dict[str, str]) -> str:
    return "".join(f"{name.replace('_', ' ')} = {value}\n" for name, value in options.items())


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or ""
