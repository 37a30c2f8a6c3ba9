"""The ways to store a whole file that are compared: Longhaul's, and one command that copies it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.cells import client, expect, say, wait_until_started
from bench.client import Plan, Transfer, TransferFailed, put_head, sync_file
from bench.loads import GIB, MIB, Durability
from bench.peers.base import REPOSITORY, CallFailed, WrongContent
from bench.peers.longhaul import Server, longhaul
from bench.procs import peak_memory, reset_peaks
from bench.source import file_sha256
from tests.harness.ceph import Ceph
from tests.harness.s3 import S3Server
from tests.harness.samba import Samba, new_samba

FILE_BYTES = 2 * GIB
PART_BYTES = 50 * MIB
CONNECTIONS = 4
_COPY_SECONDS = 300.0
_KEY = "bench/copied.bin"


@dataclass(frozen=True, slots=True)
class Copying:
    """What one way to store the file took, once. ``peak_rss_bytes`` None: not looked at."""

    seconds: float
    peak_rss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """A way to store the file: ``copy`` does it, in a directory that is emptied afterwards.

    ``beside``: the names of the ways it is compared with. ``copy`` takes whether
    it is to look at every byte that was stored.
    """

    name: str
    beside: tuple[str, ...]
    copy: Callable[[Path, Path, bool], Copying]


# --- Longhaul ------------------------------------------------------------------------------


def _send(server: Server, source: Path, **told: str) -> Copying:
    """Upload the file and wait until it is complete. ``told``: what more the server is told."""
    server.call("GET", "/health")
    wait_until_started(server.pid)
    document = {"filename": "bench/file.bin", "total_size": FILE_BYTES, **told}
    reset_peaks(server.pid)
    with client() as process:
        start = time.perf_counter()
        upload = server.call("POST", "/upload/init", document).value
        transfers = [_transfer(upload["file_id"], part) for part in upload["parts"]]
        say(process, Plan(server.port, str(source), CONNECTIONS, transfers).to_json())
        expect(process, "ready")  # the first parts are there
        say(process, "")
        result = json.loads(expect(process, "{"))
        if "error" in result:
            raise TransferFailed(result["error"])
        server.finalize(upload["file_id"])
        seconds = time.perf_counter() - start
    return Copying(seconds, peak_memory(server.pid)[0])


def _transfer(upload_id: str, part: Mapping[str, Any]) -> Transfer:
    offset = part["part"] * PART_BYTES
    length = min(PART_BYTES, FILE_BYTES - offset)
    told = [("Authorization", f"Bearer {part['token']}")]
    head = put_head(f"/upload/{upload_id}/part/{part['part']}", length, told)
    return Transfer(head, offset, length, status=200)


def _compare(stored: str, source: Path) -> None:
    if stored != file_sha256(source):
        raise WrongContent("other bytes are stored than were sent")


# --- SMB -----------------------------------------------------------------------------------


@contextmanager
def _samba(place: Path) -> Iterator[Samba]:
    server = new_samba()
    try:
        (place / "share").mkdir()
        server.add_share("bench", place / "share")
        yield server.start()
    finally:
        server.close()


def _to_share(durability: Durability, place: Path, source: Path, thorough: bool) -> Copying:
    with _samba(place) as samba:
        env = {name: str(value) for name, value in samba.settings(SMB_SHARE="bench").items()}
        with longhaul(place, durability, PART_BYTES, more_env=env) as server:
            copying = _send(server, source)
        if thorough:
            (stored,) = (place / "share").rglob("*file.bin")
            _compare(file_sha256(stored), source)
    return copying


def _by_smbclient(
    protection: str, durability: Durability, place: Path, source: Path, thorough: bool
) -> Copying:
    """``protection``: "off", as it is by default, or "encrypt", as it is for Longhaul."""
    with _samba(place) as samba:
        target = place / "share" / "copied.bin"
        start = time.perf_counter()
        subprocess.run(
            [
                *("smbclient", "//127.0.0.1/bench", "-p", str(samba.port)),
                f"--client-protection={protection}",
                *("-U", f"{samba.user}%{samba.password}", "-c", f"put {source} {target.name}"),
            ],
            check=True,
            capture_output=True,
            timeout=_COPY_SECONDS,
        )
        if durability is Durability.STRICT:
            sync_file(str(target))
        seconds = time.perf_counter() - start
        if thorough:
            _compare(file_sha256(target), source)
    return Copying(seconds)


# --- S3 ------------------------------------------------------------------------------------

#: The whole of ``aws s3 cp`` without the start of its interpreter.
_BOTO3 = """
import json, sys, time
from pathlib import Path
import boto3
told = json.load(sys.stdin)
client = boto3.client("s3", **told["client"])
start = time.perf_counter()
client.upload_file(told["source"], told["bucket"], told["key"])
print(time.perf_counter() - start)
"""


@contextmanager
def _ceph() -> Iterator[Ceph]:
    server = Ceph()
    try:
        server.start()
        yield server
    finally:
        server.close()


def _to_bucket(staged: bool, place: Path, source: Path, thorough: bool) -> Copying:
    with _ceph() as ceph:
        bucket = ceph.new_bucket()
        env = {name: str(value) for name, value in ceph.settings(bucket).items()}
        # A file whose checksum is to be verified is staged on the disk.
        told = {"checksum_sha256": file_sha256(source)} if staged else {}
        with longhaul(place, Durability.STRICT, PART_BYTES, more_env=env) as server:
            copying = _send(server, source, **told)
        if thorough:
            listed = ceph.client().list_objects_v2(Bucket=bucket)["Contents"]
            (key,) = (item["Key"] for item in listed if item["Key"].endswith("file.bin"))
            _compare_object(ceph, bucket, key, source)
    return copying


def _by_boto3(place: Path, source: Path, thorough: bool) -> Copying:
    with _ceph() as ceph:
        bucket = ceph.new_bucket()
        told = {
            "client": {
                "endpoint_url": ceph.url,
                "region_name": "us-east-1",
                "aws_access_key_id": ceph.access_key,
                "aws_secret_access_key": ceph.secret_key,
            },
            "source": str(source),
            "bucket": bucket,
            "key": _KEY,
        }
        ended = subprocess.run(
            [sys.executable, "-c", _BOTO3],
            input=json.dumps(told),
            capture_output=True,
            check=True,
            text=True,
            timeout=_COPY_SECONDS,
            cwd=REPOSITORY,
        )
        if thorough:
            _compare_object(ceph, bucket, _KEY, source)
    return Copying(float(ended.stdout))


def _compare_object(server: S3Server, bucket: str, key: str, source: Path) -> None:
    digest = hashlib.sha256()
    for block in server.client().get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(MIB):
        digest.update(block)
    _compare(digest.hexdigest(), source)


_PUT, _PUT_ENCRYPTED, _SYNCED = "smbclient put", "smbclient put, encrypted", " + 1 fdatasync"
_BOTO3_UPLOAD = "boto3 upload_file"

WAYS = (
    Way(_PUT, (), partial(_by_smbclient, "off", Durability.RELAXED)),
    Way(_PUT_ENCRYPTED, (), partial(_by_smbclient, "encrypt", Durability.RELAXED)),
    Way(
        "Longhaul to SMB, relaxed",
        (_PUT, _PUT_ENCRYPTED),
        partial(_to_share, Durability.RELAXED),
    ),
    Way(_PUT + _SYNCED, (), partial(_by_smbclient, "off", Durability.STRICT)),
    Way(_PUT_ENCRYPTED + _SYNCED, (), partial(_by_smbclient, "encrypt", Durability.STRICT)),
    Way(
        "Longhaul to SMB, strict",
        (_PUT + _SYNCED, _PUT_ENCRYPTED + _SYNCED),
        partial(_to_share, Durability.STRICT),
    ),
    Way(_BOTO3_UPLOAD, (), _by_boto3),
    Way("Longhaul to S3, direct", (_BOTO3_UPLOAD,), partial(_to_bucket, False)),
    Way("Longhaul to S3, staged and verified", (_BOTO3_UPLOAD,), partial(_to_bucket, True)),
)

ERRORS = (subprocess.SubprocessError, CallFailed, TransferFailed, WrongContent)
