"""curl, by which people try things, and which asks before it sends a large body."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.stored import assert_stored
from tests.clients.tus_js import UPLOAD_SECONDS
from tests.harness.missing import lacking
from tests.harness.native import MIB
from tests.harness.server import API_KEY, Server
from tests.harness.tus import CONTENT_TYPE, metadata

pytestmark = pytest.mark.live

MakeFile = Callable[..., Path]


def create(server: Server, sent: Path, length: int) -> list[str]:
    """Create an upload together with its bytes; return the lines of all answers' heads."""
    if shutil.which("curl") is None:
        lacking("curl is not installed (Debian: apt-get install curl)")
    headers = {
        "Tus-Resumable": "1.0.0",
        "X-API-Key": API_KEY,
        "Upload-Length": str(length),
        "Upload-Metadata": metadata(filename=sent.name),
        "Content-Type": CONTENT_TYPE,
        "Expect": "100-continue",
    }
    words = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    patience = str(UPLOAD_SECONDS)  # curl itself would wait for a second and then send all the same
    done = subprocess.run(
        [
            *("curl", "-sS", "-i", "--expect100-timeout", patience, "--max-time", patience),
            *("-X", "POST", "--data-binary", f"@{sent}", *words, f"{server.url}/files"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def statuses(lines: list[str]) -> list[str]:
    """Return the statuses of answers, interim ones too."""
    return [line.split()[1] for line in lines if line.startswith("HTTP/")]


def test_a_client_that_asks_first_is_told_to_go_on(server: Server, file: MakeFile) -> None:
    sent = file("asked.bin", 3 * MIB)
    lines = create(server, sent, 3 * MIB)
    assert statuses(lines) == ["100", "201"]
    (location,) = (line for line in lines if line.startswith("Location: "))
    assert_stored(server, location.removeprefix("Location: "), sent)


def test_a_client_that_asks_first_learns_of_a_refusal(server: Server, file: MakeFile) -> None:
    lines = create(server, file("refused.bin", 3 * MIB), MIB)
    assert statuses(lines)[-1] == "413"
