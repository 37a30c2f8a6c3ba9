"""GET and HEAD /download/{id}: finished files read back, header rule by header rule."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime

import pytest
import requests
from werkzeug.http import parse_options_header

from tests.harness.native import MIB, Native
from tests.harness.places import Place
from tests.harness.server import Server
from tests.harness.wire import assert_problem, change, wait_until

pytestmark = pytest.mark.any_part_size

LENGTH = MIB + 12_345


@dataclass(frozen=True)
class Finished:
    """A finished upload and its bytes."""

    server: Server
    id: str
    content: bytes

    def ask(self, method: str = "GET", **headers: str) -> requests.Response:
        """Request the file; an underscore in a header's name stands for a hyphen."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        native = Native(self.server)
        return native.request(method, f"/download/{self.id}", headers=native.headers | named)

    @property
    def etag(self) -> str:
        return self.ask("HEAD").headers["ETag"]

    @property
    def modified_at(self) -> datetime:
        return parsedate_to_datetime(self.ask("HEAD").headers["Last-Modified"])


def finish(native: Native, content: bytes, filename: str = "movie.mp4") -> Finished:
    """Upload a file by the native protocol and complete it."""
    upload = native.init(filename, size=len(content))
    native.put_all(upload, content)
    native.complete(upload)
    return Finished(native.server, upload.id, content)


@pytest.fixture(scope="module")
def file(server: Server) -> Finished:
    """A finished file, not to be changed."""
    return finish(Native(server), random.randbytes(LENGTH))


def assert_range(response: requests.Response, file: Finished, start: int, end: int) -> None:
    """Assert that an answer is exactly the bytes ``start`` to ``end`` (exclusive)."""
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(file.content)}"
    assert response.headers["Content-Length"] == str(end - start)
    assert response.content == file.content[start:end]


def assert_whole(response: requests.Response, file: Finished) -> None:
    """Assert that an answer is the whole file."""
    assert response.status_code == 200
    assert "Content-Range" not in response.headers
    assert response.content == file.content


def test_a_finished_file_is_sent_whole(file: Finished) -> None:
    response = file.ask()
    assert_whole(response, file)
    assert response.headers["Content-Length"] == str(LENGTH)
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Content-Disposition"] == "attachment; filename=movie.mp4"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "private, no-cache"


def test_head_tells_what_get_would_without_a_body(file: Finished) -> None:
    got, told = file.ask(), file.ask("HEAD")
    assert told.status_code == 200
    assert told.content == b""
    unlike = {"date", "x-request-id", "connection", "server"}
    assert {k: v for k, v in told.headers.items() if k.lower() not in unlike} == {
        k: v for k, v in got.headers.items() if k.lower() not in unlike
    }


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, LENGTH),
        ("bytes=5-1000", 5, 1001),
        ("bytes=1000-99999999999", 1000, LENGTH),
        ("bytes=-1", LENGTH - 1, LENGTH),
        ("bytes=-500", LENGTH - 500, LENGTH),
        ("bytes=-99999999999", 0, LENGTH),
        (f"bytes={LENGTH - 1}-", LENGTH - 1, LENGTH),
        ("Bytes = 5 - 9", 5, 10),
    ],
)
def test_one_range_is_sent_as_206(file: Finished, header: str, start: int, end: int) -> None:
    assert_range(file.ask(Range=header), file, start, end)


@pytest.mark.parametrize("header", [f"bytes={LENGTH}-", f"bytes={LENGTH + 5}-{LENGTH + 9}"])
def test_a_range_beyond_the_end_is_416_and_tells_the_length(file: Finished, header: str) -> None:
    response = file.ask(Range=header)
    assert_problem(response.status_code, response.content, 416, "requested_range_not_satisfiable")
    assert response.headers["Content-Range"] == f"bytes */{LENGTH}"


@pytest.mark.parametrize(
    "header",
    ["bytes=0-1,5-6", "bytes=5-6,0-1", "lines=1-2", "bytes=9-5", "bytes=a-b", "bytes", "bytes=-0"],
)
def test_several_ranges_and_malformed_ones_get_the_whole(file: Finished, header: str) -> None:
    assert_whole(file.ask(Range=header), file)


def test_a_range_means_nothing_to_head(file: Finished) -> None:
    response = file.ask("HEAD", Range="bytes=0-9")
    assert (response.status_code, response.headers["Content-Length"]) == (200, str(LENGTH))


def session_token(server: Server, owner: str, **fields: object) -> str:
    """Mint a session token with the API key."""
    document = {"owner": owner, **fields}
    return str(Native(server).request("POST", "/upload/session", json=document).json()["token"])


