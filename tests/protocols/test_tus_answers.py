"""What answers of tus say beside their status (tus 1.0.0, "Headers")."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest
import requests

from tests.harness.native import Native
from tests.harness.server import Server
from tests.harness.tus import CONTENT_TYPE, Tus, TusUpload, checksum, metadata
from tests.harness.wire import change, events, wait_until
from tests.protocols.test_tus_auth import expired_session, with_token

pytestmark = pytest.mark.once(why="answers are written alike, whatever stores the files")

Content = Callable[[int], bytes]


def gone(tus: Tus) -> TusUpload:
    upload = tus.create(5)
    tus.delete(upload)
    return upload


def finished(server: Server, tus: Tus) -> TusUpload:
    upload = tus.create(5, b"bytes")
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")
    return upload


def final(tus: Tus, *partials: TusUpload) -> requests.Response:
    return tus.create_raw({"Upload-Concat": f"final;{' '.join(one.url for one in partials)}"})


def test_every_answer_names_the_version_whatever_it_answers(
    server: Server, tus: Tus, waiting: Native
) -> None:
    upload, done, full = tus.create(100), finished(server, tus), tus.partial(b"abc")
    made = final(tus, full)
    stuck = Tus(waiting.server).create(5, b"bytes")
    unknown = "/files/00000000-0000-4000-8000-000000000000"
    wrong = {"Content-Type": CONTENT_TYPE, "Upload-Offset": 0}
    answers = [
        (201, tus.create_raw({"Upload-Length": 5})),
        (201, tus.create_raw({"Upload-Length": 5}, b"byt")),
        (201, tus.create_raw({"Upload-Length": 5}, b"bytes")),
        (201, tus.create_raw({"Upload-Length": 5, "Upload-Concat": "partial"})),
        (201, made),
        (200, tus.head(upload)),
        (200, tus.head(done)),
        (204, tus.patch_raw(upload, 0, b"abc")),
        (204, tus.delete(tus.create(5))),
        (200, tus.request("GET", done)),
        (206, tus.request("GET", done, {"Range": "bytes=1-2"})),
        (304, tus.request("GET", done, {"If-None-Match": f'"{done.id}"'})),
        (204, tus.request("OPTIONS")),
        (400, tus.create_raw({})),
        (401, Tus(server, None).create_raw({"Upload-Length": 5})),
        (403, Tus(server, None).head(upload)),
        (403, tus.patch_raw(TusUpload(made.headers["Location"]), 0, b"x")),
        (404, tus.request("HEAD", unknown)),
        (404, tus.request("PATCH", unknown, wrong, b"x")),
        (404, tus.request("GET", f"{unknown}/more")),
        (405, tus.request("PUT", upload)),
        (409, tus.patch_raw(upload, 50, b"x")),
        (410, tus.head(gone(tus))),
        (412, tus.create_raw({"Upload-Length": 5, "Tus-Resumable": "0.2.2"})),
        (412, tus.request("GET", done, {"If-Match": '"other"'})),
        (413, tus.patch_raw(upload, 3, bytes(98))),
        (415, tus.patch_raw(upload, 3, b"x", Content_Type="text/plain")),
        (416, tus.request("GET", done, {"Range": "bytes=5-"})),
        (423, Tus(waiting.server).delete(stuck)),
        (460, tus.patch_raw(upload, 3, b"x", Upload_Checksum=checksum(b"y"))),
        (501, tus.request("POST", "/files", {"Transfer-Encoding": "br"})),
        (507, tus.create_raw({"Upload-Length": 2**63 - 1})),
    ]
    assert [answer.status_code for _, answer in answers] == [status for status, _ in answers]
    for status, answer in answers:
        assert answer.headers["Tus-Resumable"] == "1.0.0", status
        told = answer.headers.get("Tus-Version")
        is_asked = answer.request.method == "OPTIONS" or status == 412
        assert told == ("1.0.0" if is_asked else None), status


def test_the_expiry_is_told_where_something_expires_and_nowhere_else(
    server: Server, tus: Tus
) -> None:
    upload, done = tus.create(100), finished(server, tus)
    full, slow = tus.partial(b"abc"), tus.partial(b"def", sent=1)
    made, waits = final(tus, full), final(tus, full, slow)
    finals = [TusUpload(answer.headers["Location"]) for answer in (made, waits)]
    wait_until(lambda: "finalized" in events(server, finals[0].id), "it is finalized")
    for answer in (
        tus.create_raw({"Upload-Length": 5}),
        tus.create_raw({"Upload-Length": 5}, b"byt"),
        tus.create_raw({"Upload-Defer-Length": 1}),
        tus.create_raw({"Upload-Length": 0, "Upload-Concat": "partial"}),
        waits,
        tus.head(upload),
        tus.head(full),
        tus.head(finals[1]),
        tus.patch_raw(upload, 0, b"abc"),
        tus.patch_raw(full, 3, b""),
        tus.patch_raw(upload, 50, b"abc"),
    ):
        assert parsedate_to_datetime(answer.headers["Upload-Expires"]), answer.request.method
        assert answer.headers["Upload-Expires"].endswith(" GMT")
    for answer in (
        tus.create_raw({"Upload-Length": 0}),
        tus.create_raw({"Upload-Length": 5}, b"bytes"),
        made,
        tus.head(done),
        tus.head(finals[0]),
        tus.head(gone(tus)),
        tus.patch_raw(done, 5, b""),
        tus.patch_raw(done, 5, b"x"),
        tus.patch_raw(gone(tus), 0, b"x"),
        tus.request("GET", done),
        tus.request("OPTIONS"),
        tus.create_raw({}),
        tus.delete(tus.create(5)),
    ):
        assert "Upload-Expires" not in answer.headers, answer.request.method


def test_no_answer_to_a_head_is_kept_in_a_cache_or_has_a_body(server: Server, tus: Tus) -> None:
    upload, done, expired = tus.create(5), finished(server, tus), tus.create(5)
    change(server, "UPDATE uploads SET expires_at_ms = 1 WHERE id = ?", expired.id)
    answers = [
        (200, tus.head(upload)),
        (200, tus.head(done)),
        (401, with_token(server, expired_session()).head(upload)),
        (403, Tus(server, "wrong").head(upload)),
        (404, tus.request("HEAD", "/files/unknown")),
        (404, tus.request("HEAD", "/files/un/known")),
        (405, tus.request("HEAD", "/files")),
        (410, tus.head(expired)),
        (410, tus.head(gone(tus))),
    ]
    assert [answer.status_code for _, answer in answers] == [status for status, _ in answers]
    for status, answer in answers:
        assert answer.headers["Cache-Control"] == "no-store", status
        assert answer.content == b""
        assert answer.headers.get("Content-Length", "0") == "0"
        assert ("Upload-Offset" in answer.headers) is (status == 200)


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0.0"])
def test_what_only_looks_answers_whatever_version_is_named(
    server: Server, tus: Tus, version: str | None
) -> None:
    done, named = finished(server, tus), {"Tus-Resumable": version}
    told = [tus.request(method, done, named).status_code for method in ("OPTIONS", "HEAD", "GET")]
    assert told == [204, 200, 200]


def test_what_the_creation_said_is_repeated_as_long_as_the_upload_is_there(
    server: Server, tus: Tus
) -> None:
    header = f"{metadata(filename='a.txt')} , flag"
    partial = tus.create(3, b"abc", Upload_Concat="partial", Upload_Metadata=header)
    joined = f"final;{partial.path}  {partial.url}/"
    response = tus.create_raw({"Upload-Concat": joined, "Upload-Metadata": header})
    assert response.headers["Upload-Concat"] == joined
    upload = TusUpload(response.headers["Location"])
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")
    for look, concat in ((tus.head(partial), "partial"), (tus.head(upload), joined)):
        assert look.headers["Upload-Metadata"] == header
        assert look.headers["Upload-Concat"] == concat
