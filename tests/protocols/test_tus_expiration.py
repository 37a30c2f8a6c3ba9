"""Upload-Expires, and what has expired (tus 1.0.0, Expiration)."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest
import requests

from tests.harness.server import Server
from tests.harness.tus import Tus, checksum
from tests.harness.wire import change

Content = Callable[[int], bytes]

HOUR_SECONDS = 3600


def expiry(response: requests.Response) -> float:
    """Return when an upload expires, in seconds since 1970."""
    header = response.headers["Upload-Expires"]
    assert header.endswith(" GMT")  # IMF-fixdate, RFC 9110 section 5.6.7
    return parsedate_to_datetime(header).timestamp()


def test_every_answer_to_a_patch_of_an_unfinished_upload_tells_its_expiry(
    tus: Tus, content: Content
) -> None:
    upload = tus.create(100)
    for offset in (0, 50):
        response = tus.patch_raw(upload, offset, content(50 - offset))
        assert expiry(response) == pytest.approx(time.time() + 24 * HOUR_SECONDS, abs=120)


@pytest.mark.parametrize(
    ("offset", "length", "told", "status"),
    [
        (1, 1, {}, 409),
        (0, 101, {}, 413),
        (0, 1, {"Upload_Checksum": checksum(b"another")}, 460),
        (0, 1, {"Upload_Checksum": "sha1 !"}, 400),
        (0, 1, {"Content_Type": "text/plain"}, 415),
        ("none", 1, {}, 400),
    ],
)
def test_a_refused_patch_tells_the_expiry_too(
    tus: Tus, content: Content, offset: int, length: int, told: dict[str, str], status: int
) -> None:
    upload = tus.create(100)
    response = tus.patch_raw(upload, offset, content(length), **told)
    assert response.status_code == status
    assert response.headers["Upload-Expires"] == tus.head(upload).headers["Upload-Expires"]


def test_a_patch_of_what_is_not_there_tells_no_expiry(tus: Tus, content: Content) -> None:
    upload = tus.create(100)
    tus.delete(upload)
    response = tus.patch_raw(upload, 0, content(1))
    assert (response.status_code, "Upload-Expires" in response.headers) == (410, False)


def test_a_complete_upload_does_not_expire(tus: Tus, content: Content) -> None:
    upload = tus.create(100)
    assert "Upload-Expires" not in tus.patch_raw(upload, 0, content(100)).headers
    assert "Upload-Expires" not in tus.head(upload).headers


def test_progress_moves_the_expiry_on(server: Server, tus: Tus, content: Content) -> None:
    upload = tus.create(100)
    soon = int(time.time() + HOUR_SECONDS) * 1000
    change(server, "UPDATE uploads SET expires_at_ms = ? WHERE id = ?", soon, upload.id)
    assert expiry(tus.head(upload)) * 1000 == soon
    assert expiry(tus.patch_raw(upload, 0, content(1))) * 1000 > soon


def test_an_expired_upload_is_410(server: Server, tus: Tus, content: Content) -> None:
    upload = tus.create(100)
    change(server, "UPDATE uploads SET expires_at_ms = 1 WHERE id = ?", upload.id)
    head = tus.head(upload)
    assert head.status_code == 410
    assert "Upload-Offset" not in head.headers
    assert tus.patch_raw(upload, 0, content(1)).status_code == 410
    assert tus.delete(upload).status_code == 410


def test_an_expired_upload_stays_410_when_it_has_been_removed_and_is_404_in_the_end(
    server: Server, tus: Tus
) -> None:
    upload = tus.create(100)
    change(server, "UPDATE uploads SET expires_at_ms = 1 WHERE id = ?", upload.id)
    server.flask("uploads", "cleanup")
    assert not [path for path in server.staged_files() if upload.id in path.name]
    assert tus.head(upload).status_code == 410
    change(server, "UPDATE uploads SET ended_at_ms = 1 WHERE id = ?", upload.id)
    server.flask("uploads", "cleanup")
    assert tus.head(upload).status_code == 404
