"""POST /files: new uploads (tus 1.0.0, "Creation" and "Creation With Upload")."""

from __future__ import annotations

import json
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest

from tests.harness.native import KIB, MIB
from tests.harness.server import Server
from tests.harness.tus import (
    CONTENT_TYPE,
    Tus,
    TusUpload,
    checksum,
    encoded,
    finished_file,
    metadata,
)
from tests.harness.wire import events, nothing_stored, rows, wait_until
from tests.protocols.conftest import LIMIT_BYTES

Content = Callable[[int], bytes]


def row(server: Server, upload: TusUpload) -> dict[str, object]:
    (found,) = rows(server, "SELECT * FROM uploads WHERE id = ?", upload.id)
    return found


def refused(tus: Tus, status: int, headers: dict[str, object], data: bytes | None = None) -> str:
    """Send a creation that must be refused and leave nothing; return the error's code."""
    with nothing_stored(tus.server):
        response = tus.create_raw(headers, data)
    assert response.status_code == status, response.text
    return str(response.json()["code"])


# ---- the answer -------------------------------------------------------------


def test_a_creation_is_201_with_a_location_and_no_body(server: Server, tus: Tus) -> None:
    response = tus.create_raw({"Upload-Length": 100})
    assert response.status_code == 201
    assert response.content == b""
    assert "Upload-Offset" not in response.headers
    upload = TusUpload(response.headers["Location"])
    assert upload.url == f"{server.url}/files/{upload.id}"
    assert tus.offset(upload) == 0
    assert events(server, upload.id) == ["created"]


def test_the_creation_url_may_have_a_slash_at_its_end(tus: Tus) -> None:
    response = tus.request("POST", "/files/", {"Upload-Length": 1})
    assert response.status_code == 201
    assert tus.offset(TusUpload(response.headers["Location"])) == 0


def test_the_answer_tells_when_an_unfinished_upload_expires(server: Server, tus: Tus) -> None:
    response = tus.create_raw({"Upload-Length": 1})
    expires_at = parsedate_to_datetime(response.headers["Upload-Expires"])
    assert response.headers["Upload-Expires"].endswith(" GMT")  # IMF-fixdate, RFC 9110
    stored = row(server, TusUpload(response.headers["Location"]))
    assert int(expires_at.timestamp()) == stored["expires_at_ms"] // 1000  # type: ignore[operator]


def test_the_location_is_what_a_trusted_proxy_says(limited: Server) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "up.example.com"}
    response = Tus(limited).create_raw({"Upload-Length": 1, **headers})
    assert response.headers["Location"].startswith("https://up.example.com/files/")


def test_what_a_stranger_says_of_the_location_is_not_believed(server: Server, tus: Tus) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.com"}
    response = tus.create_raw({"Upload-Length": 1, **headers})
    assert response.headers["Location"].startswith(f"{server.url}/files/")


# ---- the length -------------------------------------------------------------


@pytest.mark.parametrize("length", ["", "-1", "1.5", "1e3", "abc", "0x1"])
def test_a_length_that_is_no_non_negative_integer_is_400(tus: Tus, length: str) -> None:
    assert refused(tus, 400, {"Upload-Length": length}) == "malformed_request"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Length": 1, "Upload-Defer-Length": 1},
        {"Upload-Defer-Length": 0},
        {"Upload-Defer-Length": 2},
        {"Upload-Defer-Length": "yes"},
    ],
)
def test_neither_or_both_of_length_and_deferral_is_400(
    tus: Tus, headers: dict[str, object]
) -> None:
    assert refused(tus, 400, headers) == "malformed_request"


def test_a_length_may_be_deferred(tus: Tus) -> None:
    response = tus.head(tus.create(None))
    assert response.headers["Upload-Defer-Length"] == "1"
    assert response.headers["Upload-Offset"] == "0"
    assert "Upload-Length" not in response.headers


def test_an_upload_of_no_bytes_is_complete_at_once(server: Server, tus: Tus) -> None:
    upload = tus.create(0, Upload_Metadata=metadata(filename="empty.txt"))
    response = tus.head(upload)
    assert (response.headers["Upload-Offset"], response.headers["Upload-Length"]) == ("0", "0")
    path = wait_until(lambda: finished_file(server, upload), "the empty file is stored")
    assert path.read_bytes() == b""
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")
    assert events(server, upload.id) == ["created", "completed", "processing_started", "finalized"]


def test_a_length_over_the_limit_is_413(limited: Server) -> None:
    tus = Tus(limited)
    assert refused(tus, 413, {"Upload-Length": LIMIT_BYTES + 1}) == "upload_too_large"
    assert tus.create(LIMIT_BYTES)


def test_a_length_beyond_every_disk_is_507(tus: Tus) -> None:
    assert refused(tus, 507, {"Upload-Length": 2**63 - 1}) == "storage_full"


@pytest.mark.parametrize("length", [2**63, "9" * 40])
def test_a_length_that_no_file_can_have_is_413(tus: Tus, length: object) -> None:
    """Its client would be told another one, were it stored as the largest there is."""
    assert refused(tus, 413, {"Upload-Length": length}) == "upload_too_large"
    upload = tus.create(None)
    response = tus.patch_raw(upload, 0, b"bytes", Upload_Length=length)
    assert response.status_code == 413
    assert tus.offset(upload) == 0
    assert "Upload-Length" not in tus.head(upload).headers


# ---- metadata ---------------------------------------------------------------


def test_the_filename_becomes_the_stored_name(server: Server, tus: Tus, content: Content) -> None:
    data = content(10)
    for key in ("filename", "name"):
        upload = tus.create(10, Upload_Metadata=metadata(**{key: "videos/grüße & co.mp4"}))
        tus.patch(upload, 0, data)
        path = wait_until(lambda upload=upload: finished_file(server, upload), "it is stored")
        location = server.store.location(f"videos/{upload.id}_grüße & co.mp4")
        assert path == server.file(location)


