"""The widget on a page of another origin: one script tag, a token from the application."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest
import requests
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Application, LargeFile, sha256, stored_as
from tests.conftest import StartServer
from tests.harness.gate import Gate
from tests.harness.native import MIB
from tests.harness.server import API_KEY, ROOT, Server
from tests.harness.upload_page import PATIENCE_MS, UploadPage, session

README = (ROOT / "README.md").read_text()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three chunks."""
    path = tmp_path / "embedded.bin"
    path.write_bytes(os.urandom(10 * MIB))
    return path


def embedded(
    elsewhere: str, server: Server | Gate, page: str = "embedded", **attributes: str
) -> str:
    """Return the address of the application's page."""
    return f"{elsewhere}/{page}.html?{urlencode({'server': server.url, **attributes})}"


def test_one_script_tag_makes_the_widget_and_it_uploads(
    page: Page, uploads: Server, elsewhere: str, file: Path
) -> None:
    upload_page = UploadPage(page)
    page.goto(embedded(elsewhere, uploads, token=session("embedded")))
    upload_page.choose(file)
    upload_page.wait_for_done(file.name)
    (path,) = stored_as(uploads, file.name)
    assert sha256(path) == sha256(file)
    ready, done = page.evaluate("window.told")
    assert ready == {"type": "ready"}
    assert (done["type"], done["path"], done["complete"]) == ("done", file.name, True)
    assert done["location"].endswith(f"/download/{done['id']}")
    # The application's style stays outside, and the widget stays where the tag was.
    assert page.locator("#here longhaul-upload").count() == 1
    assert page.get_by_role("button", name="Choose files").is_visible()
    colour = upload_page.row(file.name).evaluate("(row) => getComputedStyle(row).color")
    assert colour != "rgb(255, 0, 0)"


def test_the_tag_of_the_readme_works_as_printed(
    page: Page, uploads: Server, application: Application, file: Path
) -> None:
    block = re.search(r"<!-- embedding: .*?-->\n```html\n(.*?)```", README, re.DOTALL)
    assert block is not None
    tag = block[1].replace("http://localhost:3000", uploads.url)
    application.documents["/"] = f"<!doctype html><html lang=en><body>{tag}</body></html>"
    page.route("**/upload-token", lambda route: route.fulfill(json=minted(uploads)))
    upload_page = UploadPage(page)
    page.goto(f"{application.url}/")
    upload_page.choose(file)
    upload_page.wait_for_done(file.name)


def minted(server: Server) -> dict[str, str]:
    """Return what an application hands on from POST /upload/session."""
    answer = requests.post(
        f"{server.url}/upload/session",
        headers={"X-API-Key": API_KEY},
        json={"owner": "reader", "directory": "inbox/reader", "expires_in": 3600},
        timeout=30,
    )
    told: dict[str, str] = answer.json()
    return told


def test_a_token_url_gives_the_first_token_and_the_next_ones(
    page: Page, uploads: Server, elsewhere: str, file: Path
) -> None:
    answers = [session("by url", lifetime_seconds=0), session("by url")]
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(json={"token": answers[min(len(asked), len(answers)) - 1]})

    page.route("**/upload-token", answer)
    upload_page = UploadPage(page)
    page.goto(embedded(elsewhere, uploads, tokenUrl="/upload-token"))
    upload_page.choose(file)
    upload_page.wait_for_done(file.name)
    assert len(asked) == len(answers)


def test_the_application_is_asked_for_another_token_when_one_expires(
    page: Page, uploads: Server, elsewhere: str, file: Path
) -> None:
    upload_page = UploadPage(page)
    page.goto(embedded(elsewhere, uploads, "element"))
    token = session("by function", lifetime_seconds=0)
    page.evaluate("(token) => { window.nextToken = token; return start().then(() => 0); }", token)
    page.wait_for_function("window.asked.length >= 2")
    page.evaluate("(token) => { window.nextToken = token; }", session("by function"))
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Dateien wählen").click()
    chooser.value.set_files(file)
    upload_page.wait_for_state(file.name, "Fertig")
    asked = page.evaluate("window.asked")
    assert asked[0] == "token_missing"
    assert set(asked[1:]) == {"token_expired"}
    assert "10,5" in upload_page.row(file.name).inner_text()  # numbers as Germans write them


def test_an_application_without_a_token_is_told_apart_from_an_expired_one(
    page: Page, uploads: Server, elsewhere: str
) -> None:
    upload_page = UploadPage(page)
    page.goto(embedded(elsewhere, uploads))
    upload_page.expect_notice("has no permission from its application")
    page.goto(embedded(elsewhere, uploads, token=session(lifetime_seconds=0)))
    upload_page.expect_notice("reload this page")
    page.evaluate(
        "(token) => { document.querySelector('longhaul-upload').token = token; }", session()
    )
    expect(upload_page.notice).to_be_hidden(timeout=PATIENCE_MS)


def test_a_page_of_an_origin_that_may_not_upload_does_not_even_get_the_script(
    page: Page, start_server: StartServer, elsewhere: str
) -> None:
    server = start_server(CORS_ORIGINS="https://app.example.com")
    page.goto(embedded(elsewhere, server, token=session()))
    page.wait_for_function("window.told.length", timeout=PATIENCE_MS)
    assert page.evaluate("window.told") == [{"type": "refused"}]
    assert page.locator("longhaul-upload").count() == 0


def test_an_element_that_leaves_the_page_uploads_no_more(
    page: Page, gate: Gate, elsewhere: str, large_file: LargeFile
) -> None:
    upload_page = UploadPage(page)
    page.goto(embedded(elsewhere, gate, token=session("leaving")))
    gate.allow(20 * MIB)
    upload_page.choose(large_file.path)
    gate.wait_until_held()
    # A move within the page is no leaving.
    page.evaluate("document.body.prepend(document.querySelector('longhaul-upload'))")
    upload_page.wait_for_state(large_file.name, "Uploading")
    page.evaluate(
        "window.removed = document.querySelector('longhaul-upload'); window.removed.remove()"
    )
    page.evaluate("document.body.prepend(window.removed)")
    upload_page.wait_for_state(large_file.name, "Paused")
    gate.allow(None)
    upload_page.press("Resume", large_file.name)
    upload_page.wait_for_done(large_file.name)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_can_choose_the_theme(
    page: Page, uploads: Server, elsewhere: str, theme: str
) -> None:
    page.emulate_media(color_scheme="dark" if theme == "light" else "light")
    page.goto(embedded(elsewhere, uploads, token=session(), theme=theme))
    background = page.locator(".zone").evaluate("(zone) => getComputedStyle(zone).backgroundColor")
    channels = json.loads(background.replace("rgb(", "[").replace(")", "]"))
    assert (sum(channels) > 3 * 128) == (theme == "light")
