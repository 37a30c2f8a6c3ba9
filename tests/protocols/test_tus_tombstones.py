"""What expires when, what is kept for others, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest

from tests.harness.native import Native
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, finished_file
from tests.harness.wire import change, events, rows, wait_until

Content = Callable[[int], bytes]

HOUR_MS = 3_600_000


def expiry_ms(server: Server, upload: TusUpload) -> int:
    (row,) = rows(server, "SELECT expires_at_ms FROM uploads WHERE id = ?", upload.id)
    return int(row["expires_at_ms"])


def age(server: Server, upload: TusUpload, milliseconds: int) -> None:
    """Let an upload be older than it is."""
    change(
        server,
        "UPDATE uploads SET expires_at_ms = expires_at_ms - ? WHERE id = ?",
        milliseconds,
        upload.id,
    )


def told_ms(header: str) -> int:
    assert header.endswith(" GMT")  # RFC 9110 section 5.6.7: IMF-fixdate
    return int(parsedate_to_datetime(header).timestamp() * 1000)


def test_a_finished_upload_does_not_expire(server: Server, tus: Tus) -> None:
    upload = tus.create(3)
    assert "Upload-Expires" not in tus.patch_raw(upload, 0, b"abc").headers
    assert "Upload-Expires" not in tus.head(upload).headers
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")
    age(server, upload, 1000 * HOUR_MS)
    server.flask("uploads", "cleanup")
    assert tus.offset(upload) == 3
    assert finished_file(server, upload) is not None


def test_any_progress_moves_the_expiry(server: Server, tus: Tus) -> None:
    upload = tus.create(10)
    before = expiry_ms(server, upload)
    age(server, upload, 30_000)
    tus.patch(upload, 0, b"abc")
    assert expiry_ms(server, upload) >= before


def test_an_upload_does_not_expire_under_the_request_that_fills_it(
    server: Server, tus: Tus
) -> None:
    upload = tus.create(10)
    before = expiry_ms(server, upload)
    age(server, upload, 23 * HOUR_MS)
    with tus.open_patch(upload, 0, 10):
        wait_until(lambda: expiry_ms(server, upload) >= before, "it has time again")
        assert tus.offset(upload) == 0


def test_looking_does_not_move_the_expiry(server: Server, tus: Tus) -> None:
    upload = tus.create(10)
    age(server, upload, HOUR_MS)
    before = expiry_ms(server, upload)
    tus.head(upload)
    tus.patch(upload, 0, b"")
    assert expiry_ms(server, upload) == before


@pytest.mark.parametrize("swept", [False, True], ids=["not swept yet", "swept"])
def test_an_expired_upload_is_410_while_its_row_lives(
    server: Server, tus: Tus, native: Native, swept: bool
) -> None:
    upload = tus.create(10)
    tus.patch(upload, 0, b"abc")
    age(server, upload, 1000 * HOUR_MS)
    if swept:
        server.flask("uploads", "cleanup")
        assert not [path for path in server.staged_files() if upload.id in path.name]
        assert events(server, upload.id) == ["created", "abandoned"]
    head = tus.head(upload)
    assert (head.status_code, head.content) == (410, b"")
    assert "Upload-Offset" not in head.headers
    assert tus.patch_raw(upload, 3, b"def").status_code == 410
    assert tus.delete(upload).status_code == 410
    assert tus.request("GET", upload).status_code == 410


def test_the_row_goes_after_a_week_and_then_it_is_404(server: Server, tus: Tus) -> None:
    expired, terminated, finished = tus.create(10), tus.create(10), tus.create(3, b"abc")
    age(server, expired, 1000 * HOUR_MS)
    tus.delete(terminated)
    wait_until(lambda: "finalized" in events(server, finished.id), "it is finalized")
    tus.delete(finished)
    server.flask("uploads", "cleanup")
    for upload in (expired, terminated, finished):
        assert tus.head(upload).status_code == 410
        change(
            server,
            "UPDATE uploads SET ended_at_ms = ended_at_ms - ? WHERE id = ?",
            7 * 24 * HOUR_MS,
            upload.id,
        )
    swept = server.flask("uploads", "cleanup").stdout
    for upload in (expired, terminated, finished):
        assert f"tombstone  {upload.id}" in swept
        assert tus.head(upload).status_code == 404
        assert rows(server, "SELECT * FROM events WHERE upload_id = ?", upload.id) == []


def test_a_partial_upload_expires_though_it_is_full(server: Server, tus: Tus) -> None:
    partial = tus.partial(b"abc")
    age(server, partial, 1000 * HOUR_MS)
    server.flask("uploads", "cleanup")
    assert tus.head(partial).status_code == 410
    assert not [path for path in server.staged_files() if partial.id in path.name]


def test_partials_that_a_waiting_upload_needs_are_kept(server: Server, tus: Tus) -> None:
    full, slow = tus.partial(b"abc"), tus.partial(b"def", sent=1)
    response = tus.create_raw({"Upload-Concat": f"final;{full.url} {slow.url}"})
    final = TusUpload(response.headers["Location"])
    age(server, full, 1000 * HOUR_MS)
    server.flask("uploads", "cleanup")
    tus.patch(slow, 1, b"ef")
    path = wait_until(lambda: finished_file(server, final), "the file is stored")
    assert path.read_bytes() == b"abcdef"
    age(server, full, 1000 * HOUR_MS)
    server.flask("uploads", "cleanup")  # nothing needs it any more
    assert not [path for path in server.staged_files() if full.id in path.name]


def test_partials_that_a_waiting_upload_needs_can_be_filled_one_after_the_other(
    server: Server, tus: Tus
) -> None:
    first, second = tus.partial(b"abc", sent=1), tus.partial(b"def", sent=1)
    final = tus.create_raw({"Upload-Concat": f"final;{first.url} {second.url}"})
    upload = TusUpload(final.headers["Location"])
    age(server, second, 23 * HOUR_MS)  # while the first one was being filled
    told = tus.patch_raw(first, 1, b"bc").headers["Upload-Expires"]
    head = tus.head(second)
    assert (head.status_code, head.headers["Upload-Offset"]) == (200, "1")
    assert head.headers["Upload-Expires"] == tus.head(upload).headers["Upload-Expires"] == told
    tus.patch(second, 1, b"ef")
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    assert path.read_bytes() == b"abcdef"


def test_a_waiting_upload_lives_as_long_as_its_partials_make_progress(
    server: Server, tus: Tus
) -> None:
    slow = tus.partial(b"def", sent=1)
    response = tus.create_raw({"Upload-Concat": f"final;{slow.url}"})
    final = TusUpload(response.headers["Location"])
    fresh = expiry_ms(server, final)
    for upload in (final, slow):
        age(server, upload, HOUR_MS)
    tus.patch(slow, 1, b"e")
    assert expiry_ms(server, final) >= fresh
    assert expiry_ms(server, final) == expiry_ms(server, slow)


def test_a_waiting_upload_that_nobody_fills_expires_before_its_partials(
    server: Server, tus: Tus
) -> None:
    slow = tus.partial(b"def", sent=1)
    response = tus.create_raw({"Upload-Concat": f"final;{slow.url}"})
    final = TusUpload(response.headers["Location"])
    for upload in (final, slow):
        age(server, upload, 1000 * HOUR_MS)
    for _ in range(2):
        server.flask("uploads", "cleanup")
    assert tus.head(final).status_code == 410
    assert tus.head(slow).status_code == 410
    staged = [path.name for path in server.staged_files()]
    assert not [name for name in staged if final.id in name or slow.id in name]
