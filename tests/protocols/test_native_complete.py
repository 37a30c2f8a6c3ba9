"""POST /upload/{id}/complete: 200, 202 or 409, whole-file checksums, and the upload's webhook."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.harness.native import Native, Upload
from tests.harness.receiver import receiving
from tests.harness.server import Server
from tests.harness.wire import assert_problem, events, rows, wait_until

pytestmark = pytest.mark.any_part_size

Content = Callable[[int], bytes]

FIELDS = {
    "file_id",
    "filename",
    "total_size",
    "status",
    "phase",
    "final_path",
    "storage_backend",
    "finalizing_progress_percent",
}

WEBHOOK_FIELDS = {
    "event",
    "file_id",
    "filename",
    "total_size",
    "final_path",
    "storage_backend",
    "completed_at",
}


def full_upload(native: Native, data: bytes = b"bytes", **fields: Any) -> Upload:
    """Return an upload whose parts are all there."""
    upload = native.init(fields.pop("filename", "videos/movie.mp4"), size=len(data), **fields)
    native.put_all(upload, data)
    return upload


def delivery_of(server: Server, upload: Upload) -> dict[str, Any]:
    """Return the only delivery of an upload's webhook."""
    (delivery,) = rows(server, "SELECT * FROM deliveries WHERE upload_id = ?", upload.id)
    return delivery


# 200


def test_complete_answers_200_with_the_path_of_the_file(
    native: Native, content: Content, part_bytes: int
) -> None:
    data = content(2 * part_bytes + 5)
    upload = full_upload(native, data)
    response = native.complete_raw(upload)
    assert response.status_code == 200
    assert response.json() == {
        "file_id": upload.id,
        "filename": "movie.mp4",
        "total_size": len(data),
        "status": "complete",
        "phase": "complete",
        "final_path": native.server.store.location(f"videos/{upload.id}_movie.mp4"),
        "storage_backend": native.server.store.backend,
        "finalizing_progress_percent": 100,
    }
    assert native.server.file(response.json()["final_path"]).read_bytes() == data
    assert not [path for path in native.server.staged_files() if upload.id in path.name]


def test_complete_is_idempotent(server: Server, native: Native) -> None:
    upload = full_upload(native)
    first = native.complete(upload)
    before = server.file(first["final_path"]).stat()
    assert [native.complete(upload) for _ in range(3)] == [first] * 3
    assert server.file(first["final_path"]).stat() == before
    assert events(server, upload.id).count("finalized") == 1


