"""GET /upload/{id}/status: one shape in every state, and the parts as clients ask for them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.native import Native, Upload
from tests.harness.server import Server
from tests.harness.wire import assert_problem, change, examples, wait_until

pytestmark = pytest.mark.any_part_size

#: An id that no upload has.
NOBODY = "00000000-0000-4000-8000-000000000000"

FIELDS = {
    "file_id",
    "filename",
    "total_size",
    "chunk_size",
    "total_parts",
    "uploaded_parts",
    "status",
    "phase",
    "upload_progress_percent",
    "progress_percent",
    "finalizing_progress_percent",
    "finalization_error",
    "storage_backend",
    "parts",
    "created_at",
    "expires_at",
    "final_path",
}

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

#: Value of include_parts (None: absent) → whether parts are there while open, and afterwards.
INCLUDE_PARTS = [
    ("true", True, True),
    ("1", True, True),
    ("TRUE", True, True),
    ("false", False, False),
    ("0", False, False),
    (None, True, False),
]


def of_state(document: dict[str, Any]) -> dict[str, Any]:
    """Return what of a status document depends on the upload's state."""
    names = ("status", "phase", "finalizing_progress_percent", "finalization_error", "final_path")
    return {name: document[name] for name in names}


def failed_upload(native: Native) -> Upload:
    """Return an upload of 5 bytes whose promised checksum is wrong, after it has failed."""
    upload = native.init(size=5, checksum_sha256="0" * 64)
    native.put_all(upload, b"bytes")
    assert native.complete_raw(upload).status_code == 409
    return upload


# In every state


def test_the_status_of_an_open_upload(
    native: Native, content: Callable[[int], bytes], part_bytes: int
) -> None:
    upload, data = (
        native.init("videos/2024/movie.mp4", size=2 * part_bytes + 1),
        content(part_bytes),
    )
    native.put(upload, 1, data)
    status = native.status(upload)
    assert set(status) == FIELDS
    assert of_state(status) == {
        "status": "pending",
        "phase": "uploading",
        "finalizing_progress_percent": 0,
        "finalization_error": None,
        "final_path": None,
    }
    assert (status["file_id"], status["filename"]) == (upload.id, "movie.mp4")
    assert (status["total_size"], status["chunk_size"]) == (2 * part_bytes + 1, part_bytes)
    assert (status["total_parts"], status["uploaded_parts"]) == (3, 1)
    assert status["storage_backend"] == native.server.store.backend
    pending = {"status": "pending", "checksum_sha256": None, "uploaded_at": None}
    uploaded_at = status["parts"][1].pop("uploaded_at")
    assert status["parts"] == [
        {"part": 0} | pending,
        {"part": 1, "status": "uploaded", "checksum_sha256": hashlib.sha256(data).hexdigest()},
        {"part": 2} | pending,
    ]
    for text in (uploaded_at, status["created_at"]):
        assert RFC_3339_UTC.fullmatch(text)
        age = datetime.now(UTC) - datetime.fromisoformat(text)
        assert timedelta() <= age < timedelta(minutes=1)
    assert RFC_3339_UTC.fullmatch(status["expires_at"])
    assert status["expires_at"] == upload.raw["expires_at"]


@pytest.mark.parametrize(
    ("parts", "sent", "percent"),
    [(3, 1, 33.33), (3, 2, 66.67), (7, 1, 14.29), (2, 2, 100), (1, 0, 0)],
)
def test_progress_is_parts_of_all_parts_with_two_decimals(
    native: Native, parts: int, sent: int, percent: float, part_bytes: int
) -> None:
    upload = native.init(size=parts * part_bytes)
    for part in range(sent):
        native.put(upload, part, bytes(part_bytes))
    status = native.status(upload)
    assert status["upload_progress_percent"] == status["progress_percent"] == percent


def test_the_status_of_a_finalizing_upload(waiting: Native) -> None:
    upload = waiting.init(size=5)
    waiting.put_all(upload, b"bytes")
    assert waiting.complete_raw(upload).status_code == 202
    status = waiting.status(upload)
    assert set(status) == FIELDS
    assert of_state(status) == {
        "status": "finalizing",
        "phase": "finalizing",
        "finalizing_progress_percent": 0,
        "finalization_error": None,
        "final_path": None,
    }
    assert status["upload_progress_percent"] == 100


def test_finalizing_progress_is_an_integer_below_100_until_it_is_done(waiting: Native) -> None:
    upload = waiting.init(size=1000)
    waiting.put_all(upload, bytes(1000))
    waiting.complete_raw(upload)
    for moved_bytes, percent in [(0, 0), (9, 0), (155, 15), (999, 99), (1000, 99)]:
        # What a finalizing process records about once a second.
        change(
            waiting.server,
            "UPDATE uploads SET progress_bytes = ? WHERE id = ?",
            moved_bytes,
            upload.id,
        )
        shown = waiting.status(upload)["finalizing_progress_percent"]
        assert (shown, type(shown)) == (percent, int)


