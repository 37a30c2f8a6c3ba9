"""Resumable.js: what requests may say, in which form, and the statuses that clients understand."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.native import KIB, read_response
from tests.harness.places import Place
from tests.harness.resumable import CHUNK_BYTES, PATH, File, Resumable, answer_of
from tests.harness.server import API_KEY, Server
from tests.harness.wire import (
    assert_problem,
    change,
    connect,
    events,
    examples,
    exchange,
    head,
    nothing_stored,
    rows,
)

Content = Callable[[int], bytes]

ORIGIN = "https://app.example.com"
MAX_BYTES = 40 * 1024 * 1024


@pytest.fixture
def resumable(server: Server) -> Resumable:
    """A client of the shared server."""
    return Resumable(server)


@pytest.fixture(scope="module")
def peculiar_server(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server open to all whose fields have other names, for one origin, behind a base URL."""
    server = place.server(
        tmp_path_factory.mktemp("peculiar"),
        ANONYMOUS_PROTOCOLS="resumable",
        RESUMABLE_PARAMETERS="parameterNamespace=up_,chunkNumberParameterName=n,"
        "fileParameterName=data",
        RESUMABLE_MIN_CHUNK_BYTES="1",
        RESUMABLE_GRACE_SECS="0",
        RESUMABLE_MAX_SPOOL_BYTES="100",
        MAX_UPLOAD_BYTES=MAX_BYTES,
        BODY_IDLE_TIMEOUT_SECS="1",
        BASE_URL="https://files.example.com/up",
        CORS_ORIGINS=ORIGIN,
    )
    server.start()
    yield server
    server.close()


@pytest.fixture
def peculiar(peculiar_server: Server) -> Resumable:
    """A client of that server without credentials."""
    return Resumable(peculiar_server, {})


def peculiar_fields(file: File, number: int) -> dict[str, str]:
    fields = file.fields(number, prefix="up_resumable", ChunkNumber=None)
    return fields | {"up_n": str(number)}


# Fields


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_every_upload_method_of_the_clients_stores(
    resumable: Resumable, content: Content, method: str
) -> None:
    file = File(content(CHUNK_BYTES))
    for prefix in ("resumable", "flow"):
        response = resumable.request(
            method,
            params=file.fields(1, prefix),
            data=file.content,
            headers={"Content-Type": "application/octet-stream"},
        )
        assert answer_of(response)["complete"]


def test_head_is_answered_as_get_without_a_body(resumable: Resumable, content: Content) -> None:
    file = File(content(2 * CHUNK_BYTES))
    assert resumable.request("HEAD", params=file.fields(1)).status_code == 204
    resumable.octet(file, 1)
    response = resumable.request("HEAD", params=file.fields(1))
    assert (response.status_code, response.content) == (200, b"")


def test_every_success_tells_the_same_of_the_upload(resumable: Resumable, content: Content) -> None:
    """The client hands its page whichever answer it saw last."""
    file = File(content(2 * CHUNK_BYTES), relative_path="photos/movie.mp4")
    first = resumable.octet(file, 2)
    assert first == {
        "id": first["id"],
        "location": f"{resumable.server.url}/download/{first['id']}",
        "complete": False,
        "received": 1,
        "total_chunks": 2,
        "size": 2 * CHUNK_BYTES,
        "final_path": None,
    }
    assert resumable.test_raw(file, 2).json() == first
    done = resumable.octet(file, 1)
    path = resumable.server.store.location(f"photos/{first['id']}_movie.mp4")
    assert done == first | {"complete": True, "received": 2, "final_path": path}
    for answer in (resumable.test_raw(file, 1), resumable.octet_raw(file, 2)):
        assert answer.json() == done


def test_the_location_serves_the_file(resumable: Resumable, content: Content) -> None:
    file = File(content(2 * CHUNK_BYTES), type="video/webm")
    done = resumable.send_all(file)
    response = requests.get(done["location"], headers=resumable.headers, timeout=60)
    assert response.content == file.content
    assert response.headers["Content-Type"] == "video/webm"