def test_a_file_without_a_name_gets_one(server: Server, tus: Tus) -> None:
    upload = tus.create(1)
    assert row(server, upload)["filename"] == "file"
    assert row(server, tus.create(1, Upload_Metadata=""))["filename"] == "file"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "a\\b", "x\0y", ".staging/x"])
def test_a_hostile_name_is_400(tus: Tus, name: str) -> None:
    headers = {"Upload-Length": 1, "Upload-Metadata": metadata(filename=name)}
    assert refused(tus, 400, headers) == "invalid_name"


@pytest.mark.parametrize("key", ["filetype", "type"])
def test_the_type_is_kept_with_the_upload(server: Server, tus: Tus, key: str) -> None:
    upload = tus.create(1, Upload_Metadata=metadata(**{key: "video/mp4"}))
    assert row(server, upload)["content_type"] == "video/mp4"


def test_metadata_is_kept_where_people_look(server: Server, tus: Tus) -> None:
    header = f"filename {encoded('a')},blob {encoded(bytes([255]))},flag"
    upload = tus.create(1, Upload_Metadata=header)
    kept = json.loads(str(row(server, upload)["metadata"]))
    assert kept == {"filename": "a", "blob": "/w==", "flag": ""}


@pytest.mark.parametrize("header", ["filename !", "a YQ==,a YQ==", ",", "filename /w=="])
def test_malformed_metadata_is_400(tus: Tus, header: str) -> None:
    assert refused(tus, 400, {"Upload-Length": 1, "Upload-Metadata": header}) == "malformed_request"


# ---- the version ------------------------------------------------------------


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0.1", ""])
def test_another_version_is_412_with_those_that_are_spoken(tus: Tus, version: str | None) -> None:
    with nothing_stored(tus.server):
        response = tus.create_raw({"Upload-Length": 1, "Tus-Resumable": version})
    assert response.status_code == 412
    assert response.headers["Tus-Version"] == "1.0.0"
    assert response.headers["Tus-Resumable"] == "1.0.0"


# ---- creation with upload ---------------------------------------------------


def test_the_first_bytes_may_come_with_the_creation(
    server: Server, tus: Tus, content: Content
) -> None:
    data = content(3 * KIB)
    response = tus.create_raw({"Upload-Length": len(data)}, data[:KIB])
    assert response.status_code == 201
    assert response.headers["Upload-Offset"] == str(KIB)
    assert "Upload-Expires" in response.headers
    upload = TusUpload(response.headers["Location"])
    assert tus.offset(upload) == KIB
    tus.patch(upload, KIB, data[KIB:])
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    assert path.read_bytes() == data


def test_all_bytes_may_come_with_the_creation(server: Server, tus: Tus, content: Content) -> None:
    data = content(MIB)
    response = tus.create_raw({"Upload-Length": len(data)}, data)
    assert response.headers["Upload-Offset"] == str(MIB)
    assert "Upload-Expires" not in response.headers
    upload = TusUpload(response.headers["Location"])
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    assert path.read_bytes() == data
    assert events(server, upload.id)[:2] == ["created", "completed"]


def test_bytes_may_come_with_a_creation_of_deferred_length(tus: Tus, content: Content) -> None:
    response = tus.create_raw({"Upload-Defer-Length": 1}, content(10))
    assert response.headers["Upload-Offset"] == "10"
    assert tus.offset(TusUpload(response.headers["Location"])) == 10


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "text/plain"])
def test_a_body_of_another_type_is_415(tus: Tus, kind: str | None) -> None:
    headers = {"Upload-Length": 5, "Content-Type": kind}
    assert refused(tus, 415, headers, b"bytes") == "unknown_content_type"


def test_a_body_longer_than_the_upload_is_413(tus: Tus) -> None:
    assert refused(tus, 413, {"Upload-Length": 4}, b"bytes") == "body_too_long"


def test_a_chunked_body_longer_than_the_upload_is_413_and_the_upload_is_gone(
    server: Server, tus: Tus
) -> None:
    before = rows(server, "SELECT id FROM uploads WHERE state = 'open'")
    headers = {"Upload-Length": 4, "Content-Type": CONTENT_TYPE}
    response = tus.request("POST", "/files", headers, iter([b"byt", b"es"]))
    assert response.status_code == 413
    assert rows(server, "SELECT id FROM uploads WHERE state = 'open'") == before


def test_a_deferred_body_over_the_limit_is_413(limited: Server, content: Content) -> None:
    tus = Tus(limited)
    response = tus.create_raw({"Upload-Defer-Length": 1}, content(LIMIT_BYTES + 1))
    assert response.status_code == 413


def test_the_bytes_of_a_creation_may_have_a_checksum(
    server: Server, tus: Tus, content: Content
) -> None:
    data = content(1000)
    right = {"Upload-Length": 2000, "Upload-Checksum": checksum(data)}
    assert tus.create_raw(right, data).headers["Upload-Offset"] == "1000"
    before = rows(server, "SELECT id FROM uploads WHERE state = 'open'")
    wrong = {"Upload-Length": 2000, "Upload-Checksum": checksum(b"other bytes")}
    assert tus.create_raw(wrong, data).status_code == 460
    assert rows(server, "SELECT id FROM uploads WHERE state = 'open'") == before


def test_an_empty_body_needs_no_content_type(tus: Tus) -> None:
    response = tus.create_raw({"Upload-Length": 4, "Content-Type": "text/plain"}, b"")
    assert response.status_code == 201
