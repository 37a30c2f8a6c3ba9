"""The README's scripts for Resumable.js and flow.js, run in a browser as they stand."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, Route

from tests.browser.conftest import Application, sha256, stored_as
from tests.harness.browser import bundle
from tests.harness.native import MIB
from tests.harness.server import ROOT, Server
from tests.harness.upload_page import PATIENCE_MS, session

README = (ROOT / "README.md").read_text()

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<link rel="icon" href="data:,">
<div id="drop"><button id="choose">Choose</button></div>
<script>const token = "{token}"</script>
<script>{script}</script>
"""


def snippet(client: str, server: Server) -> str:
    """Return the README's script for a client, for this server."""
    block = re.search(rf"<!-- {re.escape(client)}: .*?-->\n```js\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert "https://uploads.example.com" in block[1]
    return block[1].replace("https://uploads.example.com", server.url)


#: Three chunks by one way to cut, two by the other.
SIZE = 17 * MIB


@pytest.fixture(params=["Resumable.js", "flow.js"])
def client(request: pytest.FixtureRequest) -> str:
    """A client that the README has a script for."""
    return str(request.param)


@pytest.fixture
def open_page(
    page: Page, uploads: Server, application: Application, tmp_path: Path, client: str
) -> Callable[[str], None]:
    """Opens a page with the client's script, for a token."""
    entry = tmp_path / "entry.js"
    entry.write_text(snippet(client, uploads))
    script = bundle(entry, tmp_path / "bundle.js").read_text()

    def open_page(token: str) -> None:
        application.documents["/snippet"] = _PAGE.format(token=token, script=script)
        page.goto(f"{application.url}/snippet")

    return open_page


def upload(page: Page, file: Path) -> str:
    """Choose a file; return what the script logs at its end."""
    page.set_default_timeout(PATIENCE_MS)
    with page.expect_console_message(lambda message: message.type == "log") as told:
        page.locator("input[type=file]").first.set_input_files(file)
    return told.value.text


def test_the_readmes_script_uploads(
    page: Page, uploads: Server, tmp_path: Path, client: str, open_page: Callable[[str], None]
) -> None:
    file = tmp_path / f"Grüße von {client}.bin"
    file.write_bytes(os.urandom(SIZE))
    token = session("reader")
    open_page(token)
    location = upload(page, file)
    (path,) = stored_as(uploads, file.name)
    assert sha256(path) == sha256(file)
    downloaded = requests.get(location, headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert downloaded.content == file.read_bytes()
    path.unlink()


def test_the_readmes_identifier_keeps_an_edited_file_apart(
    page: Page, uploads: Server, tmp_path: Path, client: str, open_page: Callable[[str], None]
) -> None:
    """Name and size are the same, and a chunk of the old file is there."""
    token = session(f"editor with {client}")
    file = tmp_path / "edited.bin"
    file.write_bytes(os.urandom(SIZE))
    sent: list[str] = []

    def let_one_pass(route: Route) -> None:
        if route.request.method == "POST":
            sent.append(route.request.url)
        if len(sent) > 1:
            route.abort()
        else:
            route.continue_()

    page.route("**/api/upload*", let_one_pass)
    open_page(token)
    with page.expect_response(
        lambda answer: answer.request.method == "POST" and answer.ok, timeout=PATIENCE_MS
    ):
        page.locator("input[type=file]").first.set_input_files(file)
    page.goto("about:blank")
    page.unroute("**/api/upload*")
    file.write_bytes(os.urandom(SIZE))
    os.utime(file, (1, 1))
    open_page(token)
    upload(page, file)
    (path,) = stored_as(uploads, file.name)
    assert sha256(path) == sha256(file)
    path.unlink()
