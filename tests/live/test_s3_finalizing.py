"""What finalizing sends to a bucket, and how its progress is told; the network is held up."""

from __future__ import annotations

import hashlib

import pytest

from tests.harness.native import KIB, MIB, Native
from tests.harness.network import Network
from tests.harness.stores import Bucket
from tests.live.wire import until

pytestmark = pytest.mark.live

PART_MIB = 5
PARTS = 8

#: Far more than requests and answers without contents take, far less than a part.
TALK_BYTES = 256 * KIB


@pytest.fixture
def network(ceph):
    with Network(ceph.port) as network:
        yield network


@pytest.fixture
def server(start_server, tmp_path, ceph, network):
    """A server whose bucket is behind the network."""
    store = Bucket(ceph, tmp_path, S3_ENDPOINT=network.url)
    return start_server(store=store, CHUNK_SIZE_MB=PART_MIB, COMPLETE_WAIT_SECS=0)


def test_a_file_that_has_gone_straight_into_the_bucket_is_finalized_without_sending_it_again(
    server, network, content
):
    data = content(PARTS * PART_MIB * MIB)
    native = Native(server)
    upload = native.init(size=len(data))
    native.put_all(upload, data)
    network.hold_after(TALK_BYTES)
    assert native.complete_raw(upload).status_code in (200, 202)
    until(lambda: native.status(upload)["status"] == "complete", what="it is complete")
    network.release()
    assert server.file(native.complete(upload)["final_path"]).read_bytes() == data


def test_how_much_of_a_staged_file_is_in_the_bucket_is_told_while_it_goes_there(
    server, network, content
):
    data = content(PARTS * PART_MIB * MIB)
    native = Native(server)
    upload = native.init(size=len(data), checksum_sha256=hashlib.sha256(data).hexdigest())
    native.put_all(upload, data)
    assert native.status(upload)["finalizing_progress_percent"] == 0
    network.hold_after(len(data) // 2)  # of one connection; others go on
    assert native.complete_raw(upload).status_code == 202
    network.wait()

    def told():
        status = native.status(upload)
        assert (status["status"], status["phase"]) == ("finalizing", "finalizing")
        return status["finalizing_progress_percent"]

    assert until(lambda: told() >= 45, what="what has gone there is told")
    assert told() < 100
    network.release()
    until(lambda: native.status(upload)["status"] == "complete", what="it is complete")
    assert native.status(upload)["finalizing_progress_percent"] == 100
    assert server.file(native.complete(upload)["final_path"]).read_bytes() == data
