"""HEAD /files/{id}: how far an upload is (tus 1.0.0, Core Protocol, "HEAD")."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.harness.native import Native
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, encoded, metadata
from tests.harness.wire import change, wait_until

UNKNOWN = "/files/00000000-0000-4000-8000-000000000000"


def test_it_tells_offset_and_length_at_the_beginning_too(tus: Tus) -> None:
    response = tus.head(tus.create(100))
    assert response.status_code == 200
    assert response.headers["Upload-Offset"] == "0"
    assert response.headers["Upload-Length"] == "100"
    assert "Upload-Defer-Length" not in response.headers
    assert response.content == b""


def test_it_tells_the_offset_of_a_finished_upload(server: Server, tus: Tus) -> None:
    upload = tus.create(5, b"bytes")
    wait_until(
        lambda: Native(server).request("GET", f"/download/{upload.id}").status_code == 200,
        "the upload is complete",
    )
    response = tus.head(upload)
    assert (response.headers["Upload-Offset"], response.headers["Upload-Length"]) == ("5", "5")
    assert "Upload-Expires" not in response.headers


def test_it_is_never_cached(tus: Tus) -> None:
    assert tus.head(tus.create(1)).headers["Cache-Control"] == "no-store"
    assert tus.request("HEAD", UNKNOWN).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", [UNKNOWN, "/files/x", "/files/%00", "/files/" + "x" * 5000])
def test_an_unknown_upload_is_404_without_offset_and_body(tus: Tus, path: str) -> None:
    response = tus.request("HEAD", path)
    assert response.status_code == 404
    assert "Upload-Offset" not in response.headers
    assert response.headers.get("Content-Length", "0") == "0"
    assert response.content == b""


def test_an_upload_by_another_protocol_is_404(server: Server, tus: Tus, native: Native) -> None:
    upload = native.init(size=5)
    assert tus.request("HEAD", f"/files/{upload.id}").status_code == 404
    assert native.request("GET", f"/upload/{tus.create(5).id}/status").status_code == 404


@pytest.mark.parametrize(
    "header",
    [
        metadata(filename="a.txt", author="grüße"),
        f"filename {encoded('a')} , flag,empty ",
        f"name   {encoded('x')}",
    ],
)
def test_it_repeats_the_metadata_as_they_were_sent(tus: Tus, header: str) -> None:
    response = tus.head(tus.create(5, Upload_Metadata=header))
    assert response.headers["Upload-Metadata"] == header.strip()


def test_it_names_no_metadata_where_there_are_none(tus: Tus) -> None:
    assert "Upload-Metadata" not in tus.head(tus.create(5)).headers
    assert "Upload-Metadata" not in tus.head(tus.create(5, Upload_Metadata="")).headers


def test_a_deferred_length_is_told_as_long_as_it_is_unknown(tus: Tus) -> None:
    upload = tus.create(None)
    for sent in (0, 3):
        tus.patch(upload, sent, b"abc")
        response = tus.head(upload)
        assert response.headers["Upload-Defer-Length"] == "1"
        assert "Upload-Length" not in response.headers
    tus.patch(upload, 6, b"abc", Upload_Length=10)
    response = tus.head(upload)
    assert response.headers["Upload-Length"] == "10"
    assert "Upload-Defer-Length" not in response.headers


def test_it_tells_when_an_unfinished_upload_expires(tus: Tus) -> None:
    created = tus.create_raw({"Upload-Length": 5})
    upload = TusUpload(created.headers["Location"])
    assert tus.head(upload).headers["Upload-Expires"] == created.headers["Upload-Expires"]


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0.0"])
def test_it_does_not_demand_a_version(tus: Tus, version: str | None) -> None:
    assert tus.head(tus.create(1), Tus_Resumable=version).status_code == 200


def test_the_url_may_have_a_slash_at_its_end(tus: Tus) -> None:
    assert tus.request("HEAD", tus.create(1).url + "/").status_code == 200


@pytest.mark.not_in("s3-staged", why="what waits on the disk goes on without the bucket")
def test_trouble_that_passes_is_503_never_4xx(
    fragile: Server, storage_away: Callable[[], AbstractContextManager[None]]
) -> None:
    """tus-js-client forgets an upload after any 4xx and begins anew."""
    tus = Tus(fragile)
    upload = tus.create(5)
    with storage_away():
        assert tus.head(upload).status_code == 200  # the ledger knows
        assert tus.patch_raw(upload, 0, b"bytes").status_code == 503
        assert tus.offset(upload) == 0
    change(fragile, "ALTER TABLE uploads RENAME TO away")
    try:
        response = tus.head(upload)
    finally:
        change(fragile, "ALTER TABLE away RENAME TO uploads")
    assert response.status_code == 503
    assert response.content == b""
    assert tus.patch(upload, 0, b"bytes") == 5
