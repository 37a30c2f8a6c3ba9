"""tus-js-client, driven from a test: in a process of Node, or in a page of Chromium."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.harness.browser import find_node

SCRIPTS = Path(__file__).parent / "js"

#: How long an upload of a test may take on a busy machine; only a failure takes it all.
UPLOAD_SECONDS = 60

Event = dict[str, Any]


class TusJs(ABC):
    """A client that uploads one file at a time, and tells what happens as ``events``."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers
        self.events: list[Event] = []
        self._seen = 0

    def start(self, endpoint: str, path: Path, *, kind: str = "file", **options: Any) -> None:
        """Begin to upload a file with options of tus-js-client.

        ``kind``: ``file``, or ``stream`` for a source whose length nobody knows.
        ``resume=True``: go on with an upload of the same file that is remembered.
        """
        options = {"endpoint": endpoint, "headers": self._headers, "retryDelays": None} | options
        self._command("start", {"kind": kind, "options": options}, path)

    def abort(self, *, terminate: bool = False) -> None:
        """Abort the upload, and delete it on the server if so wished."""
        self._command("abort", {"terminate": terminate}, None)
        event = self.wait_for("aborted", "error")
        assert event["type"] == "aborted", event

    def upload(self, endpoint: str, path: Path, **options: Any) -> str:
        """Upload a file and return its URL."""
        self.start(endpoint, path, **options)
        return self.succeed()

    def succeed(self) -> str:
        """Wait until the upload is complete and return its URL."""
        event = self.wait_for("success", "error")
        assert event["type"] == "success", event
        url: str = event["url"]
        return url

    def fail(self) -> Event:
        """Wait until the upload has failed and return the event that tells why."""
        event = self.wait_for("success", "error")
        assert event["type"] == "error", event
        return event

    def wait_for(self, *types: str) -> Event:
        """Return the next event of one of these types that has not been returned yet."""
        give_up_at = time.monotonic() + UPLOAD_SECONDS
        while True:
            for event in self.events[self._seen :]:
                self._seen += 1
                if event["type"] in types:
                    return event
            assert time.monotonic() < give_up_at, f"none of {types} in {self.events}"
            self.events += self._new_events(UPLOAD_SECONDS)

    @property
    def requests(self) -> list[str]:
        """The requests so far, each as ``POST``, or ``PATCH 1024`` if it names an offset."""
        sent = [event for event in self.events if event["type"] == "request"]
        return [
            " ".join([event["method"], *filter(None, [event["headers"].get("Upload-Offset")])])
            for event in sent
        ]

    @abstractmethod
    def start_anew(self) -> None:
        """Forget everything that is not stored, as after a crash."""

    @abstractmethod
    def _command(self, name: str, told: dict[str, Any], path: Path | None) -> None:
        """Have the script carry out a command, on a file if it needs one."""

    @abstractmethod
    def _new_events(self, seconds: float) -> list[Event]:
        """Wait until something more has happened."""


class TusJsInNode(TusJs):
    """``node.mjs`` in a process; URLs of uploads are remembered in a file."""

    def __init__(self, headers: dict[str, str], directory: Path) -> None:
        super().__init__(headers)
        self._node = find_node()
        self._urls = directory / "urls.json"
        self._process = self._spawn()

    def start_anew(self) -> None:
        self.close()
        self._process = self._spawn()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _spawn(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self._node, str(SCRIPTS / "node.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_read_events, args=(process, self._queue))
        self._reader.start()
        return process

    def _command(self, name: str, told: dict[str, Any], path: Path | None) -> None:
        line = told | {"command": name, "path": str(path), "urlStorage": str(self._urls)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")

    def _new_events(self, seconds: float) -> list[Event]:
        event = self._queue.get(timeout=seconds)
        assert event["type"] != "end", "node has ended; its standard error says why"
        return [event]


def _read_events(process: subprocess.Popen[str], events: queue.SimpleQueue[Event]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        events.put(json.loads(line))
    events.put({"type": "end"})


class TusJsInChromium(TusJs):
    """``browser.mjs`` in a page; URLs of uploads are remembered in its localStorage."""

    def __init__(self, headers: dict[str, str], page: Page, url: str) -> None:
        super().__init__(headers)
        self._page = page
        self._read = 0
        self._page.goto(url)

    def start_anew(self) -> None:
        self._page.reload()
        self._read = 0

    def _command(self, name: str, told: dict[str, Any], path: Path | None) -> None:
        if path is not None:
            self._page.set_input_files("#file", path)
        self._page.evaluate(f"told => window.{name}(told)", told)

    def _new_events(self, seconds: float) -> list[Event]:
        self._page.wait_for_function(
            "read => window.events.length > read", arg=self._read, timeout=seconds * 1000
        )
        new: list[Event] = self._page.evaluate("read => window.events.slice(read)", self._read)
        self._read += len(new)
        return new
