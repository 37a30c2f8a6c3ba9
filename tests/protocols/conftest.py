"""Servers whose settings differ from the shared one's, each started once for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.harness.native import Native
from tests.harness.server import Server

#: Not ASCII, as a setting may be; it is sent as UTF-8.
STRICT_KEY = "schlüssel-of-the-tests-0123456789"


@pytest.fixture(scope="session")
def jobless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that finalizes nothing by itself: uploads stay ``finalizing`` until a test acts."""
    server = Server(
        tmp_path_factory.mktemp("jobless"), RUN_JOBS_IN_WORKERS="false", COMPLETE_WAIT_SECS="0.3"
    )
    server.start()
    yield server
    server.close()


@pytest.fixture
def waiting(jobless: Server) -> Native:
    """A client of the server that finalizes nothing by itself."""
    return Native(jobless)


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for one origin, with public figures, little patience and no private targets."""
    server = Server(
        tmp_path_factory.mktemp("strict"),
        API_KEY=STRICT_KEY,
        CORS_ORIGINS="https://app.example.com",
        METRICS_PUBLIC="true",
        BODY_IDLE_TIMEOUT_SECS="1",
        ALLOW_PRIVATE_TARGETS="false",
        CHECK_FREE_DISK="off",
        MIN_FREE_DISK_BYTES="1000T",
        LOG_LEVEL="debug",
    )
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose storage and tables tests take away; they put them back.

    It has one worker: another one might open its storage while it is away.
    """
    server = Server(
        tmp_path_factory.mktemp("fragile"),
        WORKERS="1",
        COMPLETE_WAIT_SECS="1",
        CLEANUP_INTERVAL_SECS="1",
    )
    server.start()
    yield server
    server.close()


#: What an upload on the limited server may have.
LIMIT_BYTES = 100_000


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes small files only, from anybody by tus, behind a proxy it believes."""
    server = Server(
        tmp_path_factory.mktemp("limited"),
        MAX_UPLOAD_BYTES=LIMIT_BYTES,
        ANONYMOUS_PROTOCOLS="tus",
        TRUSTED_PROXIES="127.0.0.1",
        BODY_IDLE_TIMEOUT_SECS=1,
    )
    server.start()
    yield server
    server.close()


@contextmanager
def _away(server: Server) -> Iterator[None]:
    elsewhere = server.directory / "unmounted"
    server.uploads.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(server.uploads)


@pytest.fixture
def storage_away(fragile: Server) -> Callable[[], AbstractContextManager[None]]:
    """Take the fragile server's storage away: ``with storage_away():``."""
    return lambda: _away(fragile)


@pytest.fixture
def careful(strict: Server) -> Native:
    """A client of that server."""
    return Native(strict, STRICT_KEY.encode().decode("latin-1"))
