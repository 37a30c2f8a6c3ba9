"""Resumable.js on storages that are elsewhere: a share, and a bucket in both of its ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from tests.conftest import StartServer
from tests.harness.native import MIB, TIMEOUT_SECONDS
from tests.harness.resumable import CHUNK_BYTES, File, Resumable
from tests.live.wire import until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: S3's smallest part: chunks of this size go straight into the bucket, smaller ones wait on disk.
PART_BYTES = 5 * MIB


@pytest.fixture(params=["smb", "s3 direct", "s3 staged"])
def remote(request: pytest.FixtureRequest, start_server: StartServer) -> tuple[Resumable, int]:
    """A client of a server on each storage in turn, and the chunk size to use."""
    if request.param == "smb":
        settings = request.getfixturevalue("samba").settings(SMB_PATH="resumable")
    else:
        ceph = request.getfixturevalue("ceph")
        settings = ceph.settings(ceph.new_bucket())
    server = start_server(**settings)
    return Resumable(server), PART_BYTES if request.param == "s3 direct" else CHUNK_BYTES


def test_chunks_are_stored_replaced_and_confirmed(
    remote: tuple[Resumable, int], content: Content
) -> None:
    client, chunk_size = remote
    old = File(content(2 * chunk_size), chunk_size=chunk_size, forced=True)
    data = old.content[:100] + content(2 * chunk_size - 100)
    new = File(data, chunk_size=chunk_size, forced=True, identifier=old.identifier)
    assert client.octet(old, 1)["received"] == 1
    assert client.octet(old, 1)["received"] == 1
    assert client.octet(new, 1)["received"] == 1
    client.octet(new, 2)
    done = until(lambda: _complete(client, new))
    downloaded = requests.get(done["location"], headers=client.headers, timeout=TIMEOUT_SECONDS)
    assert downloaded.content == new.content
    assert client.form_raw(new, 1).json() == done
    refused = client.octet_raw(old, 1)
    assert (refused.status_code, refused.json()["code"]) == (400, "part_conflict")


def _complete(client: Resumable, file: File) -> dict[str, str] | None:
    answer: dict[str, str] = client.test_raw(file, 2).json()
    return answer if answer["complete"] else None
