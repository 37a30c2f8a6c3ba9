"""``flask uploads`` on uploads that are appended to, and on those that are made of others."""

from __future__ import annotations

import re

import pytest

from tests.harness.native import KIB, cut
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, finished_file, metadata
from tests.harness.wire import change, events, rows, wait_until
from tests.protocols.test_cli import refused

pytestmark = pytest.mark.not_in("s3-staged", why="commands use storage as requests do")


@pytest.fixture
def idle(jobless: Server) -> Tus:
    """A tus client of the server that finalizes nothing by itself."""
    return Tus(jobless)


def final(tus: Tus, *partials: TusUpload) -> TusUpload:
    header = f"final;{' '.join(partial.url for partial in partials)}"
    response = tus.create_raw({"Upload-Concat": header})
    assert response.status_code == 201, response.text
    return TusUpload(response.headers["Location"])


def listed(server: Server, upload: TusUpload) -> str:
    """Return an upload's line of ``flask uploads list``."""
    lines = server.flask("uploads", "list", "--all", "--limit", "500").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith(upload.id)]
    return line


def shown(server: Server, upload: TusUpload) -> list[tuple[str, str]]:
    """Return what ``flask uploads show`` tells, name and value by line."""
    lines = server.flask("uploads", "show", upload.id).stdout.splitlines()
    pairs = (re.split(r"\s{2,}|(?<=pending parts) ", line, maxsplit=1) for line in lines)
    return [(name.strip(), value) for name, value in pairs]


# list, show


def test_an_appended_upload_is_shown_by_its_bytes(idle: Tus) -> None:
    upload = idle.create(11, b"hello", Upload_Metadata=metadata(filename="a.txt"))
    line = listed(idle.server, upload)
    for told in ("open", "tus", "5/11 bytes", "a.txt"):
        assert told in line
    told = dict(shown(idle.server, upload))
    assert (told["state"], told["protocol"], told["size"]) == ("open", "tus", "11 bytes")
    assert told["received"] == "5 bytes (45.45 %)"
    assert "pending parts" not in told


def test_an_unknown_length_is_shown_as_such(idle: Tus) -> None:
    upload = idle.create(None, b"hello")
    assert "5/? bytes  unknown length" in listed(idle.server, upload)
    told = dict(shown(idle.server, upload))
    assert (told["size"], told["received"]) == ("unknown length", "5 bytes")


def test_partial_and_final_uploads_are_shown_as_such(idle: Tus) -> None:
    full, slow = idle.partial(b"abc"), idle.partial(b"defgh", sent=2)
    upload = final(idle, full, slow)
    assert ("concatenation", "partial: other uploads are made of it") in shown(idle.server, slow)
    told = shown(idle.server, upload)
    assert ("size", "8 bytes") in told
    assert ("received", "made of others") in told
    assert told[-2:] == [
        ("made of", f"{full.id} open 3/3 bytes"),
        ("made of", f"{slow.id} open 2/5 bytes"),
    ]
    assert "made of others" in listed(idle.server, upload)


def test_a_complete_appended_upload_is_shown_with_its_file(server: Server, tus: Tus) -> None:
    upload = tus.create(5, b"bytes")
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")
    told = dict(shown(server, upload))
    assert (told["state"], told["finalized"]) == ("complete", "100 %")
    assert server.file(told["file"]) == finished_file(server, upload)


# cancel


@pytest.mark.parametrize("length", [11, None])
def test_cancel_releases_all_that_an_appended_upload_has(idle: Tus, length: int | None) -> None:
    server, upload = idle.server, idle.create(length, b"hello")
    assert server.flask("uploads", "cancel", upload.id).stdout == f"{upload.id} cancelled\n"
    assert idle.head(upload).status_code == 410
    assert not [path for path in server.staged_files() if upload.id in path.name]
    assert events(server, upload.id) == ["created", "deleted"]
    assert "cancelled" in listed(server, upload)


