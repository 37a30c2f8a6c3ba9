"""What holds for every route: errors, authentication first, CORS, slashes, framings."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from tests.harness.native import MIB, Native, read_response
from tests.harness.resumable import File, Resumable
from tests.harness.server import API_KEY, Server
from tests.harness.tus import Tus
from tests.harness.wire import (
    assert_problem,
    change,
    connect,
    examples,
    exchange,
    head,
    nothing_stored,
)

pytestmark = pytest.mark.once(why="HTTP is looked at before storage and database are")

#: An id that no upload has.
NOBODY = "00000000-0000-4000-8000-000000000000"

#: Routes that need the API key, with an upload that nobody has.
KEYED = [
    ("POST", "/upload/init"),
    ("GET", f"/upload/{NOBODY}/status"),
    ("GET", f"/upload/{NOBODY}/status?include_parts=nonsense"),
    ("GET", f"/upload/{NOBODY}/tokens"),
    ("POST", f"/upload/{NOBODY}/complete"),
    ("DELETE", f"/upload/{NOBODY}"),
]

ORIGIN = "https://app.example.com"

#: What browsers ask for on behalf of the SDKs and tus-js-client.
ASKED_HEADERS = [
    "Authorization",
    "Content-Type",
    "X-API-Key",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
]


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/upload", 404),
        ("GET", "/upload/", 404),
        ("POST", "/upload/init/", 404),
        ("GET", f"/upload/{NOBODY}/status/more", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/static/app.js", 404),
        ("GET", "/upload/init", 405),
        ("PUT", "/upload/init", 405),
        ("GET", f"/upload/{NOBODY}/part/0", 405),
        ("PATCH", f"/upload/{NOBODY}", 405),
        ("POST", "/health", 405),
        ("TRACE", "/health", 405),
    ],
)
def test_unknown_routes_and_methods_are_json_too(
    native: Native, method: str, path: str, status: int
) -> None:
    response = native.request(method, path)
    assert response.headers["Content-Type"] == "application/json"
    code = {404: "not_found", 405: "method_not_allowed"}[status]
    assert_problem(response.status_code, response.content, status, code)
    assert ("Allow" in response.headers) == (status == 405)


def test_answers_and_errors_are_json_in_utf_8(native: Native) -> None:
    upload = native.init("vidéos/日本.mp4", size=0)
    for response in (
        native.request("GET", f"/upload/{upload.id}/status"),
        native.complete_raw(upload),
        native.cancel_raw(upload),
        native.init_raw({"filename": "日本\0", "total_size": 5}),
        native.request("GET", "/日本"),
    ):
        assert response.headers["Content-Type"] == "application/json"
        assert json.loads(response.content.decode("utf-8"))


def test_errors_tell_nothing_of_paths_and_databases(server: Server, native: Native) -> None:
    for response in (
        native.request("GET", "/nowhere"),
        native.init_raw({"filename": "../x", "total_size": 5}),
        native.init_raw({"filename": "x", "total_size": "5"}),
        native.request("GET", f"/upload/{NOBODY}/status"),
    ):
        text = response.text.lower()
        for secret in (str(server.directory), "sqlite", "traceback", "werkzeug", API_KEY):
            assert secret.lower() not in text
    assert "gunicorn" in native.request("GET", "/nowhere").headers["Server"]


@examples
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "FOO"]),
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
)
@example("GET", "%")
@example("GET", "%zz/%c3%28/%00")
@example("GET", "?a=%c3%28&include_parts")
@example("GET", "upload/%f0%28%8c%bc/status")
def test_no_request_line_is_an_accident(server: Server, method: str, path: str) -> None:
    with connect(server) as sock:
        sock.sendall(head(method, f"/{path}", X_API_Key=API_KEY, Connection="close"))
        status = int(sock.recv(65536).split()[1])
    assert status in {200, 400, 401, 404, 405, 422}


# Authentication before everything


@pytest.mark.parametrize(("method", "path"), KEYED)
def test_the_api_key_is_looked_at_before_anything_else(
    server: Server, native: Native, method: str, path: str
) -> None:
    with nothing_stored(server):
        for headers, message in [
            ({}, "Missing API key"),
            ({"X-API-Key": ""}, "Missing API key"),
            ({"X-API-Key": "wrong"}, "Invalid API key"),
            ({"X-API-Key": API_KEY[:-1]}, "Invalid API key"),
            ({"X-API-Key": API_KEY + "x"}, "Invalid API key"),
            ({"X-API-Key": API_KEY.upper()}, "Invalid API key"),
            ({"Authorization": f"Bearer {API_KEY}"}, "Missing API key"),
        ]:
            response = native.request(method, path, headers=headers, data=b"{broken")
            told = assert_problem(response.status_code, response.content, 401, "not_authenticated")
            assert told == message
    query = f"{path}{'&' if '?' in path else '?'}api_key={API_KEY}&X-API-Key={API_KEY}"
    assert native.request(method, query, headers={}).status_code == 401


@pytest.mark.parametrize(("method", "path"), KEYED)
def test_without_a_key_the_body_is_not_waited_for(server: Server, method: str, path: str) -> None:
    with connect(server) as sock:
        sock.settimeout(20)  # a server that waits for the body would wait for 60 s
        sock.sendall(head(method, path, Content_Length=20 * MIB) + b"{")
        status, fields, body = read_response(sock)
    assert_problem(status, body, 401, "not_authenticated")
    assert "www-authenticate" in fields


@pytest.mark.parametrize(("method", "path"), KEYED)
def test_a_client_that_sends_20_mib_without_a_key_sees_why(
    native: Native, method: str, path: str
) -> None:
    response = native.request(method, path, headers={}, data=bytes(20 * MIB))
    assert_problem(response.status_code, response.content, 401, "not_authenticated")
    assert native.request("GET", "/health").status_code == 200


@examples
@given(
    key=st.text(
        st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\x85"),
        max_size=80,
    )
)
@example("\xff" * 43)
@example(API_KEY + "\xa0")
def test_any_other_key_is_invalid(server: Server, key: str) -> None:
    request = head("GET", f"/upload/{NOBODY}/status", X_API_Key=key)
    status, _, body = exchange(server, request)
    assert_problem(status, body, 401, "not_authenticated")


def test_a_key_that_is_not_ascii_works_in_utf_8(strict: Server) -> None:
    key = strict.settings["API_KEY"]
    assert not key.isascii()
    for value, status in [(key.encode(), 404), (key.encode("latin-1"), 401), (b"schl", 401)]:
        response = Native(strict).request(
            "GET", f"/upload/{NOBODY}/status", headers={"X-API-Key": value}
        )
        assert response.status_code == status


# CORS


def preflight(native: Native, path: str, origin: str = ORIGIN, **fields: str) -> Any:
    """Send a preflight as browsers do: without credentials."""
    asked = {"Access-Control-Request-Headers": ",".join(sorted(map(str.lower, ASKED_HEADERS)))}
    headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"} | asked | fields
    return native.request("OPTIONS", path, headers=headers)


@pytest.mark.parametrize(
    "path", ["/upload/init", f"/upload/{NOBODY}/part/0", f"//upload//{NOBODY}", "/health"]
)
def test_a_preflight_is_answered_without_credentials(native: Native, path: str) -> None:
    response = preflight(native, path)
    assert response.status_code in {200, 204}
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response.headers
    methods = response.headers["Access-Control-Allow-Methods"].split(", ")
    assert {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} <= set(methods)
    assert int(response.headers["Access-Control-Max-Age"]) > 0


@pytest.mark.parametrize("asked", ["authorization", "x-api-key, content-type", ""])
def test_a_preflight_names_every_header_that_is_allowed(native: Native, asked: str) -> None:
    response = preflight(native, "/upload/init", **{"Access-Control-Request-Headers": asked})
    allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {name.lower() for name in ASKED_HEADERS} <= set(allowed)
    assert "*" not in allowed  # which does not cover Authorization


def test_answers_and_errors_carry_cors_headers(native: Native) -> None:
    upload = native.init(size=5)
    origin = {"Origin": ORIGIN}
    for response, status in [
        (native.put_raw(upload, 0, b"bytes", headers=origin), 200),
        (native.put_raw(upload, 0, b"other", headers=origin), 422),
        (native.put_raw(upload, 0, b"bytes", token="wrong", headers=origin), 401),
        (native.request("GET", f"/upload/{NOBODY}/status", headers=native.headers | origin), 404),
        (native.request("POST", "/upload/init", headers=native.headers | origin), 400),
        (native.request("GET", "/nowhere", headers=origin), 404),
        (native.request("GET", "/upload/init", headers=origin), 405),
    ]:
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        exposed = response.headers["Access-Control-Expose-Headers"]
        assert {"X-Request-ID", "Retry-After"} <= set(exposed.split(", "))


def test_only_the_configured_origin_may_use_the_server(strict: Server) -> None:
    native = Native(strict)
    for path in ("/health", f"/upload/{NOBODY}/status"):
        response = native.request("GET", path, headers={"Origin": ORIGIN})
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Access-Control-Allow-Credentials" not in response.headers
        for origin in ("https://evil.example.com", "https://app.example.com.evil.com", "null"):
            response = native.request("GET", path, headers={"Origin": origin})
            assert "Access-Control-Allow-Origin" not in response.headers
    assert preflight(native, "/upload/init").headers["Access-Control-Allow-Origin"] == ORIGIN
    refused = preflight(native, "/upload/init", origin="https://evil.example.com")
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert "Access-Control-Allow-Headers" not in refused.headers


# Slashes


def test_repeated_slashes_count_as_one(server: Server, native: Native) -> None:
    upload = native.init(size=5)
    key = {"X_API_Key": API_KEY}
    token = {"Authorization": f"Bearer {upload.tokens[0]}", "Content_Length": 5}
    for request in (
        head("PUT", f"//upload/{upload.id}//part///0", **token) + b"bytes",
        head("GET", f"/upload//{upload.id}/status", **key),
        head("GET", f"///upload/{upload.id}////status?include_parts=true", **key),
        head("POST", f"/upload/{upload.id}//complete", **key),
        head("GET", "//health"),
        head("DELETE", f"//upload//{upload.id}", **key),
    ):
        status, _, body = exchange(server, request)
        assert status == 200, (request, body)  # never a redirect, which would lose the body


# Framings


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "identity", "chunked, gzip", "x", ""])
def test_a_transfer_encoding_other_than_chunked_is_refused(
    server: Server, native: Native, coding: str
) -> None:
    upload = native.init(size=5)
    for request in (
        head(
            "PUT",
            f"/upload/{upload.id}/part/0",
            Authorization=f"Bearer {upload.tokens[0]}",
            Transfer_Encoding=coding,
        ),
        head("POST", "/upload/init", X_API_Key=API_KEY, Transfer_Encoding=coding),
    ):
        with nothing_stored(server), connect(server) as sock:
            sock.sendall(request + b"5\r\nbytes\r\n0\r\n\r\n")
            status = int(sock.recv(65536).split()[1])
        assert status in {400, 501}


def test_chunked_is_taken_in_any_case(native: Native) -> None:
    upload = native.init(size=5)
    for coding in ("Chunked", "CHUNKED"):
        request = head(
            "PUT",
            f"/upload/{upload.id}/part/0",
            Authorization=f"Bearer {upload.tokens[0]}",
            Transfer_Encoding=coding,
        )
        status, _, body = exchange(native.server, request + b"5\r\nbytes\r\n0\r\n\r\n")
        assert status == 200, body


def test_a_refused_framing_ends_the_connection(server: Server, native: Native) -> None:
    upload = native.init(size=5)
    request = head(
        "PUT",
        f"/upload/{upload.id}/part/0",
        Authorization=f"Bearer {upload.tokens[0]}",
        Transfer_Encoding="gzip, chunked",
    )
    smuggled = head("DELETE", f"/upload/{upload.id}", X_API_Key=API_KEY)
    with connect(server) as sock:
        sock.sendall(request + b"5\r\nbytes\r\n0\r\n\r\n" + smuggled)
        status, _, body = read_response(sock)
        assert_problem(status, body, 400, "malformed_request")
        assert sock.recv(65536) == b""
    assert native.status(upload)["status"] == "pending"


# Codings

CODINGS = ["gzip", "GZIP", "br", "deflate", "identity, gzip", "x'\"<>" * 9]


def assert_coding_refused(response: requests.Response) -> None:
    message = assert_problem(response.status_code, response.content, 415, "unknown_content_type")
    assert "without this field" in message
    assert not set(message) & set("<>")
    assert response.headers["Accept-Encoding"] == "identity"
    assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("coding", CODINGS)
def test_a_coded_body_is_415_by_every_protocol_and_stores_nothing(
    server: Server, native: Native, coding: str
) -> None:
    """Of the right length it would become the file, by tus of any length."""
    upload, file = native.init(size=5), File(b"bytes")
    tus, resumable = Tus(server), Resumable(server)
    appended, coded = tus.create(5), {"Content-Encoding": coding}
    key = native.headers | coded
    document = gzip.compress(b'{"filename": "a", "total_size": 5, "owner": "somebody"}')
    with nothing_stored(server):
        for response in (
            native.request("POST", "/upload/init", headers=key, data=document),
            native.request("POST", "/upload/session", headers=key, data=document),
            native.put_raw(upload, 0, b"bytes", headers=coded),
            native.put_raw(upload, 0, iter([b"bytes"]), headers=coded),
            resumable.request("POST", params=file.fields(1), data=b"bytes", headers=coded),
            resumable.parts_raw([*file.fields(1).items()], file, 1, headers=coded),
            tus.patch_raw(appended, 0, b"bytes", Content_Encoding=coding),
            tus.create_raw({"Upload-Length": 5} | coded, b"bytes"),
        ):
            assert_coding_refused(response)
    assert native.put_raw(upload, 0, b"bytes", token="x", headers=coded).status_code == 401
    assert native.request("POST", "/upload/init", headers=coded, data=b"").status_code == 401


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_that_says_it_is_not_coded_is_taken(server: Server, coding: str) -> None:
    native, tus, coded = Native(server), Tus(server), {"Content-Encoding": coding}
    assert native.put_raw(native.init(size=5), 0, b"bytes", headers=coded).status_code == 200
    assert tus.patch_raw(tus.create(5), 0, b"bytes", Content_Encoding=coding).status_code == 204


# Bugs and secrets


def test_a_bug_is_500_and_tells_nothing_but_where_to_look(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(WORKERS=1)
    native, tus = Native(server), Tus(server)
    upload, appended = native.init(size=5), tus.create(5)
    change(server, "UPDATE uploads SET state = 'nonsense'")
    server.expect_bugs = True
    for response in (
        native.request("GET", f"/upload/{upload.id}/status"),
        native.put_raw(upload, 0, b"bytes"),
        tus.patch_raw(appended, 0, b"bytes"),
    ):
        message = assert_problem(response.status_code, response.content, 500, "internal_error")
        assert message == "Internal server error; the log has it under this request id"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        told = [line for line in server.log_lines() if response.headers["X-Request-ID"] in line]
        assert any("nonsense" in line for line in told)


def test_secrets_never_reach_the_log(careful: Native) -> None:
    server = careful.server
    assert server.settings["LOG_LEVEL"] == "debug"
    upload = careful.init(size=5)
    token, key = upload.tokens[0], server.settings["API_KEY"]
    careful.put_raw(upload, 0, b"bytes", token=token + "x")
    careful.request("GET", f"/upload/{upload.id}/status?token={token}&api_key={key}")
    careful.request("GET", f"/upload/{upload.id}/status", headers={"X-API-Key": "wrong-0123456"})
    careful.put_all(upload, b"bytes")
    careful.complete(upload)
    log = "\n".join(server.log_lines())
    assert f"/upload/{upload.id}/status" in log
    secrets = (key, key.encode("unicode_escape").decode(), server.settings["JWT_SECRET"])
    for secret in (*secrets, "wrong-0123456", token, token.split(".")[2]):
        assert secret not in log
