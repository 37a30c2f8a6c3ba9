"""A real S3 server: Ceph's gateway on a monitor and one disk, all on the loopback.

It checks signatures and enforces sizes as AWS does. Everything is in memory where
that is possible: compressed, so that zeros of huge files take no room, and freed
at once when it is deleted, not after hours. A gateway that was killed is forgotten
within seconds: until then the next one would wait for its consent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

from tests.harness.ports import free_port
from tests.harness.s3 import ENDING_WITH_US, START_SECONDS, S3Server

_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
run dir = {directory}/run
pid file = {directory}/run/$name.pid
admin socket = {directory}/run/$name.asok
log file = {directory}/log/$name.log
crash dir = {directory}/log
mon cluster log file = {directory}/log/cluster.log
mon data = {directory}/mon
mon data avail crit = 1
mon allow pool size one = true
paxos propose interval = 0.02
paxos min wait = 0.01
osd data = {directory}/osd
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd client watch timeout = 3
objecter tick interval = 1
osd objectstore = bluestore
osd client watch timeout = 5
osd memory target = 939524096
osd max object name len = 2048
bluestore block size = 21474836480
bluestore cache size = 134217728
bluestore compression mode = aggressive
bluestore compression algorithm = snappy
bluestore compression min blob size = 131072
bluestore compression max blob size = 524288
[client]
rgw data = {directory}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1 {tls}
rgw thread pool size = 64
rgw gc obj min wait = 1
rgw gc processor period = 2
rgw gc processor max time = 2
"""


def missing_program() -> str | None:
    """Return the name of a program that is not installed, None if all are."""
    return next((name for name in _PROGRAMS if shutil.which(name) is None), None)


class Ceph(S3Server):
    """The gateway, which tests may stop, freeze and kill; and what is behind it.

    ``port``: of a gateway that another process has started, and will end.
    """

    access_key, secret_key = "access-key-of-the-tests", "secret-key-of-the-tests"
    checks_keys = True
    conditional_complete = False
    completes_subsets = False
    completes_once = True
    checks_checksums = False
    tells_of_aborts_meanwhile = True

    def __init__(self, port: int | None = None) -> None:
        super().__init__(port)
        self.tls_port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="longhaul-ceph-", dir=_MEMORY))
        self._configuration = self._directory / "ceph.conf"
        self.certificate = self._directory / "certificate.pem"
        self._behind: list[subprocess.Popen[bytes]] = []

    @property
    def tls_url(self) -> str:
        """The same server by https, with a certificate of its own."""
        return f"https://localhost:{self.tls_port}"

    def start(self) -> None:
        """Make a cluster and wait until its gateway answers."""
        for name in ("mon", "osd", "run", "rgw", "log"):
            (self._directory / name).mkdir()
        self._make_certificate()
        disk = str(uuid.uuid4())
        monitor = f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
        fsid = str(uuid.uuid4())
        self._configuration.write_text(
            _CONFIGURATION.format(
                fsid=fsid,
                monitor=monitor,
                directory=self._directory,
                port=self.port,
                tls=f"ssl_endpoint=127.0.0.1:{self.tls_port} ssl_certificate={self.certificate} "
                f"ssl_private_key={self._directory}/key.pem",
            )
        )
        monitors = self._directory / "monmap"
        self._run(
            "monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", monitor, monitors
        )
        self._run("ceph-mon", *self._options, "--mkfs", "-i", "a", "--monmap", monitors)
        self._behind.append(self._spawn("ceph-mon", "-f", "-i", "a"))
        self._run("ceph", *self._options, "--connect-timeout", "60", "osd", "new", disk)
        self._run("ceph-osd", *self._options, "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._behind.append(self._spawn("ceph-osd", "-f", "-i", "0"))
        self.start_again(wait=False)
        self.access_key, self.secret_key = self.new_user("the-tests")
        self.wait_until_answering()

    def new_user(self, name: str) -> tuple[str, str]:
        """Make another user, who may do nothing with what others have; return its keys."""
        keys = f"access-key-of-{name}", f"secret-key-of-{name}"
        self._run(
            "radosgw-admin",
            *self._options,
            *("user", "create", f"--uid={name}", f"--display-name={name}"),
            f"--access-key={keys[0]}",
            f"--secret={keys[1]}",
        )
        return keys

    def start_again(self, *, wait: bool = True) -> None:
        """Start the gateway on the data it had."""
        self.process = self._spawn("radosgw", "-f", "-n", "client.rgw")
        if wait:
            self.wait_until_answering()

    def close(self) -> None:
        """End everything and remove its files."""
        super().close()
        for process in self._behind:
            process.kill()
            process.wait()
        shutil.rmtree(self._directory)

    @property
    def _options(self) -> tuple[str, str]:
        return "-c", str(self._configuration)

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._directory / "log" / f"{program}.out").open("ab") as log:
            return subprocess.Popen(
                [*ENDING_WITH_US, program, *self._options, *arguments],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [program, *map(str, arguments)],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=START_SECONDS,
        )

    def _make_certificate(self) -> None:
        self._run(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", self._directory / "key.pem", "-out", self.certificate),
        )
