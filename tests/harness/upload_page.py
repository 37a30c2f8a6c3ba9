"""The upload page as a person uses it: chooses files, reads states, presses buttons."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, Request, Response, expect

from app.domain.sessions import mint_session
from tests.harness.server import JWT_SECRET

#: How long anything may take on a machine that is busy with other things.
PATIENCE_MS = 60_000


def session(user: str = "alice", lifetime_seconds: int = 3600, **granted: object) -> str:
    """Return a session token, as an application gets it; a lifetime may be over already."""
    now_seconds = int(time.time())
    if lifetime_seconds <= 0:
        return mint_session("admin", user, now_seconds - 10, JWT_SECRET, lifetime_seconds=1)[0]
    return mint_session(
        "admin", user, now_seconds, JWT_SECRET, lifetime_seconds=lifetime_seconds, **granted
    )[0]


@dataclass
class Traffic:
    """Which chunks a page has asked for and sent, by their numbers; each as often as it did."""

    tested: list[int] = field(default_factory=list)
    present: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    _page: Page | None = None

    def watch(self, page: Page) -> None:
        """Count from now on."""
        self._page = page
        page.on("request", self._request)
        page.on("response", self._response)

    def settle(self) -> None:
        """Take in what the browser has told while the test waited for something else."""
        assert self._page is not None
        self._page.evaluate("0")

    def clear(self) -> None:
        """Forget what was counted."""
        for numbers in (self.tested, self.present, self.sent, self.stored):
            numbers.clear()

    def _request(self, request: Request) -> None:
        number = _chunk_number(request.url)
        if number is not None:
            {"GET": self.tested, "POST": self.sent}.get(request.method, []).append(number)

    def _response(self, response: Response) -> None:
        number = _chunk_number(response.url)
        if number is not None and response.status == 200:
            outcome = {"GET": self.present, "POST": self.stored}
            outcome.get(response.request.method, []).append(number)


def _chunk_number(url: str) -> int | None:
    split = urlsplit(url)
    if split.path != "/api/upload":
        return None
    fields = parse_qs(split.query)
    numbers = fields.get("resumableChunkNumber") or fields.get("flowChunkNumber")
    return int(numbers[0]) if numbers else None


class UploadPage:
    """Drives a page that has the widget in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.traffic = Traffic()
        self.traffic.watch(page)
        page.set_default_timeout(PATIENCE_MS)
        # Told to the browser once and for all: a key may be quicker than the order to
        # hand over choosers.
        page.on("filechooser", lambda _: None)
        page.on("dialog", lambda dialog: dialog.accept())  # "Leave this page?"

    def open(self, base_url: str, token: str = "") -> UploadPage:
        """Open the page as the link of an invitation does."""
        fragment = f"#token={token}" if token else ""
        self.page.goto(f"{base_url}/upload-page{fragment}")
        self.page.locator(".zone").wait_for()
        return self

    def reload(self) -> None:
        """Reload the page as a person does."""
        self.page.reload()
        self.page.locator(".zone").wait_for()

    def choose(self, *files: Path) -> None:
        """Choose files with the button."""
        self._choose("Choose files", list(files))

    def choose_folder(self, folder: Path) -> None:
        """Choose a folder with the button."""
        self._choose("Choose folder", folder)

    def drop(self, *paths: Path, onto: str = ".zone") -> None:
        """Drag files and folders from the desktop onto something and let them fall."""
        zone = self.page.locator(onto).bounding_box()
        assert zone is not None
        devtools = self.page.context.new_cdp_session(self.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            devtools.send(
                "Input.dispatchDragEvent",
                {
                    "type": kind,
                    "x": zone["x"] + zone["width"] / 2,
                    "y": zone["y"] + zone["height"] / 2,
                    "data": {
                        "items": [],
                        "files": [str(path) for path in paths],
                        "dragOperationsMask": 1,
                    },
                },
            )
        devtools.detach()

    def row(self, name: str) -> Locator:
        """Return the row of a file."""
        return self.page.locator(".row").filter(has=self.page.get_by_text(name, exact=True))

    def press(self, action: str, name: str) -> None:
        """Press a button of a file's row."""
        self.row(name).get_by_role("button", name=f"{action}: {name}").click()

    def wait_for_state(self, name: str, state: str) -> None:
        """Wait until the row of a file tells of a state."""
        expect(self.row(name).locator(".state")).to_have_text(state, timeout=PATIENCE_MS)

    def wait_for_done(self, *names: str) -> None:
        """Wait until files are done."""
        for name in names:
            self.wait_for_state(name, "Done")

    def percent(self, name: str) -> int:
        """Return how far a row says its file is."""
        told = re.match(r"(\d+)%", self.row(name).locator(".details").inner_text())
        return int(told[1]) if told else 0

    @property
    def notice(self) -> Locator:
        """What the page tells above all files."""
        return self.page.locator(".notice")

    def expect_notice(self, text: str) -> None:
        """Wait until the notice says something."""
        expect(self.notice).to_contain_text(text, timeout=PATIENCE_MS)

    def sign_in(self, token: str) -> None:
        """Paste a token into the form."""
        self.page.get_by_label("Upload token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()

    def _choose(self, button: str, files: Path | Sequence[Path]) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name=button).click()
        chooser.value.set_files(files)