def test_the_status_of_a_complete_upload(native: Native) -> None:
    upload = native.init("videos/movie.mp4", size=5)
    native.put_all(upload, b"bytes")
    answer = native.complete(upload)
    status = native.status(upload)
    assert set(status) == FIELDS
    assert of_state(status) == {
        "status": "complete",
        "phase": "complete",
        "finalizing_progress_percent": 100,
        "finalization_error": None,
        "final_path": native.server.store.location(f"videos/{upload.id}_movie.mp4"),
    }
    assert status["final_path"] == answer["final_path"]
    assert status["uploaded_parts"] == status["total_parts"] == 1
    assert status["upload_progress_percent"] == status["progress_percent"] == 100
    assert status["parts"][0]["checksum_sha256"] == hashlib.sha256(b"bytes").hexdigest()


def test_the_status_of_a_failed_upload(native: Native) -> None:
    status = native.status(failed_upload(native))
    assert set(status) == FIELDS
    error = status["finalization_error"]
    assert "0" * 64 in error
    assert hashlib.sha256(b"bytes").hexdigest() in error
    assert of_state(status) == {
        "status": "failed",
        "phase": "failed",
        "finalizing_progress_percent": 0,
        "finalization_error": error,
        "final_path": None,
    }


# With and without parts


@pytest.mark.parametrize(("value", "while_open", "_afterwards"), INCLUDE_PARTS)
def test_parts_of_an_open_or_failed_upload_are_there_unless_they_are_not_wanted(
    native: Native, value: str | None, while_open: bool, _afterwards: bool
) -> None:
    for upload in (native.init(size=5), failed_upload(native)):
        assert (native.status(upload, value)["parts"] is not None) == while_open


@pytest.mark.parametrize(("value", "_while_open", "afterwards"), INCLUDE_PARTS)
def test_parts_of_a_finalizing_or_complete_upload_are_there_if_they_are_wanted(
    native: Native, waiting: Native, value: str | None, _while_open: bool, afterwards: bool
) -> None:
    for client in (native, waiting):
        upload = client.init(size=5)
        client.put_all(upload, b"bytes")
        client.complete_raw(upload)
        status = client.status(upload, value)
        assert status["phase"] == ("complete" if client is native else "finalizing")
        assert (status["parts"] is not None) == afterwards


@examples
@given(
    value=st.text(
        st.characters(codec="ascii", exclude_characters="&#+%\0\r\n"), min_size=0, max_size=8
    )
)
def test_any_other_value_of_include_parts_is_refused(native: Native, value: str) -> None:
    response = native.request(
        "GET", f"/upload/{upload_of(native)}/status", params={"include_parts": value}
    )
    if value.lower() in {"true", "false", "0", "1"}:
        assert response.status_code == 200
    else:
        message = assert_problem(response.status_code, response.content, 422, "invalid_field")
        assert "include_parts" in message


_known: dict[str, str] = {}


def upload_of(native: Native) -> str:
    """Return the id of an upload that all examples share."""
    if native.server.url not in _known:
        _known[native.server.url] = native.init(size=5).id
    return _known[native.server.url]


# Not found


def test_unknown_and_cancelled_uploads_are_404(native: Native) -> None:
    upload = native.init()
    native.cancel_raw(upload)
    for upload_id in (upload.id, NOBODY, "x", "%00", "..", "é", "a" * 3000, upload.id.upper()):
        response = native.request("GET", f"/upload/{upload_id}/status")
        if upload_id != "..":  # which the client resolves: another route
            assert_problem(response.status_code, response.content, 404, "upload_not_found")


def test_a_deleted_upload_is_404(native: Native) -> None:
    upload = native.init(size=0)
    native.complete(upload)
    assert native.cancel_raw(upload).status_code == 200
    response = native.request("GET", f"/upload/{upload.id}/status")
    assert_problem(response.status_code, response.content, 404, "upload_not_found")


def test_an_expired_upload_is_gone_for_every_verb(server: Server, native: Native) -> None:
    for upload in (native.init(size=5), failed_upload(native)):
        if native.status(upload)["phase"] == "uploading":
            native.put_all(upload, b"bytes")
        # Time passes: nothing else can make an upload expire.
        change(server, "UPDATE uploads SET expires_at_ms = 1 WHERE id = ?", upload.id)
        for method, path in [
            ("GET", "/status"),
            ("GET", "/tokens"),
            ("POST", "/complete"),
            ("DELETE", ""),
        ]:
            response = native.request(method, f"/upload/{upload.id}{path}")
            assert_problem(response.status_code, response.content, 404, "upload_not_found")
        response = native.put_raw(upload, 0, b"bytes")
        assert_problem(response.status_code, response.content, 404, "upload_not_found")


def test_an_upload_expires_by_itself_with_its_tokens(start_server: Callable[..., Server]) -> None:
    server = start_server(UPLOAD_TTL_HOURS=2 / 3600, CLEANUP_INTERVAL_SECS=1)
    native = Native(server)
    upload, done = native.init(size=5), native.init(size=0)
    path = native.complete(done)["final_path"]
    wait_until(
        lambda: native.request("GET", f"/upload/{upload.id}/status").status_code == 404,
        "the upload has expired",
    )
    response = native.put_raw(upload, 0, b"bytes")
    assert "expired" in assert_problem(
        response.status_code, response.content, 401, "not_authenticated"
    )
    wait_until(lambda: server.staged_files() == [], "its bytes are swept")
    assert native.status(done)["final_path"] == path  # what is complete stays
