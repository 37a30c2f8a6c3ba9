"""Fixtures for all tests. Servers are real and run on free ports."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.harness import ceph as ceph_server
from tests.harness import localstack as localstack_server
from tests.harness.browser import chromium
from tests.harness.missing import lacking
from tests.harness.mounts import Mounts
from tests.harness.native import Native
from tests.harness.places import PLACES
from tests.harness.postgres import Postgres, new_postgres
from tests.harness.s3 import S3Server
from tests.harness.samba import Samba, new_samba
from tests.harness.server import Server
from tests.harness.stores import Share
from tests.harness.tus import Tus

#: Where a gateway runs already, for tests that run tests in another process.
CEPH_PORT = "LONGHAUL_TESTS_CEPH_PORT"

StartServer = Callable[..., Server]

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Spread modules and places over processes, where there are several (``make test``)."""
    from tests.harness.scheduling import Scheduling

    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let whoever has the time send a really large file: ``--large-size 10G``."""
    parser.addoption(
        "--large-size",
        type=_size,
        default="512M",
        help="size of the file of tests/live/test_large_file.py: bytes, or with K, M or G",
    )
    parser.addoption(
        "--place",
        action="append",
        choices=PLACES,
        help="run tests/protocols in this place only; may be given several times",
    )


def _size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMG]?)", text).groups()  # type: ignore[union-attr]
    return int(number) * _UNITS[unit]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with parts of 1 MiB and two workers that well-behaved tests share."""
    shared = Server(tmp_path_factory.mktemp("server"))
    try:
        yield shared.start()
    finally:
        shared.close()


@pytest.fixture
def native(server: Server) -> Native:
    """A client of the shared server."""
    return Native(server)


@pytest.fixture
def tus(server: Server) -> Tus:
    """A tus client of the shared server."""
    return Tus(server)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers of a test's own, which may be killed: ``start_server(WORKERS=1)``."""
    servers: list[Server] = []

    def start(*, ready: bool = True, **settings: object) -> Server:
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        servers.append(Server(directory, **settings))  # type: ignore[arg-type]
        return servers[-1].start(ready=ready)

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    """File systems to mount, gone after the test; without the right to: skip, fail in CI."""
    mounts = Mounts()
    yield mounts
    mounts.unmount_all()


@pytest.fixture(params=["disk", "share"])
def start_storing(request: pytest.FixtureRequest, start_server: StartServer) -> StartServer:
    """Start servers that store on the disk, and such that store on an SMB share."""
    if request.param == "disk":
        return start_server
    samba: Samba = request.getfixturevalue("samba")
    return lambda **settings: start_server(store=Share(samba), **settings)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests that are kind to it; without one: skip, fail in CI."""
    yield from _started_postgres()


@pytest.fixture(scope="session")
def restartable_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that tests may stop for a while; skip where it is missing, fail in CI."""
    yield from _started_postgres()


def _started_postgres() -> Iterator[Postgres]:
    server = new_postgres()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def samba() -> Iterator[Samba]:
    """A Samba server for all tests that are kind to it; skip where there is none, fail in CI."""
    with closing(new_samba()) as server:
        yield server.start()


@pytest.fixture
def own_samba() -> Iterator[Samba]:
    """A Samba server of a test's own, which may be killed, frozen or misconfigured."""
    with closing(new_samba()) as server:
        yield server.start()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium for all tests; where it is not installed: skip here, fail in CI."""
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page in a profile of its own. A script's error in it fails the test."""
    context = browser.new_context()
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert not errors, "\n".join(errors)


@pytest.fixture(scope="session")
def ceph() -> Iterator[S3Server]:
    """Ceph's S3 gateway; where it is not installed: skip here, fail in CI."""
    if port := os.environ.get(CEPH_PORT):
        yield ceph_server.Ceph(int(port))
        return
    if missing := ceph_server.missing_program():
        lacking(f"{missing} is not installed (Debian: apt-get install radosgw ceph-mon ceph-osd)")
    started = ceph_server.Ceph()
    try:
        started.start()
        yield started
    finally:
        started.close()


@pytest.fixture(scope="session")
def localstack() -> Iterator[S3Server]:
    """LocalStack's S3; where it is not installed: skip here, fail in CI."""
    if not localstack_server.PYTHON.exists():
        lacking("LocalStack is not installed (make localstack)")
    started = localstack_server.LocalStack()
    try:
        started.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_CA_BUNDLE", str(started.certificate))
            yield started
    finally:
        started.close()


@pytest.fixture
def content() -> Callable[[int], bytes]:
    """Random bytes, other ones at each call: zeros would hide misplaced parts."""
    return random.randbytes
