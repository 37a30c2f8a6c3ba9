"""DELETE /upload/{id}: what goes, what it answers, and when it is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.native import KIB, Native, Upload, read_response
from tests.harness.server import Server
from tests.harness.wire import assert_problem, events, rows, wait_for_bytes, wait_until

pytestmark = pytest.mark.any_part_size


def staged(server: Server, upload: Upload) -> list[Path]:
    return [path for path in server.staged_files() if upload.id in path.name]


def test_cancel_answers_and_removes_what_was_staged(
    server: Server, native: Native, part_bytes: int
) -> None:
    upload = native.init(size=2 * part_bytes)
    native.put(upload, 0, bytes(part_bytes))
    response = native.cancel_raw(upload)
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"file_id", "status", "message"}
    assert (answer["file_id"], answer["status"]) == (upload.id, "cancelled")
    assert answer["message"]
    assert staged(server, upload) == []
    assert events(server, upload.id) == ["created", "deleted"]


def test_cancel_needs_no_content_type_and_ignores_a_body(native: Native) -> None:
    bodies: list[dict[str, Any]] = [{}, {"data": b"{broken"}, {"json": {}}]
    for options in bodies:
        upload = native.init()
        response = native.request("DELETE", f"/upload/{upload.id}", **options)
        assert response.json()["status"] == "cancelled"


def test_a_cancelled_upload_is_gone(native: Native) -> None:
    upload = native.init(size=5)
    native.put_all(upload, b"bytes")
    native.cancel_raw(upload)
    for response in (
        native.cancel_raw(upload),
        native.complete_raw(upload),
        native.put_raw(upload, 0, b"bytes"),
        native.request("GET", f"/upload/{upload.id}/status"),
        native.request("GET", f"/upload/{upload.id}/tokens"),
    ):
        assert_problem(response.status_code, response.content, 404, "upload_not_found")


def test_an_unknown_upload_is_404(native: Native) -> None:
    for upload_id in ("00000000-0000-4000-8000-000000000000", "x", "%00", "init"):
        response = native.request("DELETE", f"/upload/{upload_id}")
        assert_problem(response.status_code, response.content, 404, "upload_not_found")


def test_a_finalizing_upload_cannot_be_cancelled(waiting: Native) -> None:
    upload = waiting.init(size=5)
    waiting.put_all(upload, b"bytes")
    assert waiting.complete_raw(upload).status_code == 202
    response = waiting.cancel_raw(upload)
    assert_problem(response.status_code, response.content, 409, "upload_not_open")
    assert waiting.status(upload)["phase"] == "finalizing"
    waiting.server.flask("uploads", "finalize", upload.id)
    assert (
        waiting.server.file(waiting.complete(upload)["final_path"]).read_bytes() == b"bytes"
    )  # nothing is lost


def test_cancelling_a_complete_upload_deletes_its_file_too(server: Server, native: Native) -> None:
    upload = native.init("videos/movie.mp4", size=5)
    native.put_all(upload, b"bytes")
    other = native.init("videos/movie.mp4", size=5)
    native.put_all(other, b"other")
    path, kept = (native.server.file(native.complete(one)["final_path"]) for one in (upload, other))
    response = native.cancel_raw(upload)
    assert (response.status_code, response.json()["status"]) == (200, "cancelled")
    assert not path.exists()
    assert kept.read_bytes() == b"other"
    response = native.cancel_raw(upload)
    assert_problem(response.status_code, response.content, 404, "upload_not_found")
    (row,) = rows(server, "SELECT state, final_key FROM uploads WHERE id = ?", upload.id)
    assert row == {"state": "deleted", "final_key": None}


def test_cancel_at_the_same_time_wins_once(server: Server, native: Native) -> None:
    upload, statuses = native.init(), []

    def cancel() -> None:
        statuses.append(Native(server).cancel_raw(upload).status_code)

    threads = [threading.Thread(target=cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [404] * 7
    assert events(server, upload.id) == ["created", "deleted"]


def test_a_part_in_flight_does_not_bring_a_cancelled_upload_back(
    server: Server, native: Native, content: Callable[[int], bytes], part_bytes: int
) -> None:
    upload, data = native.init(size=part_bytes), content(part_bytes)
    with native.open_part(upload, 0) as sock:
        sock.sendall(data[: part_bytes - KIB])
        wait_for_bytes(server, upload, 0, data[:KIB])
        native.cancel_raw(upload)
        sock.sendall(data[part_bytes - KIB :])
        assert read_response(sock)[0] == 404
    response = native.put_raw(upload, 0, data)
    assert_problem(response.status_code, response.content, 404, "upload_not_found")
    assert staged(server, upload) == []
    assert rows(server, "SELECT * FROM receipts WHERE upload_id = ?", upload.id) == []


def test_what_the_storage_cannot_remove_now_is_removed_later(
    fragile: Server, storage_away: Callable[[], AbstractContextManager[None]]
) -> None:
    native = Native(fragile)
    upload = native.init()
    with storage_away():
        assert native.cancel_raw(upload).json()["status"] == "cancelled"
    wait_until(lambda: not staged(fragile, upload), "the staged file is swept")
