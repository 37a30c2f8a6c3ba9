"""Uppy's Dashboard in Chromium: several files, pausing, resuming and cancelling by its buttons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.clients.conftest import session_token
from tests.clients.stored import assert_stored, head, is_gone, metadata
from tests.clients.tus_js import UPLOAD_SECONDS
from tests.harness.native import MIB
from tests.harness.network import Network
from tests.harness.server import Server
from tests.harness.wire import wait_until

pytestmark = pytest.mark.live

MakeFile = Callable[..., Path]

RETRY_DELAYS = [0, 100, 200, 500, 500, 1000, 1000, 1000]


class Dashboard:
    """The Dashboard on its page, with the endpoint of a server or of a network before it."""

    def __init__(self, page: Page, url: str, endpoint: str, token: str) -> None:
        self.page = page
        page.set_default_timeout(UPLOAD_SECONDS * 1000)
        page.goto(url)
        options = {
            "endpoint": f"{endpoint}/files/",
            "headers": {"Authorization": f"Bearer {token}"},
            "retryDelays": RETRY_DELAYS,
        }
        page.evaluate("options => window.start(options)", options)

    def choose(self, *files: Path) -> None:
        """Choose files, as a user does by the dialog that "browse files" opens."""
        with self.page.expect_file_chooser() as chooser:
            self.press("browse files")
        chooser.value.set_files(list(files))

    def press(self, button: str) -> None:
        """Press a button by its name."""
        self.page.get_by_role("button", name=button, exact=True).click()

    def complete(self) -> dict[str, str]:
        """Wait until all is complete; return the uploads' URLs by their files' names."""
        self.page.wait_for_function("window.complete")
        result = self.page.evaluate("window.complete")
        assert result["failed"] == []
        return dict(result["successful"])

    @property
    def urls(self) -> list[str]:
        """The URLs of the uploads that go on."""
        urls: list[str] = self.page.evaluate(
            "window.uppy.getFiles().map(file => file.tus?.uploadUrl).filter(url => url)"
        )
        return urls

    @property
    def answers(self) -> list[str]:
        """The answers so far, each as ``PATCH 204``."""
        answers: list[str] = self.page.evaluate("window.answers")
        return answers


@pytest.fixture
def dashboard(page: Page, pages: str, server: Server, network: Network) -> Dashboard:
    """The Dashboard of a user whom the application has given a token."""
    return Dashboard(page, f"{pages}/uppy.html", network.url, session_token(server))


def test_several_files_are_uploaded(dashboard: Dashboard, server: Server, file: MakeFile) -> None:
    files = [file("Füße.mp4", 5 * MIB + 1), file("notes.txt", 3), file("data.bin", 2 * MIB)]
    dashboard.choose(*files)
    dashboard.press("Upload 3 files")
    urls = dashboard.complete()
    assert len(urls) == len(files)
    for path in files:
        assert_stored(server, urls[path.name], path)
    told = metadata(server, urls["Füße.mp4"])
    assert (told["filename"], told["filetype"]) == ("Füße.mp4", "video/mp4")
    assert sorted(dashboard.answers) == ["PATCH 204"] * 3 + ["POST 201"] * 3


def test_a_paused_upload_is_resumed(
    dashboard: Dashboard, server: Server, network: Network, file: MakeFile
) -> None:
    sent = file("paused.bin", 9 * MIB)
    network.hold_after(5 * MIB)
    dashboard.choose(sent)
    dashboard.press("Upload 1 file")
    network.wait()
    dashboard.press("Pause")
    (url,) = dashboard.urls
    wait_until(lambda: head(server, url).headers["Upload-Offset"] != "0", "the server has a part")
    dashboard.press("Resume")
    assert dashboard.complete() == {sent.name: url}
    assert dashboard.answers == ["POST 201", "HEAD 200", "PATCH 204"]
    assert_stored(server, url, sent)


def test_a_cancelled_upload_is_deleted_on_the_server(
    dashboard: Dashboard, server: Server, network: Network, file: MakeFile
) -> None:
    network.hold_after(5 * MIB)
    dashboard.choose(file("cancelled.bin", 9 * MIB))
    dashboard.press("Upload 1 file")
    network.wait()
    (url,) = dashboard.urls
    dashboard.page.locator(".uppy-StatusBar").get_by_role("button", name="Cancel").click()
    wait_until(lambda: dashboard.answers == ["POST 201", "DELETE 204"], "the DELETE is answered")
    assert is_gone(server, url)