@pytest.mark.parametrize(
    ("said", "served"),
    [
        ({"Type": "image/png"}, "image/png"),
        ({"Type": ""}, "video/mp4"),
        ({"Type": None}, "video/mp4"),
        ({"Type": "no type"}, "application/octet-stream"),
    ],
    ids=str,
)
def test_the_type_of_the_file_is_its_field_or_else_that_of_the_body(
    resumable: Resumable, content: Content, said: dict[str, Any], served: str
) -> None:
    """flow.js has no field for it."""
    in_body, in_form = File(content(9)), File(content(9))
    answers = [
        resumable.request(
            "POST",
            params=in_body.fields(1, **said),
            data=in_body.content,
            headers={"Content-Type": "video/mp4"},
        ),
        resumable.request(
            "POST",
            data=in_form.fields(1, **said),
            files={"file": ("f", in_form.content, "video/mp4")},
        ),
    ]
    for answer in map(answer_of, answers):
        response = requests.get(answer["location"], headers=resumable.headers, timeout=60)
        assert response.headers["Content-Type"] == served


def test_a_raw_body_of_any_type_or_none_is_a_chunk(resumable: Resumable, content: Content) -> None:
    for kind in ("application/octet-stream", "text/plain", "image/png", "application/json", None):
        file = File(content(CHUNK_BYTES))
        request = head(
            "POST",
            f"{PATH}?{query(file.fields(1))}",
            X_API_Key=API_KEY,
            Content_Length=CHUNK_BYTES,
            **({} if kind is None else {"Content_Type": kind}),
        )
        status, _, body = exchange(resumable.server, request + file.content)
        assert status == 200, body
        assert resumable.server.file(json.loads(body)["final_path"]).read_bytes() == file.content


def test_bodies_without_a_length_are_chunks_too(resumable: Resumable, content: Content) -> None:
    file = File(content(2 * CHUNK_BYTES))
    for number in file.numbers:
        pieces = iter([file.chunk(number)[:100], file.chunk(number)[100:]])
        answer = answer_of(resumable.octet_raw(file, number, data=pieces))
    assert resumable.server.file(answer["final_path"]).read_bytes() == file.content


def test_names_that_a_client_has_changed_are_settings(
    peculiar: Resumable, content: Content
) -> None:
    file = File(content(300), chunk_size=100, name="b.bin")
    for number, way in zip(file.numbers, ("query", "form", "flow"), strict=True):
        if way == "query":
            response = peculiar.request(
                "POST",
                params=peculiar_fields(file, number),
                data=file.chunk(number),
                headers={"Content-Type": "x/y"},
            )
        elif way == "form":
            response = peculiar.request(
                "POST",
                data=peculiar_fields(file, number),
                files={"up_data": ("blob", file.chunk(number))},
            )
        else:
            response = peculiar.parts_raw([*file.fields(number, "flow").items()], file, number)
        answer = answer_of(response)
    assert peculiar.server.file(answer["final_path"]).read_bytes() == file.content
    assert answer["location"] == f"https://files.example.com/up/download/{answer['id']}"
    response = peculiar.octet_raw(file, 1)
    assert_problem(response.status_code, response.content, 400, "invalid_field")


@contextmanager
def nothing_left(server: Server) -> Iterator[None]:
    """Assert that what happens inside leaves no upload open and no byte behind."""

    def left() -> tuple[object, ...]:
        return rows(server, "SELECT id FROM uploads WHERE state = 'open'"), server.staged_files()

    before = left()
    yield
    assert left() == before


def query(fields: dict[str, str]) -> str:
    url = requests.Request("GET", "http://x", params=fields).prepare().url
    assert url is not None
    return url.partition("?")[2]


# Requests that are wrong for ever


