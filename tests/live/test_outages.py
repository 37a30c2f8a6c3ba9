"""The share or the bucket is away for 20 s while clients upload: they wait, and lose nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.load import Load, stored_checksums
from tests.harness.native import MIB
from tests.harness.s3 import S3Server
from tests.harness.samba import Samba
from tests.harness.server import Server
from tests.harness.stores import Bucket, Share
from tests.live.wire import until

pytestmark = pytest.mark.live

OUTAGE_SECONDS = 20.0

#: Uploads that are finished before and after, so that it goes on meanwhile.
SOME = 4

#: S3's smallest, so that parts go straight into the bucket.
S3_PART_MIB = 5


def ride_out(
    server: Server, part_bytes: int, begin: Callable[[], object], end: Callable[[], object]
) -> Load:
    """Upload before, during and after an outage; assert that nothing is lost."""
    load = Load(server, part_bytes)
    with load.running():
        until(lambda: len(load.finished) >= SOME, what="uploads before the outage")
        begin()
        time.sleep(OUTAGE_SECONDS)  # how long it is away is the test's input
        before = len(load.finished)
        end()
        until(lambda: len(load.finished) >= before + SOME, seconds=90, what="uploads afterwards")
    assert load.delayed, "uploads wait for the end of the outage and are finished"
    assert stored_checksums(server) == load.finished
    until(lambda: not _staged(server, load), what="nothing stays staged of what is finished")
    return load


def _staged(server: Server, load: Load) -> list[str]:
    """Return what is staged of finished uploads.

    Others may have left something to the sweeper: a create that was refused, and
    that the storage had carried out before it died, or did when it went on.
    """
    names = [file.name for file in server.staged_files()]
    return [name for name in names if any(upload_id in name for upload_id in load.finished)]


@pytest.fixture
def on_share(own_samba: Samba, tmp_path: Path):
    """A server on a share of the test's own, which gives a silent connection up soon."""
    server = Server(tmp_path, store=Share(own_samba), SMB_TIMEOUT_SECS=2)
    yield server.start()
    server.close()


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_share_may_be_away_for_20_s_under_load(
    on_share: Server, own_samba: Samba, how: str
) -> None:
    begin, end = {
        "killed": (own_samba.kill, own_samba.start),
        "frozen": (own_samba.freeze, own_samba.thaw),
    }[how]
    load = ride_out(on_share, MIB, begin, end)
    assert load.refusals, "clients were told to come back; some wait for its end in one request"


def test_a_bucket_may_be_away_for_20_s_under_load(ceph: S3Server, tmp_path: Path) -> None:
    """Parts go straight into it, tus by way of the disk, where it goes on."""
    server = Server(tmp_path, store=Bucket(ceph, tmp_path), CHUNK_SIZE_MB=S3_PART_MIB)
    server.start()
    try:
        load = ride_out(server, S3_PART_MIB * MIB, ceph.kill, ceph.start_again)
    finally:
        server.close()
    assert {"native", "resumable"} <= set(load.refusals), "they were told to come back"
