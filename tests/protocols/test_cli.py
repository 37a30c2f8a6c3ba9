"""``flask uploads``, ``jobs`` and ``ledger`` on the data of a real server, running or not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.native import MIB, Native, Upload
from tests.harness.places import Place
from tests.harness.receiver import receiving
from tests.harness.server import ROOT, Server
from tests.harness.wire import change, rows, stored, wait_until

pytestmark = pytest.mark.not_in("s3-staged", why="commands use storage as requests do")

StartServer = Callable[..., Server]

#: An id that no upload has.
NOBODY = "00000000-0000-4000-8000-000000000000"


def refused(server: Server, *arguments: str, status: int = 1) -> str:
    """Run a command that must fail with one line; return that line."""
    failed = server.flask(*arguments, check=False)
    assert failed.returncode == status
    (line,) = [line for line in failed.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("Error: ")
    return line


def full_upload(native: Native, **fields: str) -> Upload:
    """Return an upload of 5 bytes whose parts are all there."""
    upload = native.init(size=5, **fields)
    native.put_all(upload, b"bytes")
    return upload


def finalizing(native: Native, **fields: str) -> Upload:
    """Return an upload that waits for somebody to finalize it."""
    upload = full_upload(native, **fields)
    assert native.complete_raw(upload).status_code == 202
    return upload


def _two_columns(line: str) -> list[str]:
    return re.split(r"\s{2,}", line, maxsplit=1)


def shown(server: Server, upload: Upload) -> dict[str, str]:
    """Return what ``flask uploads show`` tells, name → value."""
    lines = server.flask("uploads", "show", upload.id).stdout.splitlines()
    return {key.strip(): value for key, value in map(_two_columns, lines)}


# uploads list, show


def test_list_tells_of_unfinished_uploads_newest_first(waiting: Native) -> None:
    server = waiting.server
    first = waiting.init("old.txt", size=2 * MIB)
    waiting.put(first, 1, bytes(MIB))
    second = waiting.init("vidéos/new name.txt", size=5)
    cancelled = waiting.init("gone.txt")
    waiting.cancel_raw(cancelled)
    lines = server.flask("uploads", "list").stdout.splitlines()
    ids = [line.split()[0] for line in lines]
    assert ids.index(second.id) < ids.index(first.id)
    assert cancelled.id not in ids
    line = lines[ids.index(first.id)]
    for told in ("open", "1/2 parts", f"{2 * MIB} bytes", "old.txt"):
        assert told in line
    assert lines[ids.index(second.id)].endswith("new name.txt")
    everything = server.flask("uploads", "list", "--all").stdout
    assert re.search(rf"{cancelled.id}  cancelled ", everything)


def test_show_tells_everything_of_an_upload(waiting: Native) -> None:
    server = waiting.server
    upload = waiting.init("videos/movie.mp4", size=6 * MIB + 1)
    for part in (0, 3, 6):
        waiting.put(upload, part, bytes(upload.span(part)[1]))
    told = shown(server, upload)
    assert told["id"] == upload.id
    assert told["filename"] == "movie.mp4"
    assert (told["state"], told["owner"], told["protocol"]) == ("open", "admin", "native")
    assert told["size"] == f"{6 * MIB + 1} bytes in 7 parts of {MIB}"
    assert told["received"] == "3 parts (42.86 %)"
    assert told["pending parts"] == "1-2, 4-5"
    assert (told["error"], told["file"]) == ("-", "-")


def test_show_tells_where_a_complete_upload_is(server: Server, native: Native) -> None:
    upload = full_upload(native)
    path = native.complete(upload)["final_path"]
    told = shown(server, upload)
    assert (told["state"], told["file"], told["pending parts"]) == ("complete", path, "none")
    assert told["finalized"] == "100 %"


@pytest.mark.parametrize("command", ["show", "cancel", "finalize"])
def test_an_unknown_upload_is_one_line(waiting: Native, command: str) -> None:
    assert "not found" in refused(waiting.server, "uploads", command, NOBODY)


# uploads cancel


def test_cancel_removes_an_unfinished_upload(waiting: Native) -> None:
    upload = waiting.init()
    assert waiting.server.flask("uploads", "cancel", upload.id).stdout == f"{upload.id} cancelled\n"
    assert waiting.request("GET", f"/upload/{upload.id}/status").status_code == 404
    assert not [path for path in waiting.server.staged_files() if upload.id in path.name]


def test_cancel_asks_before_it_deletes_a_file(server: Server, native: Native) -> None:
    upload = full_upload(native)
    path = native.server.file(native.complete(upload)["final_path"])
    unsure = server.flask("uploads", "cancel", upload.id, check=False)  # no input: aborted
    assert unsure.returncode == 1
    assert path.read_bytes() == b"bytes"
    done = server.flask("uploads", "cancel", upload.id, "--yes")
    assert done.stdout == f"{upload.id} deleted\n"
    assert not path.exists()


def test_cancel_is_refused_while_an_upload_is_finalizing(waiting: Native) -> None:
    upload = finalizing(waiting)
    assert "finalizing" in refused(waiting.server, "uploads", "cancel", upload.id)
    assert waiting.status(upload)["phase"] == "finalizing"


# uploads finalize


def test_finalize_completes_what_waits(waiting: Native) -> None:
    for upload in (finalizing(waiting), full_upload(waiting)):  # asked for by a client, or not
        assert "complete" in waiting.server.flask("uploads", "finalize", upload.id).stdout
        answer = waiting.complete(upload)
        assert waiting.server.file(answer["final_path"]).read_bytes() == b"bytes"


def test_finalize_beside_a_server_that_finalizes_itself(server: Server, native: Native) -> None:
    upload = full_upload(native)
    assert "complete" in server.flask("uploads", "finalize", upload.id).stdout
    assert native.server.file(native.complete(upload)["final_path"]).read_bytes() == b"bytes"


def test_finalize_tells_why_it_cannot(waiting: Native) -> None:
    server = waiting.server
    half = waiting.init(size=2 * MIB)
    waiting.put(half, 0, bytes(MIB))
    assert "1/2 complete" in refused(server, "uploads", "finalize", half.id)
    wrong = full_upload(waiting, checksum_sha256="0" * 64)
    for _ in range(2):  # failed: it is tried again
        failed = server.flask("uploads", "finalize", wrong.id, check=False)
        assert failed.returncode == 1
        assert "0" * 64 in failed.stderr
    assert waiting.status(wrong)["phase"] == "failed"


# uploads cleanup


def test_cleanup_removes_what_has_expired_and_dry_run_only_tells(
    start_server: StartServer,
) -> None:
    server = start_server(RUN_JOBS_IN_WORKERS="false")
    native = Native(server)
    expired, live, done = native.init("expired.txt"), native.init(), full_upload(native)
    server.flask("uploads", "finalize", done.id)
    path = native.server.file(native.complete(done)["final_path"])
    change(server, "UPDATE uploads SET expires_at_ms = 1 WHERE id IN (?, ?)", expired.id, done.id)
    (orphan,) = [one for one in server.staged_files() if live.id in one.name]
    stranger = orphan.with_name("notes.txt")
    stranger.write_bytes(b"not an upload")
    before = stored(server)
    told = server.flask("uploads", "cleanup", "--dry-run").stdout
    assert told == f"expired  {expired.id}  expired.txt\n1 would be removed\n"
    assert stored(server) == before
    told = server.flask("uploads", "cleanup").stdout
    assert told == f"expired  {expired.id}  expired.txt\n1 removed\n"
    assert [one.name for one in server.staged_files()] == [f"{live.id}.partial"]
    assert native.status(live)["status"] == "pending"
    assert path.read_bytes() == b"bytes"  # what is complete never expires
    assert stranger.read_bytes() == b"not an upload"


# jobs run


@contextmanager
def jobs_running(server: Server) -> Iterator[subprocess.Popen[str]]:
    """Run ``flask jobs run`` beside a server; it must end by itself on SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "wsgi:app", "jobs", "run"],
        cwd=ROOT,
        env=server.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in log
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_jobs_run_finalizes_sends_webhooks_and_ends_on_sigterm(start_server: StartServer) -> None:
    server = start_server(
        RUN_JOBS_IN_WORKERS="false", COMPLETE_WAIT_SECS="0.1", CLEANUP_INTERVAL_SECS="1"
    )
    native = Native(server)
    with receiving() as receiver:
        before = finalizing(native, webhook_url=receiver.url)
        expired = native.init()
        change(server, "UPDATE uploads SET expires_at_ms = 1 WHERE id = ?", expired.id)
        with jobs_running(server):
            assert receiver.next_call().document["file_id"] == before.id
            later = full_upload(native)
            native.complete_raw(later)
            for upload in (before, later):
                wait_until(
                    lambda upload=upload: native.status(upload)["phase"] == "complete",
                    "it is finalized",
                )
                answer = native.complete(upload)
                assert server.file(answer["final_path"]).read_bytes() == b"bytes"
            wait_until(lambda: server.staged_files() == [], "the expired upload is swept")
            wait_until(
                lambda: rows(server, "SELECT 1 FROM deliveries WHERE state = 'delivered'"),
                "the delivery is recorded",
            )