def test_cancel_ends_the_request_that_appends(server: Server, tus: Tus) -> None:
    upload = tus.create(100 * KIB)
    sock = tus.open_patch(upload, 0, 100 * KIB)
    sock.sendall(b"begun")
    query = "SELECT 1 FROM leases WHERE upload_id = ? AND key = 'append'"
    wait_until(lambda: rows(server, query, upload.id), "it is being appended to")
    server.flask("uploads", "cancel", upload.id)
    assert sock.recv(100).startswith(b"HTTP/1.1 410 ")
    cut(sock, "fin")
    wait_until(lambda: not rows(server, query, upload.id), "the lease has ended")
    assert not [path for path in server.staged_files() if upload.id in path.name]


def test_cancel_of_a_partial_fails_what_waits_for_it_and_that_can_be_cancelled(
    server: Server, tus: Tus
) -> None:
    full, slow = tus.partial(b"abc"), tus.partial(b"def", sent=1)
    upload = final(tus, full, slow)
    server.flask("uploads", "cancel", slow.id)
    wait_until(lambda: "processing_failed" in events(server, upload.id), "the final one failed")
    told = shown(server, upload)
    assert ("state", "failed") in told
    assert ("made of", f"{slow.id} cancelled 1/3 bytes") in told
    assert server.flask("uploads", "cancel", upload.id).stdout == f"{upload.id} cancelled\n"
    assert tus.offset(full) == 3
    left = [path.name for path in server.staged_files()]
    assert not [name for name in left if name.startswith((slow.id, upload.id))]


def test_cancel_of_a_complete_one_deletes_its_file(server: Server, tus: Tus) -> None:
    upload = final(tus, tus.partial(b"abc"))
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")
    assert server.flask("uploads", "cancel", upload.id, check=False).returncode == 1  # not asked
    assert path.read_bytes() == b"abc"
    done = server.flask("uploads", "cancel", upload.id, "--yes").stdout
    assert done == f"{upload.id} deleted\n"
    assert not path.exists()


# finalize


def test_finalize_completes_appended_and_final_uploads(idle: Tus) -> None:
    appended = idle.create(5, b"bytes")
    joined = final(idle, idle.partial(b"abc"), idle.partial(b"def"))
    for upload, content in ((appended, b"bytes"), (joined, b"abcdef"), (joined, b"abcdef")):
        assert "complete" in idle.server.flask("uploads", "finalize", upload.id).stdout
        path = finished_file(idle.server, upload)
        assert path is not None
        assert path.read_bytes() == content


def test_finalize_tells_what_an_appended_upload_lacks(idle: Tus) -> None:
    half, endless = idle.create(11, b"hello"), idle.create(None, b"hello")
    waiting = final(idle, idle.partial(b"abc"), idle.partial(b"def", sent=1))
    for upload, lacking in (
        (half, "5 of 11 bytes"),
        (endless, "5 of an unknown number of bytes"),
        (waiting, "4 of 6 bytes"),
        (idle.partial(b"abc"), "other uploads are made of it"),
    ):
        assert lacking in refused(idle.server, "uploads", "finalize", upload.id)
        assert dict(shown(idle.server, upload))["state"] == "open"


def test_finalize_tries_a_failed_upload_again(idle: Tus) -> None:
    server, upload = idle.server, idle.create(5, b"bytes")
    change(server, "UPDATE uploads SET state = 'failed', due_at_ms = NULL WHERE id = ?", upload.id)
    assert "complete" in server.flask("uploads", "finalize", upload.id).stdout
    assert "retry_queued" in events(server, upload.id)
    path = finished_file(server, upload)
    assert path is not None
    assert path.read_bytes() == b"bytes"


def test_finalize_of_a_final_upload_that_lost_a_partial_says_so_each_time(idle: Tus) -> None:
    server = idle.server
    full, slow = idle.partial(b"abc"), idle.partial(b"def", sent=1)
    upload = final(idle, full, slow)
    idle.delete(slow)
    for _ in range(2):
        failed = server.flask("uploads", "finalize", upload.id, check=False)
        assert failed.returncode == 1
        assert "partial upload" in failed.stderr
    assert dict(shown(server, upload))["state"] == "failed"