@pytest.mark.parametrize(
    "changed",
    [
        {"ChunkNumber": None},
        {"ChunkNumber": 0},
        {"ChunkNumber": 4},
        {"ChunkNumber": "1.0"},
        {"ChunkNumber": "1e0"},
        {"ChunkNumber": "٢"},
        {"ChunkNumber": 10**30},
        {"ChunkSize": None},
        {"ChunkSize": 0},
        {"ChunkSize": 1024},
        {"TotalSize": None},
        {"TotalSize": -1},
        {"TotalSize": 2**63},
        {"CurrentChunkSize": 1},
        {"CurrentChunkSize": ""},
        {"TotalChunks": 2},
        {"TotalChunks": 4},
        {"TotalChunks": "x"},
        {"Identifier": None},
        {"Identifier": ""},
        {"Identifier": "a\0b"},
        {"Identifier": "x" * 4097},
        {"Filename": None},
        {"RelativePath": "../a"},
        {"RelativePath": "/etc/passwd"},
        {"RelativePath": "a/../b"},
        {"RelativePath": "a//b"},
        {"RelativePath": "a\\b"},
        {"RelativePath": "a\0b"},
        {"RelativePath": "a\nb"},
        {"RelativePath": "x" * 256},
        {"RelativePath": None, "Filename": ".."},
        {"RelativePath": "good", "Filename": "../evil"},
        {"RelativePath": "good", "Filename": "evil\0"},
    ],
    ids=str,
)
def test_what_stays_wrong_is_400_and_stores_nothing(
    resumable: Resumable, content: Content, changed: dict[str, Any]
) -> None:
    file = File(content(3 * CHUNK_BYTES))
    number = 1
    with nothing_stored(resumable.server):
        answers = [
            resumable.test_raw(file, number, **changed),
            resumable.octet_raw(file, number, **changed),
            resumable.form_raw(file, number, **changed),
        ]
    for response in answers:
        assert response.status_code == 400, response.text
        assert response.json()["error"]


@pytest.mark.parametrize("missing_bytes", [1, -1, CHUNK_BYTES])
def test_a_body_of_another_length_is_400(
    resumable: Resumable, content: Content, missing_bytes: int
) -> None:
    file = File(content(3 * CHUNK_BYTES))
    data = content(CHUNK_BYTES - missing_bytes)
    with nothing_stored(resumable.server):
        assert resumable.octet_raw(file, 1, data).status_code == 400
    for put in (
        lambda: resumable.form_raw(file, 1, data),
        lambda: resumable.octet_raw(file, 1, iter([data or b"x"])),
    ):
        with nothing_left(resumable.server):
            response = put()
        assert_problem(response.status_code, response.content, 400, "part_size_mismatch")
        assert not resumable.test(file, 1)


def test_a_refused_chunk_leaves_the_others_of_its_file(
    resumable: Resumable, content: Content
) -> None:
    file = File(content(2 * CHUNK_BYTES))
    first = resumable.octet(file, 1)
    assert resumable.form_raw(file, 2, b"short").status_code == 400
    assert resumable.test(file, 1)
    assert resumable.octet(file, 2)["id"] == first["id"]


def test_a_length_that_contradicts_the_body_is_400(resumable: Resumable, content: Content) -> None:
    file = File(content(CHUNK_BYTES))
    response = resumable.octet_raw(file, 1, CurrentChunkSize=CHUNK_BYTES - 1)
    assert_problem(response.status_code, response.content, 400, "invalid_field")


