"""An SMB share in trouble: Samba dies, freezes and refuses, a setting is wrong, uploads are slow.

That a Longhaul which is killed loses nothing there is tried in ``test_crash``,
that an outage under load loses nothing in ``test_outages``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.conftest import StartServer
from tests.harness.frames import Frames
from tests.harness.native import MIB, TIMEOUT_SECONDS, Native, Upload
from tests.harness.samba import PASSWORD, Samba
from tests.harness.server import Server
from tests.harness.stores import Share
from tests.live.wire import Connection, log_events, put_head, stored_file, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

AT_ONCE = 6

RECOVERY_SECONDS = 60.0


def piece(upload: Upload, part: int, data: bytes) -> bytes:
    """Return the bytes of a part."""
    offset, length = upload.span(part)
    return data[offset : offset + length]


def put_parallel(native: Native, upload: Upload, data: bytes) -> None:
    """Send all parts, several at a time, each over a connection of its own."""

    def put(part: int) -> None:
        Native(native.server).put(upload, part, piece(upload, part, data))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(put, range(len(upload.tokens))))


def health(server: Server) -> tuple[int, dict[str, object], str]:
    """Return status, storage's part and whole text of /health."""
    answer = requests.get(f"{server.url}/health", timeout=TIMEOUT_SECONDS)
    return answer.status_code, answer.json()["storage"], answer.text


def is_ready(server: Server) -> bool:
    return requests.get(f"{server.url}/ready", timeout=TIMEOUT_SECONDS).status_code == 200


def test_a_part_in_flight_is_answered_503_when_the_share_dies_and_goes_on_when_it_is_back(
    start_server: StartServer, own_samba: Samba, content: Content
) -> None:
    server = start_server(store=Share(own_samba), WORKERS=1)
    native = Native(server)
    data = content(3 * MIB)
    upload = native.init(size=len(data))
    native.put(upload, 0, piece(upload, 0, data))
    with Connection(server) as connection:
        connection.send(put_head(upload, 1), piece(upload, 1, data)[:-1])
        until(lambda: own_samba.sessions())
        own_samba.kill()
        connection.send(piece(upload, 1, data)[-1:])
        answer = connection.read()
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json["code"] == "storage_unavailable"
    until(lambda: health(server)[0] == 503, what="/health has looked again")
    code, storage, text = health(server)
    assert (code, storage["status"]) == (503, "unavailable")
    assert "SMB_HOST and SMB_PORT" in str(storage["message"])
    assert not any(secret in text for secret in ("127.0.0.1", PASSWORD, own_samba.user))
    own_samba.start()
    until(lambda: is_ready(server), seconds=RECOVERY_SECONDS)
    assert native.pending(upload) == [1, 2]
    for part in (1, 2):
        native.put(upload, part, piece(upload, part, data))
    assert stored_file(native, upload).read_bytes() == data


def test_a_frozen_share_is_given_up_and_connected_to_anew(
    start_server: StartServer, own_samba: Samba, content: Content
) -> None:
    server = start_server(store=Share(own_samba), WORKERS=1, SMB_TIMEOUT_SECS=1)
    native = Native(server)
    data = content(2 * MIB)
    upload = native.init(size=len(data))
    native.put(upload, 0, data[:MIB])
    own_samba.freeze()
    answer = native.put_raw(upload, 1, data[MIB:])
    assert answer.status_code == 503
    assert "does not answer" in answer.json()["error"]
    assert native.status(upload)["uploaded_parts"] == 1, "what needs no share goes on"
    own_samba.thaw()
    until(lambda: is_ready(server), seconds=RECOVERY_SECONDS)
    native.put(upload, 1, data[MIB:])
    assert stored_file(native, upload).read_bytes() == data


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"SMB_PASS": "wrong"}, "SMB_USER and SMB_PASS"),
        ({"SMB_SHARE": "missing"}, "SMB_SHARE"),
        ({"SMB_HOST": "no-such-host.invalid"}, "SMB_HOST"),
        ({"SMB_PORT": "1"}, "SMB_PORT"),
    ],
    ids=["password", "share", "host", "port"],
)
def test_a_server_with_a_wrong_setting_starts_and_says_which(
    start_server: StartServer, samba: Samba, wrong: dict[str, str], told: str
) -> None:
    server = start_server(ready=False, store=Share(samba), **wrong)
    code, storage, text = health(server)
    assert (code, storage["status"]) == (503, "unavailable")
    assert told in str(storage["message"])
    answer = Native(server).init_raw({"filename": "a", "total_size": 1})
    assert answer.status_code == 503
    assert told in answer.json()["error"]
    waiting = until(lambda: log_events(server, "start.waiting"))
    assert told in waiting[0]["message"]
    everything = text + answer.text + "\n".join(server.log_lines())
    assert PASSWORD not in everything
    for secret in ("127.0.0.1", "no-such-host", samba.user):
        assert secret not in text + answer.text


