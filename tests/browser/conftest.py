"""What tests with browsers share: servers, large files, pages of another origin."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page

from app.protocols.upload_page import THIRD_PARTY
from tests.harness.browser import NODE_MODULES
from tests.harness.gate import Gate
from tests.harness.missing import lacking
from tests.harness.native import MIB
from tests.harness.server import Server
from tests.harness.upload_page import UploadPage

PAGES = Path(__file__).parent / "pages"

LARGE_BYTES = 200 * MIB

#: Parts of the file that tests stop in: enough of them for a middle.
CHUNK_MB = 4


@dataclass(frozen=True)
class LargeFile:
    """A file of random bytes."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name


@pytest.fixture(scope="session", autouse=True)
def third_party() -> None:
    """Resumable.js and flow.js from npm; where they are missing: skip here, fail in CI."""
    if not THIRD_PARTY["resumable.js"].is_file():
        lacking("Resumable.js is not there (make assets, which needs npm)")
    if not (NODE_MODULES / "@flowjs" / "flow.js").is_dir():
        lacking("flow.js is not there (npm ci --ignore-scripts)")


@pytest.fixture(scope="session")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LargeFile]:
    """A file of 200 MiB."""
    path = tmp_path_factory.mktemp("large") / "holiday film.mov"
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(LARGE_BYTES // MIB):
            block = os.urandom(MIB)
            digest.update(block)
            file.write(block)
    yield LargeFile(path, digest.hexdigest())
    path.unlink()


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that a module's well-behaved tests share; what they have uploaded is removed."""
    server = Server(tmp_path_factory.mktemp("browser"), CHUNK_SIZE_MB=CHUNK_MB)
    yield server.start()
    server.close()
    for path in stored(server):
        path.unlink()


@pytest.fixture
def upload_page(page: Page) -> UploadPage:
    """The upload page in a browser profile of its own."""
    return UploadPage(page)


@pytest.fixture
def gate(uploads: Server) -> Iterator[Gate]:
    """A network before the module's server that a test can hold."""
    with_held = Gate(uploads.port)
    yield with_held
    with_held.close()


class Application(http.server.ThreadingHTTPServer):
    """A web application of another origin: it serves ``pages``, npm's files, and ``documents``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(PAGES)))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.documents: dict[str, str] = {}


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        document = self.server.documents.get(self.path)
        if document is None:
            super().do_GET()
            return
        body = document.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def translate_path(self, path: str) -> str:
        prefix = "/node_modules/"
        if path.startswith(prefix):
            return str(NODE_MODULES / path.removeprefix(prefix).partition("?")[0])
        return super().translate_path(path)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def application() -> Iterator[Application]:
    """An application of another origin than the server's."""
    serving = Application()
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield serving
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def elsewhere(application: Application) -> str:
    """The base URL of that application."""
    return application.url


def stored(server: Server) -> list[Path]:
    """Return the finished files of a server."""
    return sorted(
        path
        for path in server.uploads.rglob("*")
        if path.is_file() and not path.relative_to(server.uploads).parts[0].startswith(".")
    )


def stored_as(server: Server, name: str) -> list[Path]:
    """Return the finished files that were uploaded under a name, which may hold folders."""
    directory, _, leaf = name.rpartition("/")
    return [
        path
        for path in stored(server)
        if path.name.partition("_")[2] == leaf
        and str(path.parent.relative_to(server.uploads)) == (directory or "files")
    ]


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