def test_a_file_over_the_servers_limit_is_400(peculiar: Resumable) -> None:
    """Never 413: resumable.js would send it 100 times more, at once."""
    file = File(b"x" * 100)
    fields = peculiar_fields(file, 1) | {
        "up_resumableTotalSize": str(MAX_BYTES + 1),
        "up_resumableChunkSize": str(MAX_BYTES + 1),
        "up_resumableCurrentChunkSize": str(MAX_BYTES + 1),
    }
    with nothing_stored(peculiar.server):
        for method in ("GET", "POST"):
            response = peculiar.request(method, params=fields)
            assert response.status_code == 400, response.text
    many = fields | {"up_resumableTotalSize": str(200_000), "up_resumableChunkSize": "1"}
    many |= {"up_resumableCurrentChunkSize": "1", "up_resumableTotalChunks": "200000"}
    with nothing_stored(peculiar.server):
        response = peculiar.request("POST", params=many, data=b"x", headers={"Content-Type": "x/y"})
    assert_problem(response.status_code, response.content, 400, "upload_too_large")


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-8",
        "multipart/mixed; boundary=x",
        "multipart/related",
    ],
)
def test_a_body_of_a_type_that_is_not_taken_is_415(
    resumable: Resumable, content: Content, kind: str
) -> None:
    file = File(content(CHUNK_BYTES))
    with nothing_stored(resumable.server):
        response = resumable.request(
            "POST", params=file.fields(1), data=file.content, headers={"Content-Type": kind}
        )
    assert_problem(response.status_code, response.content, 415, "unknown_content_type")


def test_a_chunk_as_base64_is_415(resumable: Resumable, content: Content) -> None:
    """resumable.js' ``chunkFormat: 'base64'`` sends it as a field."""
    file = File(content(CHUNK_BYTES))
    parts = [*file.fields(1).items(), ("file", "data:application/octet-stream;base64,AAAA")]
    with nothing_stored(resumable.server):
        response = resumable.request("POST", files=[(name, (None, value)) for name, value in parts])
    message = assert_problem(response.status_code, response.content, 415, "unknown_content_type")
    assert "base64" in message


def test_a_transfer_encoding_other_than_chunked_is_refused(
    resumable: Resumable, content: Content
) -> None:
    file = File(content(CHUNK_BYTES))
    request = head(
        "POST",
        f"{PATH}?{query(file.fields(1))}",
        X_API_Key=API_KEY,
        Transfer_Encoding="gzip, chunked",
    )
    with nothing_stored(resumable.server):
        status, _, _ = exchange(resumable.server, request + b"0\r\n\r\n")
    assert status in (400, 501)  # gunicorn or us


def test_fields_that_differ_between_query_and_form_are_400(
    resumable: Resumable, content: Content
) -> None:
    file = File(content(3 * CHUNK_BYTES))
    fields = file.fields(1)
    for name in fields:
        other = fields | {name: fields[name] + "0"}
        with nothing_stored(resumable.server):
            response = resumable.parts_raw([*fields.items()], file, 1, params=other)
        assert_problem(response.status_code, response.content, 400, "malformed_request")
    response = resumable.request("GET", params=[*fields.items(), ("resumableChunkNumber", "2")])
    assert response.status_code == 400


def test_fields_behind_the_file_that_differ_leave_the_chunk_pending(
    resumable: Resumable, content: Content
) -> None:
    file = File(content(3 * CHUNK_BYTES))
    fields = file.fields(1)
    with nothing_left(resumable.server):
        response = resumable.parts_raw(
            [], file, 1, params=fields, after=[("resumableFilename", "other")]
        )
    assert_problem(response.status_code, response.content, 400, "malformed_request")
    assert not resumable.test(file, 1)


def test_a_query_that_is_not_utf_8_is_400(resumable: Resumable) -> None:
    request = head("GET", f"{PATH}?resumableIdentifier=%ff", X_API_Key=API_KEY)
    status, _, body = exchange(resumable.server, request)
    assert_problem(status, body, 400, "malformed_request")


def test_an_application_may_send_fields_of_its_own(resumable: Resumable, content: Content) -> None:
    file = File(content(CHUNK_BYTES))
    more = {"album": "größe", "csrf": "x" * 1000, "empty": ""}
    response = resumable.request(
        "POST",
        params=file.fields(1) | more,
        data=file.fields(1) | more,
        files={"file": ("größe", file.content)},
    )
    assert answer_of(response)["complete"]