def test_a_server_whose_share_is_not_there_yet_recovers_by_itself(
    start_server: StartServer, own_samba: Samba, content: Content
) -> None:
    own_samba.kill()
    server = start_server(ready=False, store=Share(own_samba))
    own_samba.start()
    until(lambda: is_ready(server), seconds=RECOVERY_SECONDS)
    native = Native(server)
    data = content(MIB)
    upload = native.init(size=len(data))
    native.put(upload, 0, data)
    assert stored_file(native, upload).read_bytes() == data


def test_a_read_only_share_is_told(start_server: StartServer, own_samba: Samba) -> None:
    server = start_server(store=Share(own_samba))
    for share in own_samba.shares:
        own_samba.add_share(share, own_samba.root, read_only="yes")
    own_samba.kill_sessions()
    until(lambda: "read-only" in str(health(server)[1]["message"]))
    answer = Native(server).init_raw({"filename": "a", "total_size": 1})
    assert answer.status_code == 503
    assert "read-only" in answer.json()["error"]


@pytest.mark.parametrize("begun", [False, True], ids=["new", "known"])
def test_a_server_whose_share_is_read_only_at_its_start_recovers_by_itself(
    start_server: StartServer, own_samba: Samba, content: Content, begun: bool
) -> None:
    """``known``: the share has been in use, so at a start nothing has to be written to it."""
    store = Share(own_samba)
    if begun:
        assert start_server(store=store).stop() == 0
    own_samba.add_share("share", own_samba.root, read_only="yes")
    server = start_server(ready=False, store=store)
    code, storage, _ = health(server)
    assert (code, storage["status"]) == (503, "unavailable")
    assert "read-only" in str(storage["message"])
    ready = requests.get(f"{server.url}/ready", timeout=TIMEOUT_SECONDS)
    assert ready.status_code == 503
    assert any("read-only" in reason for reason in ready.json()["reasons"])
    answer = Native(server).init_raw({"filename": "a", "total_size": 1})
    assert answer.status_code == 503
    assert "read-only" in answer.json()["error"]
    own_samba.add_share("share", own_samba.root)
    until(lambda: is_ready(server), seconds=RECOVERY_SECONDS)
    native, data = Native(server), content(MIB)

    def takes_all() -> bool:
        """Each worker finds out for itself, and so far one of them has said so."""
        description = {"filename": "movie.mp4", "total_size": len(data)}
        return all(native.init_raw(description).status_code == 200 for _ in range(20))

    until(takes_all, seconds=RECOVERY_SECONDS)
    upload = native.init(size=len(data))
    native.put(upload, 0, data)
    assert stored_file(native, upload).read_bytes() == data


def test_a_share_without_room_refuses_an_upload_at_its_start(
    start_server: StartServer, samba: Samba
) -> None:
    server = start_server(store=Share(samba), MIN_FREE_DISK_BYTES="1000T")
    answer = Native(server).init_raw({"filename": "a", "total_size": 1})
    assert answer.status_code == 507
    assert not server.staged_files()