def give_to(server: Server, file: Finished, owner: str, protocol: str) -> None:
    """Make an upload another owner's, as if it had come by another protocol."""
    statement = "UPDATE uploads SET owner = ?, protocol = ? WHERE id = ?"
    change(server, statement, owner, protocol, file.id)


@pytest.fixture
def of_ann(server: Server) -> Finished:
    """A finished file of the session user ann, uploaded by tus."""
    file = finish(Native(server), random.randbytes(1000))
    give_to(server, file, "user:admin/ann", "tus")
    return file


def fetch(file: Finished, token: str, *, by: str) -> requests.Response:
    """Ask for a file with a session token: as a ``bearer``, or in the ``query``."""
    url = f"{file.server.url}/download/{file.id}"
    if by == "query":
        return requests.get(url, params={"upload_token": token}, timeout=60)
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=60)


@pytest.mark.parametrize("by", ["bearer", "query"])
def test_a_session_reads_what_its_user_uploaded(of_ann: Finished, by: str) -> None:
    response = fetch(of_ann, session_token(of_ann.server, "ann"), by=by)
    assert_whole(response, of_ann)


def test_another_owners_file_is_not_found(of_ann: Finished) -> None:
    response = fetch(of_ann, session_token(of_ann.server, "bob"), by="bearer")
    assert_problem(response.status_code, response.content, 404, "upload_not_found")


def test_a_session_for_other_protocols_may_not_read_it(of_ann: Finished) -> None:
    token = session_token(of_ann.server, "ann", protocols=["pipe"])
    response = fetch(of_ann, token, by="bearer")
    assert_problem(response.status_code, response.content, 403, "not_authorized")
    token = session_token(of_ann.server, "ann", protocols=["pipe", "tus"])
    assert_whole(fetch(of_ann, token, by="bearer"), of_ann)


def test_the_admin_reads_everybodys_files(of_ann: Finished) -> None:
    assert_whole(of_ann.ask(), of_ann)


def test_without_credentials_nothing_is_told(file: Finished) -> None:
    for path in (file.id, "00000000-0000-4000-8000-000000000000"):
        response = requests.get(f"{file.server.url}/download/{path}", timeout=60)
        assert_problem(response.status_code, response.content, 401, "not_authenticated")


@pytest.mark.parametrize("path", ["00000000-0000-4000-8000-000000000000", "x", "%00", "a%00b"])
def test_an_unknown_id_is_not_found(native: Native, path: str) -> None:
    response = native.request("GET", f"/download/{path}")
    assert_problem(response.status_code, response.content, 404, "upload_not_found")


def test_an_unfinished_upload_in_parts_says_how_far_it_is(native: Native, part_bytes: int) -> None:
    upload = native.init(size=3 * part_bytes)
    native.put(upload, 1, random.randbytes(part_bytes))
    response = native.request("GET", f"/download/{upload.id}")
    message = assert_problem(response.status_code, response.content, 409, "upload_unfinished")
    assert message.startswith("Upload is open: 1 of 3 parts have arrived;")
    assert int(response.headers["Retry-After"]) > 0


def test_a_cancelled_upload_and_a_deleted_file_are_not_found(native: Native) -> None:
    upload = native.init()
    native.cancel_raw(upload)
    file = finish(native, b"gone")
    assert native.request("DELETE", f"/upload/{file.id}").status_code == 200
    for upload_id in (upload.id, file.id):
        response = native.request("GET", f"/download/{upload_id}")
        assert_problem(response.status_code, response.content, 404, "upload_gone")


def test_a_client_that_has_the_file_is_told_so(file: Finished) -> None:
    for condition in (
        {"If_None_Match": file.etag},
        {"If_Modified_Since": format_datetime(file.modified_at, usegmt=True)},
    ):
        for method in ("GET", "HEAD"):
            response = file.ask(method, **condition)
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["ETag"] == file.etag
            assert "Content-Type" not in response.headers
            assert "Content-Disposition" not in response.headers


def test_a_download_is_taken_up_again_if_the_file_is_the_same(file: Finished) -> None:
    modified_at = format_datetime(file.modified_at, usegmt=True)
    for same in (file.etag, modified_at):
        assert_range(file.ask(Range="bytes=1000-", If_Range=same), file, 1000, LENGTH)
    earlier = format_datetime(file.modified_at - timedelta(seconds=1), usegmt=True)
    for other in ('"other"', f"W/{file.etag}", earlier):
        assert_whole(file.ask(Range="bytes=1000-", If_Range=other), file)


def test_a_condition_that_fails_is_412(file: Finished) -> None:
    response = file.ask(If_Match='"other"')
    assert_problem(response.status_code, response.content, 412, "precondition_failed")