def test_a_file_before_its_fields_has_a_greatest_length(
    peculiar: Resumable, content: Content
) -> None:
    for length, expected in ((100, 200), (101, 400)):
        file = File(content(length), chunk_size=200)
        after = [*file.fields(1, "flow").items()]
        response = peculiar.parts_raw([], file, 1, after=after)
        assert response.status_code == expected, response.text
    assert list((peculiar.server.directory / "uploads.db.d").glob("tmp*")) == []


@examples
@given(
    st.dictionaries(
        st.sampled_from([*File(b"x").fields(1), "file", "upload_token"]), st.text(max_size=30)
    ),
    st.binary(max_size=200),
    st.sampled_from(
        ["multipart/form-data; boundary=b", "multipart/form-data", "x/y", "", "multipart/b"]
    ),
)
def test_whatever_comes_is_answered_in_the_clients_terms(
    server: Server, fields: dict[str, str], body: bytes, kind: str
) -> None:
    client = Resumable(server)
    for method in ("GET", "POST"):
        options = {"data": body, "headers": {"Content-Type": kind}} if method == "POST" else {}
        response = client.request(method, params=fields, **options)
        assert response.status_code in (200, 204, 400, 415), response.text


@examples
@given(st.data())
def test_a_form_that_was_damaged_is_refused_or_means_what_it_says(
    resumable: Resumable, data: st.DataObject
) -> None:
    """Bytes changed, left out or doubled anywhere but in the chunk itself: never other bytes."""
    file = File(b"\r\n--b\r\n".ljust(60) * 1200, identifier=str(uuid.uuid4()))
    fields = data.draw(st.permutations([*file.fields(1).items()]))
    at = data.draw(st.integers(0, len(fields)), label="place of the file")
    parts = [_part(f'name="{name}"', value.encode()) for name, value in fields]
    parts.insert(at, _part('name="file"; filename="blob"', file.content))
    whole = bytearray(b"".join(parts) + b"--b--\r\n")
    inside = whole.index(file.content)
    outside = [*range(inside), *range(inside + len(file.content), len(whole))]
    for place in sorted(data.draw(st.sets(st.sampled_from(outside), max_size=3)), reverse=True):
        new = data.draw(st.sampled_from([b"", b"\0", b"\xff", b"\n", b"--", b"b", b"0"]))
        whole[place : place + 1] = new
    response = resumable.request(
        "POST", data=bytes(whole), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert response.status_code in (200, 400, 415), response.text
    if response.status_code == 200 and response.json()["complete"]:
        stored = resumable.server.file(response.json()["final_path"]).read_bytes()
        assert stored == file.content


def _part(disposition: str, value: bytes) -> bytes:
    head = f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
    return head.encode() + value + b"\r\n"


# Requests that may succeed later


def test_a_bug_is_503_never_500(
    resumable: Resumable, content: Content, start_server: Callable[..., Server]
) -> None:
    server = start_server(WORKERS=1)
    client = Resumable(server)
    file = File(content(2 * CHUNK_BYTES))
    client.octet(file, 1)
    change(server, "UPDATE uploads SET state = 'nonsense'")
    server.expect_bugs = True
    for response in (client.test_raw(file, 1), client.octet_raw(file, 1)):
        assert_problem(response.status_code, response.content, 503, "internal_error")
        assert int(response.headers["Retry-After"]) > 0


def test_a_full_disk_is_503(content: Content, start_server: Callable[..., Server]) -> None:
    server = start_server(MIN_FREE_DISK_BYTES="1000T")
    response = Resumable(server).octet_raw(File(content(CHUNK_BYTES)), 1)
    assert_problem(response.status_code, response.content, 503, "storage_full")
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.not_in("s3-staged", why="what waits on the disk goes on without the bucket")
def test_a_storage_that_is_away_is_503(
    fragile: Server, storage_away: Callable[[], Any], content: Content
) -> None:
    client, file = Resumable(fragile), File(content(2 * CHUNK_BYTES))
    client.octet(file, 1)
    with storage_away():
        for number in (1, 2):
            response = client.octet_raw(file, number)
            assert_problem(response.status_code, response.content, 503, "storage_unavailable")
            assert "Retry-After" in response.headers
    answer = client.octet(file, 2)
    assert fragile.file(answer["final_path"]).read_bytes() == file.content


def test_a_body_that_stands_still_is_503(peculiar: Resumable, content: Content) -> None:
    file = File(content(100), chunk_size=100)
    request = head("POST", f"{PATH}?{query(peculiar_fields(file, 1))}", Content_Length=100)
    with connect(peculiar.server) as sock:
        sock.sendall(request + b"x")
        status, headers, body = read_response(sock)
    assert_problem(status, body, 503, "body_stalled")
    assert "retry-after" in headers


def test_a_form_that_stands_still_within_its_fields_is_503(peculiar: Resumable) -> None:
    request = head(
        "POST", PATH, Content_Length=10_000, Content_Type="multipart/form-data; boundary=b"
    )
    with connect(peculiar.server) as sock:
        sock.sendall(request + b"--b\r\n")
        status, _, body = read_response(sock)
    assert_problem(status, body, 503, "body_stalled")


# CORS


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH"])
def test_preflights_are_answered_without_credentials_and_remembered(
    peculiar: Resumable, method: str
) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, x-api-key, content-type",
    }
    url = f"{peculiar.url}?anything={'x' * 100}"
    with nothing_stored(peculiar.server):
        response = requests.options(url, headers=asked, timeout=60)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert method in response.headers["Access-Control-Allow-Methods"]
    assert "X-API-Key" in response.headers["Access-Control-Allow-Headers"]
    assert int(response.headers["Access-Control-Max-Age"]) >= 600


