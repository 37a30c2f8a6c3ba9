"""The share or the bucket is away for 20 s while clients upload: they wait, and lose nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.harness.load import Load, ride_out
from tests.harness.native import MIB, TIMEOUT_SECONDS
from tests.harness.s3 import S3Server
from tests.harness.samba import Samba
from tests.harness.server import Server
from tests.harness.stores import Bucket, Share

pytestmark = pytest.mark.live

OUTAGE_SECONDS = 20.0

#: S3's smallest, so that parts go straight into the bucket.
S3_PART_MIB = 5


@contextmanager
def noticed(server: Server, begin: Callable[[], object], end: Callable[[], object]) -> Iterator:
    """Take something away; while it is, the server says that it is not ready."""
    begin()
    try:
        yield
        assert requests.get(f"{server.url}/ready", timeout=TIMEOUT_SECONDS).status_code == 503
    finally:
        end()


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
    ride_out(Load(on_share, MIB), noticed(on_share, begin, end), OUTAGE_SECONDS)


def test_a_bucket_may_be_away_for_20_s_under_load(ceph: S3Server, tmp_path: Path) -> None:
    """Parts go straight into it, tus by way of the disk, where it goes on."""
    server = Server(tmp_path, store=Bucket(ceph, tmp_path), CHUNK_SIZE_MB=S3_PART_MIB)
    server.start()
    load = Load(server, S3_PART_MIB * MIB)
    try:
        ride_out(load, noticed(server, ceph.kill, ceph.start_again), OUTAGE_SECONDS)
    finally:
        server.close()
    assert {"native", "resumable"} <= set(load.delayed.values()), "they were told to come back"
