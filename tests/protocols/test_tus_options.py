"""OPTIONS /files: what the server says it can do (tus 1.0.0, Core Protocol, "OPTIONS")."""

from __future__ import annotations

import pytest

from tests.harness.server import Server
from tests.harness.tus import Tus
from tests.protocols.conftest import LIMIT_BYTES

pytestmark = pytest.mark.once(why="OPTIONS asks neither storage nor database")

EXTENSIONS = {
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "checksum-trailer",
    "termination",
    "concatenation",
    "concatenation-unfinished",
}

#: What a page's script must be able to read.
READ_BY_CLIENTS = {
    "Location",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Expires",
}

PREFLIGHT = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "PATCH"}


def listed(header: str) -> list[str]:
    return [name.strip() for name in header.split(",")]


@pytest.mark.parametrize("path", ["/files", "/files/", "/files/some-upload"])
def test_it_is_answered_204_with_the_versions(tus: Tus, path: str) -> None:
    response = tus.request("OPTIONS", path)
    assert response.status_code == 204
    assert response.content == b""
    assert response.headers["Tus-Version"] == "1.0.0"
    assert response.headers["Tus-Resumable"] == "1.0.0"


def test_every_extension_is_announced(tus: Tus) -> None:
    announced = listed(tus.request("OPTIONS").headers["Tus-Extension"])
    assert set(announced) == EXTENSIONS
    assert len(announced) == len(EXTENSIONS)


def test_the_checksum_algorithms_are_announced_sha1_among_them(tus: Tus) -> None:
    algorithms = listed(tus.request("OPTIONS").headers["Tus-Checksum-Algorithm"])
    assert algorithms == ["sha1", "sha256", "md5", "crc32"]


def test_the_largest_size_is_announced_only_where_there_is_one(tus: Tus, limited: Server) -> None:
    assert "Tus-Max-Size" not in tus.request("OPTIONS").headers
    assert Tus(limited).request("OPTIONS").headers["Tus-Max-Size"] == str(LIMIT_BYTES)


@pytest.mark.parametrize("version", [None, "1.0.0", "0.2.2", "nonsense"])
def test_the_client_s_version_is_ignored(tus: Tus, version: str | None) -> None:
    assert tus.request("OPTIONS", headers={"Tus-Resumable": version}).status_code == 204


def test_no_credentials_are_needed(server: Server) -> None:
    assert Tus(server, None).request("OPTIONS").status_code == 204


def test_a_preflight_allows_all_that_clients_send(tus: Tus) -> None:
    response = tus.request("OPTIONS", "/files/some-upload", PREFLIGHT)
    assert response.status_code == 204
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    methods = listed(response.headers["Access-Control-Allow-Methods"])
    assert {"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"} <= set(methods)
    assert {
        "Authorization",
        "Content-Type",
        "Tus-Resumable",
        "Upload-Length",
        "Upload-Offset",
        "Upload-Metadata",
        "Upload-Defer-Length",
        "Upload-Concat",
        "Upload-Checksum",
        "X-HTTP-Method-Override",
        "X-Request-ID",
    } <= set(listed(response.headers["Access-Control-Allow-Headers"]))


def test_scripts_of_pages_may_read_every_header_of_the_protocol(tus: Tus) -> None:
    upload = tus.create(5)
    for response in (
        tus.request("OPTIONS", headers=PREFLIGHT),
        tus.head(upload, Origin="https://app.example.com"),
        tus.request("HEAD", "/files/unknown", {"Origin": "https://app.example.com"}),
        tus.request("PUT", "/files", {"Origin": "https://app.example.com"}),
    ):
        exposed = set(listed(response.headers["Access-Control-Expose-Headers"]))
        assert exposed >= READ_BY_CLIENTS


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/files", {"OPTIONS", "POST"}),
        ("PATCH", "/files", {"OPTIONS", "POST"}),
        ("PUT", "/files/x", {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH"}),
        ("POST", "/files/x", {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH"}),
        ("GET", "/files", {"OPTIONS", "POST"}),
        ("FROBNICATE", "/files/x", {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH"}),
    ],
)
def test_other_methods_are_405_and_learn_which_there_are(
    tus: Tus, method: str, path: str, allowed: set[str]
) -> None:
    response = tus.request(method, path)
    assert response.status_code == 405
    assert response.headers["Tus-Resumable"] == "1.0.0"
    assert set(listed(response.headers["Allow"])) == allowed


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/files/a/b", {}),
        ("POST", "/files", {"X-API-Key": "wrong"}),
        ("POST", "/files", {"X-API-Key": None}),
        ("POST", "/files", {"Tus-Resumable": None}),
        ("POST", "/files", {}),
        ("POST", "/files", {"Transfer-Encoding": "gzip"}),
        ("PATCH", "/files/unknown", {}),
        ("HEAD", "/files/unknown", {}),
        ("DELETE", "/files/unknown", {}),
        ("GET", "/files/unknown", {}),
    ],
)
def test_every_answer_names_the_version_errors_included(
    tus: Tus, method: str, path: str, headers: dict[str, str | None]
) -> None:
    response = tus.request(method, path, headers)
    assert response.status_code >= 400
    assert response.headers["Tus-Resumable"] == "1.0.0"
    assert response.headers["X-Request-ID"]


def test_other_routes_do_not(tus: Tus) -> None:
    assert "Tus-Resumable" not in tus.request("GET", "/health").headers
    assert "Tus-Resumable" not in tus.request("GET", "/filesystem").headers
