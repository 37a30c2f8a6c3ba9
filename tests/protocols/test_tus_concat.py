"""Upload-Concat: uploads made of others (tus 1.0.0, "Concatenation")."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import requests

from tests.harness.native import KIB, Native
from tests.harness.server import Server
from tests.harness.tus import CONTENT_TYPE, Tus, TusUpload, finished_file, metadata
from tests.harness.wire import events, nothing_stored, rows, wait_until
from tests.protocols.conftest import LIMIT_BYTES

Content = Callable[[int], bytes]


def final_raw(tus: Tus, urls: Sequence[str], **headers: object) -> requests.Response:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return tus.create_raw({"Upload-Concat": f"final;{' '.join(urls)}", **told})


def final(tus: Tus, *partials: TusUpload, **headers: object) -> TusUpload:
    response = final_raw(tus, [partial.url for partial in partials], **headers)
    assert response.status_code == 201, response.text
    return TusUpload(response.headers["Location"])


def stored(server: Server, upload: TusUpload) -> bytes:
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    return path.read_bytes()


def wait_complete(server: Server, upload: TusUpload) -> None:
    wait_until(lambda: "finalized" in events(server, upload.id), "it is finalized")


# ---- partial uploads --------------------------------------------------------


def test_a_partial_upload_says_what_it_is(tus: Tus) -> None:
    response = tus.create_raw({"Upload-Concat": "partial", "Upload-Length": 5})
    assert response.status_code == 201
    assert response.headers["Upload-Concat"] == "partial"
    upload = TusUpload(response.headers["Location"])
    for sent in (b"", b"by", b"tes"):
        offset = tus.offset(upload)
        assert tus.patch(upload, offset, sent) == offset + len(sent)
        head = tus.head(upload)
        assert head.headers["Upload-Concat"] == "partial"
        assert head.headers["Upload-Offset"] == str(offset + len(sent))


def test_a_final_upload_s_id_begins_as_those_of_its_partial_ones(tus: Tus) -> None:
    """By that a load balancer sends it to the node that has them."""
    tus.usual["X-Upload-Family"] = "0123abcd"
    partials = [tus.partial(b"a"), tus.partial(b"b")]
    del tus.usual["X-Upload-Family"]
    ids = [upload.id for upload in (*partials, final(tus, *partials))]
    assert len(set(ids)) == 3
    assert {upload_id[:8] for upload_id in ids} == {"0123abcd"}


@pytest.mark.parametrize("length", [0, 5])
def test_a_full_partial_upload_is_not_processed(server: Server, tus: Tus, length: int) -> None:
    upload = tus.partial(b"bytes"[:length])
    head = tus.head(upload)
    assert head.headers["Upload-Offset"] == head.headers["Upload-Length"] == str(length)
    assert "Upload-Expires" in head.headers  # it stays until it expires
    assert events(server, upload.id) == ["created"]
    assert finished_file(server, upload) is None
    assert tus.patch(upload, length, b"") == length
    assert tus.patch_raw(upload, length, b"x").status_code == 413
    assert tus.patch_raw(upload, length, iter([b"x"])).status_code == 413


# ---- final uploads ----------------------------------------------------------


def test_partials_are_joined_in_the_order_that_is_given(
    server: Server, tus: Tus, content: Content
) -> None:
    pieces = [content(random.randint(1, 300 * KIB)) for _ in range(4)]
    partials = [tus.partial(piece) for piece in pieces]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        upload = final(tus, *(partials[index] for index in order))
        assert stored(server, upload) == b"".join(pieces[index] for index in order)


def test_a_final_upload_has_the_length_of_its_partials_and_says_what_it_is(
    server: Server, tus: Tus
) -> None:
    partials = [tus.partial(b"hello "), tus.partial(b"world")]
    header = f"final;{partials[0].path} {partials[1].url}"
    response = tus.create_raw({"Upload-Concat": header})
    assert response.status_code == 201
    assert response.headers["Upload-Concat"] == header
    upload = TusUpload(response.headers["Location"])
    wait_complete(server, upload)
    head = tus.head(upload)
    assert head.status_code == 200
    assert head.headers["Upload-Concat"] == header
    assert head.headers["Upload-Length"] == head.headers["Upload-Offset"] == "11"
    assert "Upload-Expires" not in head.headers
    assert events(server, upload.id) == ["created", "completed", "processing_started", "finalized"]


def test_the_file_is_there_when_the_final_upload_is_created(server: Server, tus: Tus) -> None:
    """Where the storage is quick: clients do nothing more after this request."""
    upload = final(tus, tus.partial(b"a"), tus.partial(b"b"))
    assert finished_file(server, upload) is not None


@pytest.mark.parametrize("separator", ["final;", "final; ", "final ;", "final ; "])
@pytest.mark.parametrize("form", ["absolute", "path", "name", "slash", "foreign host"])
def test_urls_may_be_absolute_or_relative(
    server: Server, tus: Tus, separator: str, form: str
) -> None:
    partial = tus.partial(b"abc")
    url = {
        "absolute": partial.url,
        "path": partial.path,
        "name": partial.id,
        "slash": partial.url + "/",
        "foreign host": f"https://uploads.example.com/prefix{partial.path}",
    }[form]
    response = tus.create_raw({"Upload-Concat": f"{separator}{url} {url}"})
    assert response.status_code == 201
    assert stored(server, TusUpload(response.headers["Location"])) == b"abcabc"


def test_a_partial_may_be_used_again(server: Server, tus: Tus) -> None:
    first, second = tus.partial(b"ab"), tus.partial(b"cd")
    assert stored(server, final(tus, first, second, first)) == b"abcdab"
    assert stored(server, final(tus, second)) == b"cd"
    assert tus.offset(first) == 2  # usable still


def test_nothing_of_partials_s_metadata_is_inherited(server: Server, tus: Tus) -> None:
    partial = tus.create(3, b"abc", Upload_Concat="partial", Upload_Metadata=metadata(name="x.txt"))
    plain = final(tus, partial)
    assert "Upload-Metadata" not in tus.head(plain).headers
    named = final(tus, partial, Upload_Metadata=metadata(filename="videos/whole.mp4"))
    assert tus.head(named).headers["Upload-Metadata"] == metadata(filename="videos/whole.mp4")
    wait_complete(server, named)
    path = finished_file(server, named)
    assert path == server.file(server.store.location(f"videos/{named.id}_whole.mp4"))


def test_a_final_upload_of_nothing_is_an_empty_file(server: Server, tus: Tus) -> None:
    assert stored(server, final(tus, tus.partial(b""), tus.partial(b""))) == b""


# ---- what is refused --------------------------------------------------------


def test_patch_of_a_final_upload_is_403_and_changes_nothing(server: Server, tus: Tus) -> None:
    partial = tus.partial(b"abc")
    done = final(tus, partial)
    wait_complete(server, done)
    waiting = final(tus, tus.partial(b"defghi", sent=3))
    for upload, offset in ((done, 3), (done, 0), (waiting, 0), (waiting, 3)):
        for body in (b"", b"xyz"):
            assert tus.patch_raw(upload, offset, body).status_code == 403
    assert stored(server, done) == b"abc"
    assert tus.offset(partial) == 3


@pytest.mark.parametrize("header", ["Upload-Length", "Upload-Defer-Length"])
def test_a_final_upload_with_a_length_is_400(tus: Tus, header: str) -> None:
    partial = tus.partial(b"abc")
    with nothing_stored(tus.server):
        response = final_raw(tus, [partial.url], **{header: 3})
    assert response.status_code == 400


def test_a_final_upload_with_a_body_is_403(tus: Tus) -> None:
    partial = tus.partial(b"abc")
    with nothing_stored(tus.server):
        headers = {"Upload-Concat": f"final;{partial.url}", "Content-Type": CONTENT_TYPE}
        response = tus.create_raw(headers, b"bytes")
    assert response.status_code == 403


@pytest.mark.parametrize(
    "header", ["", "final", "final;", "final; ", "partially", "final /files/a"]
)
def test_a_malformed_header_is_400(tus: Tus, header: str) -> None:
    with nothing_stored(tus.server):
        response = tus.create_raw({"Upload-Concat": header, "Upload-Length": 3})
    assert response.status_code == 400


def test_unknown_ended_and_foreign_partials_are_404(
    server: Server, tus: Tus, native: Native
) -> None:
    ended = tus.partial(b"abc")
    tus.delete(ended)
    foreign = native.init(size=3)
    known = tus.partial(b"abc")
    for url in ("/files/unknown", ended.url, f"/files/{foreign.id}"):
        with nothing_stored(server):
            response = final_raw(tus, [known.url, url])
        assert response.status_code in (404, 410)


def test_what_is_not_partial_is_400(server: Server, tus: Tus) -> None:
    whole = tus.create(10)
    made = final(tus, tus.partial(b"abc"))
    deferred = tus.create(None, Upload_Concat="partial")
    wait_complete(server, made)
    for upload in (whole, made, deferred):
        with nothing_stored(server):
            assert final_raw(tus, [upload.url]).status_code == 400


def test_a_sum_over_the_limit_is_413(limited: Server, content: Content) -> None:
    tus = Tus(limited)
    partial = tus.partial(content(LIMIT_BYTES // 2 + 1))
    assert final_raw(tus, [partial.url, partial.url]).status_code == 413
    assert final_raw(tus, [partial.url]).status_code == 201


# ---- concatenation of unfinished uploads ------------------------------------


def test_a_final_upload_waits_for_its_partials(server: Server, tus: Tus, content: Content) -> None:
    pieces = [content(1000), content(2000), content(3000)]
    partials = [
        tus.partial(piece, sent=sent) for piece, sent in zip(pieces, (1000, 500, 0), strict=True)
    ]
    upload = final(tus, *partials)
    for index, sent in ((2, 0), (1, 500)):
        head = tus.head(upload)
        assert head.status_code == 200
        assert head.headers["Upload-Length"] == "6000"  # it can be calculated
        assert "Upload-Offset" not in head.headers
        assert "Upload-Expires" in head.headers
        assert finished_file(server, upload) is None
        tus.patch(partials[index], sent, pieces[index][sent:])
    assert stored(server, upload) == b"".join(pieces)
    wait_complete(server, upload)
    head = tus.head(upload)
    assert head.headers["Upload-Offset"] == head.headers["Upload-Length"] == "6000"
    assert events(server, upload.id).count("completed") == 1


def test_one_partial_can_finish_several_waiting_uploads(server: Server, tus: Tus) -> None:
    full, slow = tus.partial(b"abc"), tus.partial(b"def", sent=1)
    uploads = [final(tus, full, slow), final(tus, slow, slow), final(tus, slow)]
    tus.patch(slow, 1, b"ef")
    assert [stored(server, upload) for upload in uploads] == [b"abcdef", b"defdef", b"def"]


def test_a_waiting_upload_fails_when_a_partial_is_deleted(server: Server, tus: Tus) -> None:
    full, slow = tus.partial(b"abc"), tus.partial(b"def", sent=1)
    upload = final(tus, full, slow)
    assert tus.delete(full).status_code == 204
    query = "SELECT error FROM uploads WHERE id = ? AND state = 'failed'"
    (failed,) = wait_until(lambda: rows(server, query, upload.id), "the final upload has failed")
    assert "partial upload" in failed["error"]
    head = tus.head(upload)  # nothing will come of it: its client is to start anew
    assert head.status_code == 410
    assert "Upload-Offset" not in head.headers
    assert tus.request("GET", upload).status_code == 409
    assert "completed" not in events(server, upload.id)
    assert tus.delete(upload).status_code == 204


def test_an_upload_that_cannot_be_made_is_409_and_gone(server: Server, tus: Tus) -> None:
    partial = tus.partial(b"abc")
    (staged,) = [path for path in server.staged_files() if partial.id in path.name]
    staged.unlink()
    response = final_raw(tus, [partial.url])
    assert response.status_code == 409  # which tus-js-client tries again, asking for offsets first
    assert "partial upload" in response.json()["error"]
    query = "SELECT id FROM uploads WHERE concat = 'final' AND state = 'failed'"
    assert rows(server, query) == []
    assert tus.offset(partial) == 0
    tus.patch(partial, 0, b"abc")
    assert stored(server, final(tus, partial)) == b"abc"


def test_a_waiting_upload_can_be_terminated(server: Server, tus: Tus) -> None:
    slow = tus.partial(b"def", sent=1)
    upload = final(tus, slow)
    assert tus.delete(upload).status_code == 204
    assert tus.patch(slow, 1, b"ef") == 3
    assert tus.head(upload).status_code in (404, 410)
    assert events(server, upload.id) == ["created", "deleted"]


def test_partials_may_go_once_the_file_is_there(server: Server, tus: Tus) -> None:
    partials = [tus.partial(b"abc"), tus.partial(b"def")]
    upload = final(tus, *partials)
    wait_complete(server, upload)
    for partial in partials:
        assert tus.delete(partial).status_code == 204
    assert stored(server, upload) == b"abcdef"
