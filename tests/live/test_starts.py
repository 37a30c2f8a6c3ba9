"""A server whose share or bucket cannot be used when it starts: it says why, and recovers.

A share that is read-only or not there at the start, and a missing bucket, are in
``test_smb_trouble`` and ``test_s3_trouble``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.conftest import StartServer
from tests.harness.ceph import Ceph
from tests.harness.mounts import Mounts
from tests.harness.native import KIB, TIMEOUT_SECONDS, Native
from tests.harness.samba import PASSWORD, Samba
from tests.harness.server import Server
from tests.harness.stores import Bucket, Share
from tests.live.wire import final_location, log_events, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: A refused login is tried again after some seconds only; a busy machine takes a while more.
RECOVERY_SECONDS = 60.0

#: S3's smallest.
S3_PART_MIB = 5

READING = ["s3:GetObject", "s3:ListBucket"]


def problem(server: Server) -> str:
    """Return why a server says that it is not ready, "" if it says it is."""
    answer = requests.get(f"{server.url}/ready", timeout=TIMEOUT_SECONDS)
    assert answer.status_code == (503 if answer.json()["reasons"] else 200)
    return " ".join(answer.json()["reasons"])


def require_told(server: Server, told: str, *, refused: int = 503) -> None:
    """The server says what is wrong to whoever looks at it, and to clients."""
    assert told in problem(server)
    health = requests.get(f"{server.url}/health", timeout=TIMEOUT_SECONDS)
    assert (health.status_code, health.json()["storage"]["status"]) == (503, "unavailable")
    assert told in health.json()["storage"]["message"]
    answer = Native(server).init_raw({"filename": "a", "total_size": 1})
    assert answer.status_code == refused, answer.text
    assert told in answer.json()["error"]
    if refused == 503:
        assert int(answer.headers["Retry-After"]) > 0


def require_told_in_log(server: Server, told: str) -> None:
    assert told in until(lambda: log_events(server, "start.waiting"))[0]["message"]


def require_recovery(server: Server, content: Content) -> None:
    """The server gets ready without a restart, and all its workers store files."""
    until(lambda: not problem(server), seconds=RECOVERY_SECONDS, what="it is ready")
    native, data = Native(server), content(300 * KIB)

    def takes_all() -> bool:
        """Each worker finds out for itself, and so far one of them has said so."""
        description = {"filename": "movie.mp4", "total_size": 1}
        return all(native.init_raw(description).status_code == 200 for _ in range(20))

    until(takes_all, seconds=RECOVERY_SECONDS, what="all workers are")
    upload = native.init(size=len(data))
    native.put_all(upload, data)
    final_location(native, upload)
    assert native.request("GET", f"/download/{upload.id}").content == data


def test_a_password_that_the_share_does_not_take_yet(
    start_server: StartServer, own_samba: Samba, content: Content
) -> None:
    own_samba.set_password("another one")
    server = start_server(ready=False, store=Share(own_samba))
    require_told(server, "SMB_USER and SMB_PASS")
    require_told_in_log(server, "SMB_USER and SMB_PASS")
    own_samba.set_password(PASSWORD)
    require_recovery(server, content)


def test_a_share_that_is_not_offered_yet(
    start_server: StartServer, own_samba: Samba, content: Content
) -> None:
    store = Share(own_samba)
    own_samba.remove_share("share")
    server = start_server(ready=False, store=store)
    require_told(server, "no share of the name in SMB_SHARE")
    require_told_in_log(server, "no share of the name in SMB_SHARE")
    own_samba.add_share("share", own_samba.root)
    require_recovery(server, content)


@pytest.mark.parametrize("begun", [False, True], ids=["new", "known"])
def test_a_share_that_is_full(
    start_server: StartServer,
    mounts: Mounts,
    own_samba: Samba,
    tmp_path: Path,
    content: Content,
    begun: bool,
) -> None:
    """``known``: the share has been in use, so at a start nothing has to be written to it."""
    mounts.tmpfs(tmp_path / "disk", size_kib=1024)
    own_samba.add_share("share", tmp_path / "disk")
    store = Share(own_samba)
    if begun:
        assert start_server(store=store).stop() == 0
    filler = tmp_path / "disk/filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(KIB))
    server = start_server(ready=False, store=store)
    require_told(server, "free space", refused=507)
    filler.unlink()
    require_recovery(server, content)


def test_an_s3_server_that_is_not_there_yet(
    start_server: StartServer, ceph: Ceph, tmp_path: Path, content: Content
) -> None:
    store = Bucket(ceph, tmp_path)
    with ceph.away():
        server = start_server(ready=False, store=store)
        require_told(server, "cannot be reached")
        require_told_in_log(server, "cannot be reached")
    require_recovery(server, content)


def test_a_clock_too_wrong_for_s3(
    start_server: StartServer, ceph: Ceph, tmp_path: Path, content: Content
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    server = start_server(
        ready=False,
        store=Bucket(ceph, tmp_path),
        application="tests.harness.skewed:app",
        SLOW_CLOCK=slow,
    )
    require_told(server, "clocks")
    require_told_in_log(server, "clocks")
    slow.unlink()
    require_recovery(server, content)


def test_keys_that_the_s3_server_does_not_know_yet(
    start_server: StartServer, ceph: Ceph, tmp_path: Path, content: Content
) -> None:
    keys = {
        "AWS_ACCESS_KEY_ID": "access-key-of-late",
        "AWS_SECRET_ACCESS_KEY": "secret-key-of-late",
    }
    store = Bucket(ceph, tmp_path, **keys)
    server = start_server(ready=False, store=store)
    require_told(server, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    require_told_in_log(server, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    assert ceph.new_user("late") == tuple(keys.values())
    allow(ceph, store.name, "late", ["s3:*"])
    require_recovery(server, content)


@pytest.mark.parametrize("begun", [False, True], ids=["new", "known"])
def test_keys_that_may_only_read(
    start_server: StartServer, ceph: Ceph, tmp_path: Path, content: Content, begun: bool
) -> None:
    """``known``: the bucket has been in use, so at a start nothing has to be written to it."""
    user = f"reader-of-a-{'known' if begun else 'new'}-bucket"
    access_key, secret_key = ceph.new_user(user)
    # So that an upload goes straight into the bucket, and what is wrong is met at its start.
    store = Bucket(ceph, tmp_path, CHUNK_SIZE_MB=S3_PART_MIB)
    allow(ceph, store.name, user, READING)
    if begun:
        assert start_server(store=store).stop() == 0
    server = start_server(
        ready=False,
        store=store,
        AWS_ACCESS_KEY_ID=access_key,
        AWS_SECRET_ACCESS_KEY=secret_key,
    )
    require_told(server, "needs the right to")
    allow(ceph, store.name, user, ["s3:*"])
    require_recovery(server, content)


def allow(ceph: Ceph, bucket: str, user: str, actions: list[str]) -> None:
    """Let a user do something in a bucket, and nothing else."""
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
        "Action": actions,
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    ceph.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
