"""The README's scripts for Resumable.js and flow.js, run in a browser as they stand."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page

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


@pytest.mark.parametrize("client", ["Resumable.js", "flow.js"])
def test_the_readmes_script_uploads(
    page: Page, uploads: Server, application: Application, tmp_path: Path, client: str
) -> None:
    entry = tmp_path / "entry.js"
    entry.write_text(snippet(client, uploads))
    script = bundle(entry, tmp_path / "bundle.js").read_text()
    token = session("reader")
    application.documents["/snippet"] = _PAGE.format(token=token, script=script)
    file = tmp_path / f"Grüße von {client}.bin"
    file.write_bytes(os.urandom(17 * MIB))  # three chunks by one way to cut, two by the other
    page.goto(f"{application.url}/snippet")
    with page.expect_console_message(timeout=PATIENCE_MS) as told:
        page.locator("input[type=file]").first.set_input_files(file)
    assert told.value.type == "log", told.value.text
    (path,) = stored_as(uploads, file.name)
    assert sha256(path) == sha256(file)
    downloaded = requests.get(
        told.value.text, headers={"Authorization": f"Bearer {token}"}, timeout=60
    )
    assert downloaded.content == file.read_bytes()
    path.unlink()
