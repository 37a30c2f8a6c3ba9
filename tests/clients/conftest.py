"""Clients that exist: from npm, PyPI and the system, against a server with two workers.

Pages come from an origin of their own, so that browsers ask for permission
(CORS) as they do where the server is not on the page's site.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.tus_js import SCRIPTS, TusJs, TusJsInChromium, TusJsInNode
from tests.harness.browser import bundle
from tests.harness.native import TIMEOUT_SECONDS
from tests.harness.network import Network
from tests.harness.server import API_KEY, Server

_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{name}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{name}.css">
<input id="file" type="file">
<div id="dashboard"></div>
<script src="{name}.js"></script>
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the test pages ``browser.html`` and ``uppy.html``."""
    directory = tmp_path_factory.mktemp("pages")
    for script in (SCRIPTS / "browser.mjs", SCRIPTS / "uppy.mjs"):
        name = script.stem
        bundle(script, directory / f"{name}.js")
        (directory / f"{name}.css").touch()  # a script without styles makes none
        (directory / f"{name}.html").write_text(_PAGE.format(name=name))
    handler = partial(_Quiet, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def session_token(server: Server, **claims: object) -> str:
    """Return a token such as an application makes for a page of its user."""
    response = requests.post(
        f"{server.url}/upload/session",
        json={"owner": "somebody", "protocols": ["tus"]} | claims,
        headers={"X-API-Key": API_KEY},
        timeout=TIMEOUT_SECONDS,
    )
    assert response.status_code == 200, response.text
    token: str = response.json()["token"]
    return token


@pytest.fixture(params=["node", "chromium"])
def tus_js(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[TusJs]:
    """tus-js-client, in Node with the API key and in Chromium with a session's token."""
    if request.param == "node":
        client = TusJsInNode({"X-API-Key": API_KEY}, tmp_path)
        yield client
        client.close()
    else:
        page, pages = (request.getfixturevalue(name) for name in ("page", "pages"))
        headers = {"Authorization": f"Bearer {session_token(server)}"}
        yield TusJsInChromium(headers, page, f"{pages}/browser.html")


@pytest.fixture
def network(server: Server) -> Iterator[Network]:
    """A network before the shared server."""
    with Network(server.port) as path:
        yield path


@pytest.fixture
def file(tmp_path: Path, content: Callable[[int], bytes]) -> Callable[..., Path]:
    """Make files of random bytes: ``file("movie.mp4", 3 * MIB)``."""

    def make(name: str, size: int) -> Path:
        path = tmp_path / name
        path.write_bytes(content(size))
        return path

    return make
