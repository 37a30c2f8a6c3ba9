"""DELETE /files/{id} (tus 1.0.0, "Termination")."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.harness.native import KIB, MIB, Native, read_response
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, finished_file
from tests.harness.wire import events, rows, wait_until

Content = Callable[[int], bytes]


def staged(server: Server, upload: TusUpload) -> list[str]:
    return [path.name for path in server.staged_files() if upload.id in path.name]


def test_an_unfinished_upload_is_terminated_with_204(server: Server, tus: Tus) -> None:
    upload = tus.create(10)
    tus.patch(upload, 0, b"abc")
    response = tus.delete(upload)
    assert response.status_code == 204
    assert response.content == b""
    assert response.headers["Tus-Resumable"] == "1.0.0"
    assert staged(server, upload) == []
    assert events(server, upload.id) == ["created", "deleted"]


def test_a_finished_upload_is_terminated_with_its_file(server: Server, tus: Tus) -> None:
    upload = tus.create(5, b"bytes")
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    assert tus.delete(upload).status_code == 204
    assert not path.exists()


def test_an_upload_is_terminated_right_behind_its_last_byte(server: Server, tus: Tus) -> None:
    for _ in range(5):
        upload = tus.create(5, b"bytes")
        assert tus.delete(upload).status_code == 204  # finalizing is waited for
        assert finished_file(server, upload) is None
        assert staged(server, upload) == []


@pytest.mark.not_in("s3-staged", why="nothing is done in storage meanwhile")
def test_an_upload_that_is_finalized_for_long_is_423(waiting: Native) -> None:
    tus = Tus(waiting.server)
    upload = tus.create(5, b"bytes")
    assert tus.delete(upload).status_code == 423
    waiting.server.flask("uploads", "cleanup")
    assert tus.offset(upload) == 5


def test_what_was_terminated_is_gone(tus: Tus) -> None:
    upload = tus.create(10)
    tus.delete(upload)
    for response in (tus.head(upload), tus.patch_raw(upload, 0, b"abc"), tus.delete(upload)):
        assert response.status_code in (404, 410)
        assert "Upload-Offset" not in response.headers


def test_an_unknown_upload_is_404(tus: Tus) -> None:
    for name in ("00000000-0000-4000-8000-000000000000", "x", "%00"):
        assert tus.delete(TusUpload(f"/files/{name}")).status_code == 404


@pytest.mark.parametrize("version", [None, "0.2.2"])
def test_another_version_is_412_and_nothing_is_done(tus: Tus, version: str | None) -> None:
    upload = tus.create(10)
    response = tus.request("DELETE", upload, {"Tus-Resumable": version})
    assert (response.status_code, response.headers["Tus-Version"]) == (412, "1.0.0")
    assert tus.offset(upload) == 0


def test_a_post_can_stand_for_a_delete(tus: Tus) -> None:
    upload = tus.create(10)
    response = tus.request("POST", upload, {"X-HTTP-Method-Override": "DELETE"})
    assert response.status_code == 204
    assert tus.head(upload).status_code in (404, 410)


def test_it_stops_a_patch_that_is_under_way(server: Server, tus: Tus, content: Content) -> None:
    upload, data = tus.create(MIB), content(MIB)
    with tus.open_patch(upload, 0, MIB) as sock:
        sock.sendall(data[: 500 * KIB])
        query = "SELECT 1 FROM leases WHERE upload_id = ? AND key = 'append'"
        wait_until(lambda: rows(server, query, upload.id), "the PATCH runs")
        assert tus.delete(upload).status_code == 204
        assert read_response(sock)[0] in (404, 410)  # without the rest of its body
    assert staged(server, upload) == []
    assert finished_file(server, upload) is None
    assert events(server, upload.id) == ["created", "deleted"]
    assert rows(server, query, upload.id) == []


def test_what_the_storage_cannot_remove_now_is_removed_later(
    fragile: Server, storage_away: Callable[[], AbstractContextManager[None]]
) -> None:
    tus = Tus(fragile)
    upload = tus.create(10)
    with storage_away():
        assert tus.delete(upload).status_code == 204
    wait_until(lambda: not staged(fragile, upload), "the staged file is swept")
