"""Pages of other people with Resumable.js and flow.js as npm has them, on another origin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Page

from tests.browser.conftest import sha256, stored_as
from tests.harness.native import MIB
from tests.harness.server import Server
from tests.harness.upload_page import PATIENCE_MS, Traffic, session

#: Three and a half chunks: the last one is long by one geometry and short by the other.
SIZE = 3 * MIB + MIB // 2
CHUNKS = {"unforced": 3, "forced": 4}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file whose name has to be encoded everywhere it goes."""
    path = tmp_path / 'Übersicht & "Plan" 50%+1.bin'
    path.write_bytes(os.urandom(SIZE))
    return path


def upload(page: Page, elsewhere: str, client: str, options: dict[str, Any], file: Path) -> Any:
    """Upload a file with a client; return its outcome."""
    page.goto(f"{elsewhere}/{client}.html")
    page.evaluate("(options) => begin(options)", options)
    page.locator("input").first.set_input_files(file)
    outcome = page.wait_for_function(
        "(name) => window.outcomes[name]", arg=file.name, timeout=PATIENCE_MS
    )
    return outcome.json_value()


def assert_arrived(server: Server, outcome: Any, file: Path, token: str) -> None:
    """Assert that the file is there once, and that its location leads to it.

    A client hands on the answer that it saw last. Where chunks end together, that may be
    one from before the file was complete, so only what every answer says is looked at.
    """
    assert outcome["succeeded"], outcome
    (path,) = stored_as(server, file.name)
    assert sha256(path) == sha256(file)
    answer = outcome["answer"]
    assert answer["size"] == SIZE
    downloaded = requests.get(
        answer["location"], headers={"Authorization": f"Bearer {token}"}, timeout=60
    )
    assert downloaded.content == file.read_bytes()
    path.unlink()


@pytest.mark.parametrize("geometry", ["unforced", "forced"])
@pytest.mark.parametrize("method", ["multipart", "octet"])
def test_resumable_js_uploads_by_both_methods_and_geometries(
    page: Page, uploads: Server, elsewhere: str, file: Path, method: str, geometry: str
) -> None:
    traffic = Traffic()
    traffic.watch(page)
    token = session(f"resumable {method} {geometry}")
    options = {
        "target": f"{uploads.url}/api/upload",
        "headers": {"Authorization": f"Bearer {token}"},
        "method": method,
        "forceChunkSize": geometry == "forced",
    }
    outcome = upload(page, elsewhere, "resumable", options, file)
    assert sorted(traffic.sent) == list(range(1, CHUNKS[geometry] + 1))
    assert_arrived(uploads, outcome, file, token)


def test_flow_js_uploads_with_its_default_options(
    page: Page, uploads: Server, elsewhere: str, file: Path
) -> None:
    traffic = Traffic()
    traffic.watch(page)
    token = session("flow")
    options = {
        "target": f"{uploads.url}/api/upload",
        "headers": {"Authorization": f"Bearer {token}"},
    }
    outcome = upload(page, elsewhere, "flow", options, file)
    assert sorted(traffic.tested) == list(range(1, CHUNKS["unforced"] + 1))
    assert_arrived(uploads, outcome, file, token)


def test_flow_js_uploads_raw_bodies_with_the_token_in_the_query(
    page: Page, uploads: Server, elsewhere: str, file: Path
) -> None:
    token = session("flow octet")
    options = {
        "target": f"{uploads.url}/api/upload",
        "query": {"upload_token": token},
        "method": "octet",
        "forceChunkSize": True,
    }
    outcome = upload(page, elsewhere, "flow", options, file)
    assert_arrived(uploads, outcome, file, token)
    assert not any(token in line for line in uploads.log_lines())


@pytest.mark.parametrize("client", ["resumable", "flow"])
def test_a_client_gives_up_at_once_what_no_repetition_heals(
    page: Page, uploads: Server, elsewhere: str, file: Path, client: str
) -> None:
    traffic = Traffic()
    traffic.watch(page)
    token = session(f"small {client}", max_bytes=SIZE - 1)
    options = {
        "target": f"{uploads.url}/api/upload",
        "headers": {"Authorization": f"Bearer {token}"},
        "simultaneousUploads": 1,
    }
    outcome = upload(page, elsewhere, client, options, file)
    assert not outcome["succeeded"]
    assert "upload_too_large" in outcome["answer"]
    assert len(traffic.sent) <= 1
