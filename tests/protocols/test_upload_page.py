"""The upload page's files and settings, as a browser gets them. The page itself: tests/browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
import requests

from app.domain.sessions import Session, mint_session, session_token
from app.protocols.upload_page import PAGE
from tests.harness.places import Place
from tests.harness.server import API_KEY, JWT_SECRET, Server
from tests.harness.wire import assert_problem

pytestmark = pytest.mark.once(why="pages come from the disk, whatever keeps uploads")

FILES = sorted(path.name for path in PAGE.iterdir())

#: The project's bound for a file that one reads from top to bottom.
MAX_LINES = 300


def token(user: str = "alice", **granted: object) -> str:
    """Return a session token as an application with the API key of the settings gets it."""
    return mint_session("admin", user, int(time.time()), JWT_SECRET, **granted)[0]


def get(server: Server, path: str, **headers: str) -> requests.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(server.url + path, headers=named, timeout=30, allow_redirects=False)


def settings_of(server: Server, session: str = "") -> requests.Response:
    headers = {"Authorization": f"Bearer {session}"} if session else {}
    return get(server, "/upload-page/settings", **headers)


@pytest.fixture(scope="module")
def open_to_all(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which anybody may upload, up to 1 MiB."""
    server = place.server(
        tmp_path_factory.mktemp("open"),
        ANONYMOUS_PROTOCOLS="resumable",
        MAX_UPLOAD_BYTES="1M",
        CHUNK_SIZE_MB="7",
        UPLOAD_TTL_HOURS="8",
        ABANDONED_AFTER_HOURS="0.5",
    )
    server.start()
    yield server
    server.close()


# The page and its files


def test_the_page_is_html_that_runs_only_its_own_scripts(server: Server) -> None:
    answer = get(server, "/upload-page")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|style=", answer.text)


def test_the_page_refers_to_its_files_without_a_leading_slash(server: Server) -> None:
    """Behind a proxy that serves it below a prefix they are below that prefix too."""
    references = re.findall(r'(?:src|href)="([^"]+)"', get(server, "/upload-page").text)
    assert references
    for reference in references:
        assert reference.startswith("upload-page/")
        assert get(server, f"/{reference}").status_code == 200


def test_a_slash_behind_the_page_leads_to_the_page(server: Server) -> None:
    answer = get(server, "/upload-page/")
    assert answer.status_code == 308
    assert answer.headers["Location"] == "../upload-page"


@pytest.mark.parametrize("file", [name for name in FILES if name != "index.html"])
def test_a_file_has_its_type_and_is_for_pages_of_all_origins(server: Server, file: str) -> None:
    answer = get(server, f"/upload-page/{file}", Origin="https://app.example.com")
    assert answer.status_code == 200
    kind = {
        "js": "text/javascript; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "svg": "image/svg+xml; charset=utf-8",
    }
    assert answer.headers["Content-Type"] == kind[file.rpartition(".")[2]]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert answer.content == (PAGE / file).read_bytes()


def test_an_unchanged_file_is_asked_for_again_and_not_sent_again(server: Server) -> None:
    first = get(server, "/upload-page/widget.js")
    assert first.headers["Cache-Control"] == "no-cache"
    again = get(server, "/upload-page/widget.js", If_None_Match=first.headers["ETag"])
    assert again.status_code == 304
    assert again.content == b""


@pytest.mark.parametrize(
    "path",
    [
        "nothing.js",
        "..%2Fpage.js",
        "..%2f..%2fpackage.json",
        ".env",
        "%00.js",
        "sub/page.js",
        f"{'a' * 300}.js",
    ],
)
def test_other_names_are_not_found(server: Server, path: str) -> None:
    answer = get(server, f"/upload-page/{path}")
    assert_problem(answer.status_code, answer.content, 404, "not_found")


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_the_page_is_short_enough_to_read(file: str) -> None:
    assert len((PAGE / file).read_text().splitlines()) <= MAX_LINES


# Settings


def test_without_a_token_the_settings_say_that_one_is_needed(server: Server) -> None:
    answer = settings_of(server)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.json()
    assert told["needs_token"] is True
    assert told["account"] is None


def test_settings_tell_what_the_token_and_the_server_allow(server: Server) -> None:
    told = settings_of(server, token(max_bytes=12345)).json()
    assert told["needs_token"] is False
    assert told["max_file_bytes"] == 12345
    assert told["max_chunk_bytes"] == 1024 * 1024
    assert told["unfinished_seconds"] == 24 * 3600
    assert settings_of(server, token()).json()["max_file_bytes"] is None


def test_the_account_tells_users_apart_and_does_not_name_them(server: Server) -> None:
    accounts = [settings_of(server, token(user)).json()["account"] for user in ("a", "b", "a")]
    assert accounts[0] == accounts[2] != accounts[1]
    assert re.fullmatch(r"[0-9a-f]{16}", accounts[0])


def test_anybody_gets_on_where_the_protocol_is_open_to_all(open_to_all: Server) -> None:
    told = settings_of(open_to_all).json()
    assert told["needs_token"] is False
    assert told["account"]
    assert told["max_file_bytes"] == 1024 * 1024
    assert told["max_chunk_bytes"] == 7 * 1024 * 1024
    assert told["unfinished_seconds"] == 1800
    smaller = settings_of(open_to_all, token(max_bytes=100)).json()
    larger = settings_of(open_to_all, token(max_bytes=10**9)).json()
    assert (smaller["max_file_bytes"], larger["max_file_bytes"]) == (100, 1024 * 1024)


def test_an_expired_token_is_told_as_expired(server: Server) -> None:
    session = Session("user:admin/alice", "", None, None)
    expired = session_token(session, int(time.time()) - 1, JWT_SECRET)
    answer = settings_of(server, expired)
    assert_problem(answer.status_code, answer.content, 401, "token_expired")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("session", ["nonsense", API_KEY, "e30.e30.e30"])
def test_a_wrong_token_is_refused_and_not_taken_for_none(
    server: Server, open_to_all: Server, session: str
) -> None:
    for asked in (server, open_to_all):
        answer = settings_of(asked, session)
        assert_problem(answer.status_code, answer.content, 401, "not_authenticated")


def test_a_token_for_other_protocols_is_refused(server: Server) -> None:
    answer = settings_of(server, token(protocols=frozenset({"tus"})))
    assert_problem(answer.status_code, answer.content, 403, "not_authorized")


def test_a_preflight_allows_the_token(server: Server) -> None:
    answer = requests.options(
        f"{server.url}/upload-page/settings",
        headers={
            "Origin": "https://app.example.com",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        },
        timeout=30,
    )
    assert answer.status_code == 200
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"].lower()