def test_complete_at_the_same_time_finalizes_once(server: Server, native: Native) -> None:
    upload, answers = full_upload(native), []

    def complete() -> None:
        answers.append(Native(server).complete(upload))

    threads = [threading.Thread(target=complete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answer == answers[0] for answer in answers)
    assert events(server, upload.id).count("finalized") == 1


def test_complete_needs_no_content_type_and_ignores_a_body(native: Native) -> None:
    bodies: list[dict[str, Any]] = [{}, {"data": b"{"}, {"json": {}}, {"data": iter([b"chunk"])}]
    for options in bodies:
        upload = full_upload(native)
        response = native.request("POST", f"/upload/{upload.id}/complete", **options)
        assert response.json()["status"] == "complete"


# Too early, unknown


def test_missing_parts_are_counted(native: Native, part_bytes: int) -> None:
    upload = native.init(size=2 * part_bytes + 1)
    for sent, part in enumerate((2, 0)):
        response = native.complete_raw(upload)
        message = assert_problem(response.status_code, response.content, 400, "parts_missing")
        assert message == f"Not all parts uploaded: {sent}/3 complete"
        native.put(upload, part, bytes(upload.span(part)[1]))
    assert native.pending(upload) == [1]  # it went on taking parts
    native.put(upload, 1, bytes(part_bytes))
    assert native.complete(upload)["status"] == "complete"


def test_an_unknown_or_cancelled_upload_is_404(native: Native) -> None:
    upload = full_upload(native)
    native.cancel_raw(upload)
    for upload_id in (upload.id, "00000000-0000-4000-8000-000000000000", "x", "%00"):
        response = native.request("POST", f"/upload/{upload_id}/complete")
        assert_problem(response.status_code, response.content, 404, "upload_not_found")


# 202


def test_complete_waits_and_then_answers_202(waiting: Native) -> None:
    upload = full_upload(waiting)
    for _ in range(2):  # idempotent
        started_at = time.monotonic()
        response = waiting.complete_raw(upload)
        waited_seconds = time.monotonic() - started_at
        assert response.status_code == 202
        assert response.json() == {
            "file_id": upload.id,
            "filename": "movie.mp4",
            "total_size": 5,
            "status": "finalizing",
            "phase": "finalizing",
            "final_path": None,
            "storage_backend": waiting.server.store.backend,
            "finalizing_progress_percent": 0,
        }
        assert 0.3 <= waited_seconds < 5  # COMPLETE_WAIT_SECS
    assert waiting.status(upload)["phase"] == "finalizing"
    assert [path for path in waiting.server.staged_files() if upload.id in path.name]


def test_what_was_answered_202_is_complete_once_somebody_finalizes(waiting: Native) -> None:
    upload = full_upload(waiting)
    assert waiting.complete_raw(upload).status_code == 202
    waiting.server.flask("uploads", "finalize", upload.id)
    assert waiting.server.file(waiting.complete(upload)["final_path"]).read_bytes() == b"bytes"


def test_storage_trouble_that_passes_is_202_and_tried_again(
    fragile: Server, storage_away: Callable[[], AbstractContextManager[None]]
) -> None:
    native = Native(fragile)
    upload = full_upload(native, b"bytes", checksum_sha256=hashlib.sha256(b"bytes").hexdigest())
    with storage_away():
        response = native.complete_raw(upload)
        assert (response.status_code, set(response.json())) == (202, FIELDS)
        assert response.json()["status"] == "finalizing"
        assert native.status(upload)["phase"] == "finalizing"
    wait_until(lambda: native.status(upload)["phase"] == "complete", "it has been tried again")
    assert native.server.file(native.status(upload)["final_path"]).read_bytes() == b"bytes"
    assert native.status(upload)["finalization_error"] is None


# The whole file's checksum


def test_a_right_whole_file_checksum_is_verified(
    native: Native, content: Content, part_bytes: int
) -> None:
    data = content(2 * part_bytes + 5)
    upload = full_upload(native, data, checksum_sha256=hashlib.sha256(data).hexdigest().upper())
    assert native.server.file(native.complete(upload)["final_path"]).read_bytes() == data


def test_a_wrong_whole_file_checksum_fails_and_says_why(server: Server, native: Native) -> None:
    upload = full_upload(native, checksum_sha256="0" * 64)
    for attempt in (1, 2, 3):  # after failed it starts again, and fails again
        response = native.complete_raw(upload)
        assert response.status_code == 409
        answer = response.json()
        assert answer["finalization_error"] == answer["error"]
        assert hashlib.sha256(b"bytes").hexdigest() in answer["finalization_error"]
        assert answer["code"] == "finalization_failed"
        assert FIELDS <= set(answer)
        assert (answer["status"], answer["phase"]) == ("failed", "failed")
        assert answer["final_path"] is None
        assert events(server, upload.id).count("processing_failed") == attempt
    assert not [file for file in server.store.files() if upload.id in file.name]


def test_a_part_of_a_failed_upload_cannot_be_replaced(native: Native) -> None:
    upload = full_upload(native, checksum_sha256=hashlib.sha256(b"other").hexdigest())
    assert native.complete_raw(upload).status_code == 409
    for data in (b"other", b"bytes"):
        response = native.put_raw(upload, 0, data)
        assert_problem(response.status_code, response.content, 409, "upload_not_open")
    assert native.status(upload)["phase"] == "failed"


def test_a_failed_upload_can_be_cancelled(native: Native) -> None:
    upload = full_upload(native, checksum_sha256="0" * 64)
    native.complete_raw(upload)
    assert native.cancel_raw(upload).status_code == 200
    assert not [path for path in native.server.staged_files() if upload.id in path.name]
    response = native.complete_raw(upload)
    assert_problem(response.status_code, response.content, 404, "upload_not_found")


def test_the_empty_file_has_a_checksum_too(native: Native) -> None:
    right = native.init(size=0, checksum_sha256=hashlib.sha256(b"").hexdigest())
    wrong = native.init(size=0, checksum_sha256="0" * 64)
    assert native.complete(right)["status"] == "complete"
    assert native.complete_raw(wrong).status_code == 409


# It never says complete unless the file is there


def test_lost_parts_are_asked_for_again_instead_of_complete(
    native: Native, content: Content, part_bytes: int
) -> None:
    data = content(part_bytes + 5)
    upload = full_upload(native, data)
    (staged,) = [path for path in native.server.staged_files() if upload.id in path.name]
    staged.unlink()
    response = native.complete_raw(upload)
    if response.status_code == 202:  # S3 is looked at again for a while before parts are lost
        wait_until(lambda: native.status(upload)["status"] != "finalizing", "the parts are lost")
        response = native.complete_raw(upload)
    message = assert_problem(response.status_code, response.content, 400, "parts_missing")
    assert message == "Not all parts uploaded: 0/2 complete"
    assert native.pending(upload) == [0, 1]
    native.put_all(upload, data)
    assert native.server.file(native.complete(upload)["final_path"]).read_bytes() == data


def test_a_taken_name_is_left_untouched(server: Server, native: Native) -> None:
    upload = full_upload(native, filename="taken/movie.mp4")
    taken = server.store.put(f"taken/{upload.id}_movie.mp4", b"somebody else's")
    response = native.complete_raw(upload)
    assert (response.status_code, response.json()["status"]) == (409, "failed")
    assert taken.read_bytes() == b"somebody else's"
    taken.unlink()
    assert native.server.file(native.complete(upload)["final_path"]).read_bytes() == b"bytes"


# The webhook


def test_the_webhook_tells_what_was_completed(server: Server, native: Native) -> None:
    with receiving() as receiver:
        upload = full_upload(native, filename="vidéos/mövie.mp4", webhook_url=receiver.url)
        answer = native.complete(upload)
        call = receiver.next_call()
        assert call.path == "/hook?key=value"
        assert call.headers["content-type"] == "application/json"
        assert set(call.document) == WEBHOOK_FIELDS
        completed_at = call.document.pop("completed_at")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", completed_at)
        assert call.document == {
            "event": "upload.complete",
            "file_id": upload.id,
            "filename": "mövie.mp4",
            "total_size": 5,
            "final_path": answer["final_path"],
            "storage_backend": server.store.backend,
        }
        delivery = wait_until(
            lambda: (found := delivery_of(server, upload))["finished_at_ms"] and found,
            "the outcome is recorded",
        )
        assert not receiver.has_more
    assert (delivery["state"], delivery["attempts"]) == ("delivered", 1)
    assert (delivery["status_code"], delivery["response_body"]) == (200, "answer")
    assert delivery["error"] is None
    assert "key=value" not in "".join(server.log_lines())  # it may be the receiver's secret


def test_the_webhook_does_not_delay_the_answer(native: Native) -> None:
    answered = threading.Event()

    def answer(_: int) -> int:
        assert answered.wait(20)
        return 200

    with receiving(answer) as receiver:
        upload = full_upload(native, webhook_url=receiver.url)
        assert native.complete(upload)["status"] == "complete"
        receiver.next_call()
        assert native.complete(upload)["status"] == "complete"
        answered.set()


@pytest.mark.once(why="webhooks know nothing of storage, and the ledger of them is tried apart")
def test_a_webhook_is_tried_three_times_after_1_s_and_4_s(server: Server, native: Native) -> None:
    with (
        receiving(lambda number: (500, 302, 204)[number]) as recovering,
        receiving(lambda _: 503) as broken,
    ):
        healed = full_upload(native, webhook_url=recovering.url)
        given_up = full_upload(native, webhook_url=broken.url)
        refused = full_upload(native, webhook_url="http://127.0.0.1:1/")
        for upload in (healed, given_up, refused):
            assert native.complete(upload)["status"] == "complete"
        for receiver in (recovering, broken):
            times = [receiver.next_call().at for _ in range(3)]
            # Due deliveries are looked for about once a second.
            assert 1 <= times[1] - times[0] < 4
            assert 4 <= times[2] - times[1] < 12
        for upload, state, status_code in [
            (healed, "delivered", 204),
            (given_up, "failed", 503),
            (refused, "failed", None),
        ]:
            delivery = wait_until(
                lambda upload=upload: (
                    (found := delivery_of(server, upload))["finished_at_ms"] and found
                ),
                "the outcome is recorded",
            )
            assert (delivery["state"], delivery["attempts"]) == (state, 3)
            assert delivery["status_code"] == status_code
            assert (delivery["error"] is None) == (state == "delivered")
        assert not recovering.has_more
        assert not broken.has_more


@pytest.mark.parametrize("how", ["no webhook", "cancelled", "failed"])
def test_nothing_is_sent_where_nothing_was_completed(
    server: Server, native: Native, how: str
) -> None:
    with receiving() as receiver:
        if how == "no webhook":
            upload = full_upload(native)
            native.complete(upload)
        elif how == "cancelled":
            upload = full_upload(native, webhook_url=receiver.url)
            native.cancel_raw(upload)
        else:
            upload = full_upload(native, webhook_url=receiver.url, checksum_sha256="0" * 64)
            native.complete_raw(upload)
        assert rows(server, "SELECT * FROM deliveries WHERE upload_id = ?", upload.id) == []
        assert not receiver.has_more