# ledger


def test_ledger_migrate_makes_the_tables_and_check_tells(place: Place, tmp_path: Path) -> None:
    server = place.server(tmp_path)  # never started
    line = refused(server, "ledger", "check")
    assert "flask ledger migrate" in line
    assert refused(server, "uploads", "list")
    server.flask("ledger", "migrate")
    assert server.flask("ledger", "check").stdout == "the database is up to date\n"
    server.flask("ledger", "migrate")  # again: nothing to do
    assert rows(server, "SELECT count(*) AS n FROM instance") == [{"n": 1}]


def test_ledger_migrate_leaves_what_is_there(start_server: StartServer) -> None:
    server = start_server()
    native = Native(server)
    upload = full_upload(native)
    answer = native.complete(upload)
    server.kill()
    before = stored(server)
    server.flask("ledger", "migrate")
    assert server.flask("ledger", "check").stdout == "the database is up to date\n"
    assert stored(server) == before
    server.start()
    assert native.complete(upload) == answer
    assert server.file(answer["final_path"]).read_bytes() == b"bytes"


def test_an_sqlite_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.database.mkdir()
    for command, status in (("check", 1), ("migrate", os.EX_TEMPFAIL)):
        line = refused(server, "ledger", command, status=status)
        assert str(tmp_path) not in line


# All of them


def test_commands_explain_themselves(server: Server) -> None:
    explained = server.flask("uploads", "--help").stdout
    for command in ("list", "show", "cancel", "finalize", "cleanup"):
        assert re.search(rf"^  {command} +\w", explained, re.MULTILINE)


def test_a_wrong_setting_is_one_line(server: Server) -> None:
    environment = server.environment | {"CHUNK_SIZE_MB": "0"}
    failed = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi:app", "uploads", "list"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert failed.returncode != 0
    assert "CHUNK_SIZE_MB is '0'" in failed.stderr
    assert "Traceback" not in failed.stderr