def test_every_answer_may_be_read_by_the_page_errors_too(
    peculiar: Resumable, server: Server, content: Content
) -> None:
    """Else the client sees status 0, and sends again."""
    file = File(content(CHUNK_BYTES))
    origin = {"Origin": ORIGIN}
    stranger = Resumable(server, {})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    seen = {
        400: peculiar.request("GET", headers=origin),
        204: peculiar.request("GET", params=peculiar_fields(file, 1), headers=origin),
        415: peculiar.request("POST", data=b"x", headers=origin | form),
        401: stranger.request("GET", params=file.fields(1), headers=origin),
    }
    for status, response in seen.items():
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] in (ORIGIN, "*")
        assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]


# Identity


def test_another_chunk_size_is_another_upload(resumable: Resumable, content: Content) -> None:
    data = content(4 * CHUNK_BYTES)
    small = File(data)
    large = File(data, chunk_size=2 * CHUNK_BYTES, identifier=small.identifier)
    first, second = resumable.octet(small, 1), resumable.octet(large, 1)
    assert first["id"] != second["id"]
    assert not resumable.test(large, 2)
    assert resumable.octet(large, 2)["complete"]
    for number in (2, 3, 4):
        last = resumable.octet(small, number)
    assert last["complete"]
    assert last["id"] == first["id"]


def test_another_size_is_another_upload(resumable: Resumable, content: Content) -> None:
    data = content(3 * CHUNK_BYTES)
    one = File(data)
    other = File(data[:-1], identifier=one.identifier)
    assert resumable.octet(one, 1)["id"] != resumable.octet(other, 1)["id"]


def test_the_first_chunk_names_the_file(resumable: Resumable, content: Content) -> None:
    file = File(content(2 * CHUNK_BYTES), relative_path="first/movie.mp4")
    resumable.octet(file, 2)
    response = resumable.octet_raw(file, 1, RelativePath="second/other.mp4", Filename="other.mp4")
    answer = answer_of(response)
    assert answer["final_path"].endswith(f"/first/{answer['id']}_movie.mp4")