def test_two_files_have_two_etags_and_a_file_keeps_its_own(native: Native, file: Finished) -> None:
    other = finish(native, file.content)
    assert file.etag == file.etag != other.etag
    assert file.etag.startswith('"')


def test_an_empty_file_is_sent(native: Native) -> None:
    empty = finish(native, b"")
    response = empty.ask()
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Length"] == "0"
    assert empty.ask(Range="bytes=0-").status_code == 416
    assert empty.ask(Range="bytes=-5").status_code == 200


def test_a_type_that_runs_nothing_is_shown_and_others_are_saved(native: Native) -> None:
    picture = finish(native, b"not really", "ein Bild.png")
    change(native.server, "UPDATE uploads SET content_type = 'image/png' WHERE id = ?", picture.id)
    told = picture.ask().headers
    assert told["Content-Type"] == "image/png"
    assert told["Content-Disposition"] == 'inline; filename="ein Bild.png"'
    assert told["Content-Security-Policy"] == "sandbox"
    change(native.server, "UPDATE uploads SET content_type = 'text/html' WHERE id = ?", picture.id)
    told = picture.ask().headers
    assert told["Content-Type"] == "text/html"
    assert told["Content-Disposition"].startswith("attachment;")
    assert told["X-Content-Type-Options"] == "nosniff"


def test_a_name_in_any_script_reaches_the_client(native: Native) -> None:
    told = finish(native, b"x", "映画/第一部 “100%”.mp4").ask().headers["Content-Disposition"]
    kind, options = parse_options_header(told)
    assert (kind, options["filename"]) == ("attachment", "第一部 “100%”.mp4")


def test_a_page_may_read_what_it_needs_of_a_download(file: Finished) -> None:
    response = file.ask(Origin="https://app.example.com", Range="bytes=0-1")
    exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"Content-Range", "Content-Disposition", "ETag", "Accept-Ranges"} <= set(exposed)
    preflight = requests.options(
        f"{file.server.url}/download/{file.id}",
        headers={
            "Origin": "https://app.example.com",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "range, if-range, authorization",
        },
        timeout=60,
    )
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"range", "if-range", "if-none-match", "authorization"} <= set(allowed)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_not_allowed(file: Finished, method: str) -> None:
    response = file.ask(method)
    assert response.status_code == 405
    assert {"GET", "HEAD"} <= set(response.headers["Allow"].split(", "))


def test_a_token_in_the_query_does_not_reach_the_log(of_ann: Finished) -> None:
    token = session_token(of_ann.server, "ann")
    assert fetch(of_ann, token, by="query").status_code == 200
    assert token not in of_ann.server.log_path.read_text()


def test_an_expired_session_reads_nothing(of_ann: Finished) -> None:
    token = session_token(of_ann.server, "ann", expires_in=1)
    wait_until(
        lambda: fetch(of_ann, token, by="bearer").status_code == 401, "the session has expired"
    )
    response = fetch(of_ann, token, by="bearer")
    assert_problem(response.status_code, response.content, 401, "token_expired")


def test_a_key_without_the_scope_reads_nothing(server: Server, file: Finished) -> None:
    made = server.flask("keys", "create", "meter", "--scope", "metrics").stdout
    key = re.search(r"\S{20,}", made)
    assert key is not None
    response = Native(server, key[0]).request("GET", f"/download/{file.id}")
    assert_problem(response.status_code, response.content, 403, "not_authorized")


@pytest.fixture(scope="module")
def open_to_all(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets everybody upload by tus."""
    server = place.server(tmp_path_factory.mktemp("open"), ANONYMOUS_PROTOCOLS="tus")
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("owner", "protocol", "status"),
    [
        ("anonymous", "tus", 200),
        ("anonymous", "pipe", 403),  # it was open once
        ("admin", "tus", 404),
        ("user:admin/ann", "tus", 404),
    ],
)
def test_without_credentials_open_protocols_give_what_nobody_owns(
    open_to_all: Server, owner: str, protocol: str, status: int
) -> None:
    file = finish(Native(open_to_all), b"for all")
    give_to(open_to_all, file, owner, protocol)
    response = requests.get(f"{open_to_all.url}/download/{file.id}", timeout=60)
    assert response.status_code == status
    assert (response.content == b"for all") == (status == 200)


def test_downloads_can_be_turned_off(start_server: Callable[..., Server]) -> None:
    file = finish(Native(start_server(DOWNLOADS="off", WORKERS=1)), b"x")
    response = file.ask()
    assert_problem(response.status_code, response.content, 404, "not_found")