def test_jobs_in_a_process_of_their_own_finalize_what_is_on_the_share(
    start_server: StartServer, samba: Samba, content: Content
) -> None:
    """There real threads use the share, and no hub."""
    server = start_server(store=Share(samba), RUN_JOBS_IN_WORKERS="false")
    native = Native(server)
    data = content(3 * MIB)
    checksum = hashlib.sha256(data).hexdigest()
    upload = native.init(size=len(data), checksum_sha256=checksum)
    native.put_all(upload, data)
    jobs = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "wsgi:app", "jobs", "run"],
        cwd=server.directory,
        env=server.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert stored_file(native, upload).read_bytes() == data
    finally:
        jobs.send_signal(signal.SIGTERM)
        assert jobs.wait(TIMEOUT_SECONDS) == 0


def test_commands_use_the_share(start_server: StartServer, samba: Samba) -> None:
    server = start_server(store=Share(samba))
    upload = Native(server).init(size=MIB)
    assert len(server.staged_files()) == 1
    server.flask("uploads", "cancel", upload.id)
    assert server.staged_files() == []


def test_a_kill_at_any_request_of_publishing_leaves_one_whole_file(
    start_server: StartServer, own_samba: Samba, content: Content
) -> None:
    """The server is killed before each of its requests to the share, one upload after the other."""
    data = content(MIB)
    with Frames(own_samba.port) as frames:
        store = Share(own_samba)
        server = start_server(store=store, WORKERS=1, SMB_CONNECTIONS=1, SMB_PORT=frames.port)
        kills, is_whole = 0, False
        while not is_whole:
            native = Native(server)
            upload = native.init(size=len(data))
            native.put(upload, 0, data)
            frames.hold_after(kills)
            with ThreadPoolExecutor(1) as pool:
                completing = pool.submit(complete_regardless, server, upload)
                until(lambda: frames.is_held() or completing.done())  # noqa: B023
                is_whole = not frames.is_held()
                server.kill()
            frames.cut()
            visible = store.files()
            assert len(visible) - kills in (0, 1)
            assert all(file.read_bytes() == data for file in visible)
            server.start()
            assert stored_file(Native(server), upload).read_bytes() == data
            assert len(store.files()) == kills + 1
            assert not server.staged_files()
            kills += 1
    assert kills > 8, "the server was never stopped: its requests do not pass here"


def complete_regardless(server: Server, upload: Upload) -> None:
    with contextlib.suppress(requests.RequestException):  # it is killed meanwhile
        Native(server).complete_raw(upload)


def test_many_slow_parts_hold_no_threads_and_few_connections(
    start_server: StartServer, own_samba: Samba, content: Content
) -> None:
    """Each has a handle on the share; the connections are shared."""
    slow = 40
    server = start_server(store=Share(own_samba), WORKERS=1, SMB_CONNECTIONS=2)
    native = Native(server)
    data = content(slow * MIB)
    upload = native.init(size=len(data))
    connections = [Connection(server) for _ in range(slow)]
    for part, connection in enumerate(connections):
        connection.send(put_head(upload, part), piece(upload, part, data)[: MIB // 2])
    fast = native.init(size=MIB)
    native.put(fast, 0, data[:MIB])
    assert len(own_samba.sessions()) <= 2
    together = threading.Barrier(slow)

    def end(part: int) -> int:
        together.wait()
        connections[part].send(piece(upload, part, data)[MIB // 2 :])
        return connections[part].read().status

    with ThreadPoolExecutor(slow) as pool:
        assert set(pool.map(end, range(slow))) == {200}
    for connection in connections:
        connection.close()
    assert stored_file(native, upload).read_bytes() == data


def test_every_worker_has_connections_of_its_own(
    start_server: StartServer, own_samba: Samba, content: Content
) -> None:
    server = start_server(store=Share(own_samba), WORKERS=2, SMB_CONNECTIONS=1)
    native, data = Native(server), content(30 * MIB)
    upload = native.init(size=len(data))
    put_parallel(native, upload, data)

    def owners() -> set[int]:
        return {pid for pid in server.worker_pids() if own_samba.port in _peer_ports(pid)}

    until(lambda: owners() == set(server.worker_pids()), what="both have one, the slower too")
    assert len(own_samba.sessions()) == 2
    assert stored_file(native, upload).read_bytes() == data


def _peer_ports(pid: int) -> set[int]:
    """Return the ports a process is connected to: proc(5), net/tcp, by its sockets' inodes."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes:
            found.add(int(fields[2].rpartition(":")[2], 16))
    return found