def test_a_name_without_folders_goes_to_files(resumable: Resumable, content: Content) -> None:
    answer = answer_of(resumable.octet_raw(File(content(9)), 1, RelativePath=None))
    assert resumable.server.store.key(answer["final_path"]) == f"files/{answer['id']}_movie.mp4"


def test_a_get_creates_nothing(resumable: Resumable, content: Content) -> None:
    with nothing_stored(resumable.server):
        for number in (1, 2):
            assert not resumable.test(File(content(2 * CHUNK_BYTES)), number)


def test_an_identifier_is_no_path(resumable: Resumable, content: Content) -> None:
    for identifier in ("../../etc/passwd", "/etc/passwd", "a/b\\c", "\u202e", "x" * 4096, "%00"):
        file = File(content(CHUNK_BYTES), identifier=identifier)
        answer = resumable.octet(file, 1)
        assert resumable.server.store.key(answer["final_path"]) == f"files/{answer['id']}_movie.mp4"
        assert resumable.test(file, 1)


def test_an_identifier_is_free_again_after_the_grace_time(
    peculiar: Resumable, content: Content
) -> None:
    file = File(content(CHUNK_BYTES))
    other = File(content(CHUNK_BYTES), identifier=file.identifier)
    first = peculiar.parts_raw([*file.fields(1, "flow").items()], file, 1).json()
    assert first["complete"]
    second = peculiar.parts_raw([*other.fields(1, "flow").items()], other, 1).json()
    assert second["complete"]
    assert second["id"] != first["id"]
    assert peculiar.server.file(first["final_path"]).read_bytes() == file.content


def test_the_names_of_the_uploads_are_kept_in_the_ledger_only(
    resumable: Resumable, content: Content
) -> None:
    answer = resumable.octet(File(content(2 * CHUNK_BYTES)), 1)
    (row,) = rows(resumable.server, "SELECT * FROM aliases WHERE upload_id = ?", answer["id"])
    assert row["namespace"] == "resumable"
    assert row["owner"] == "admin"


# Geometry


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize(
    "length",
    [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES - 1, 5 * CHUNK_BYTES + 7],
)
def test_files_of_every_length_come_whole_however_they_are_cut(
    resumable: Resumable, content: Content, length: int, *, told: bool, forced: bool
) -> None:
    file = File(content(length), forced=forced)
    left_out = {} if told else {"TotalChunks": None, "CurrentChunkSize": None}
    for number in file.numbers:
        assert resumable.test_raw(file, number, **left_out).status_code == 204
        answer = answer_of(resumable.form_raw(file, number, **left_out))
    assert answer["complete"]
    assert answer["total_chunks"] == file.count
    assert resumable.server.file(answer["final_path"]).read_bytes() == file.content
    assert events(resumable.server, answer["id"]).count("completed") == 1


def test_a_file_that_is_being_sent_in_another_number_of_chunks_is_400(
    resumable: Resumable, content: Content
) -> None:
    unforced = File(content(2 * CHUNK_BYTES + 9))
    forced = File(unforced.content, forced=True, identifier=unforced.identifier)
    resumable.octet(unforced, 2)
    assert not resumable.test(forced, 2)
    response = resumable.octet_raw(forced, 2)
    assert_problem(response.status_code, response.content, 400, "part_count_mismatch")
    assert resumable.octet(unforced, 1)["complete"]


def test_large_chunks_are_taken_up_to_twice_their_size(
    resumable: Resumable, content: Content
) -> None:
    chunk_size = 3 * 1024 * KIB
    file = File(content(2 * chunk_size - 1), chunk_size=chunk_size)
    assert file.count == 1
    answer = answer_of(resumable.form_raw(file, 1))
    assert resumable.server.file(answer["final_path"]).read_bytes() == file.content
