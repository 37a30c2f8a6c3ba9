"""Every test here runs in every place: on the disk, on a share, in a bucket (``PLACES``).

Its servers, each started once in a place, are on that place's storage and database.
A test that says nothing of either is marked ``once``, with the reason; one that
cannot be in some places is marked ``not_in``, likewise. Into a bucket directly go
those that leave the size of parts to the place: ``any_part_size``.
``pytest tests/protocols --place smb`` runs them in one place only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.harness.native import Native
from tests.harness.places import PLACES, Place, place_named
from tests.harness.server import Server

#: Not ASCII, as a setting may be; it is sent as UTF-8.
STRICT_KEY = "schlüssel-of-the-tests-0123456789"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that has a server in all places that it can be in."""
    if "place" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("place") or PLACES
        places = [name for name in chosen if _can_be_in(name, metafunc.definition)]
        metafunc.parametrize("place", places, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is in none of the places that were asked for."""
    items[:] = [item for item in items if not _is_nowhere(item)]


def _is_nowhere(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    return call is not None and not isinstance(call.params.get("place", ""), str)


def _can_be_in(place: str, test: pytest.Item) -> bool:
    for mark in test.iter_markers():
        if mark.name in ("once", "not_in") and not mark.kwargs["why"]:
            raise ValueError(f"{test.nodeid}: {mark.name} without a reason")
        if mark.name == "once" and place != "disk":
            return False
        if mark.name == "not_in" and place in mark.args:
            return False
    return place != "s3-direct" or test.get_closest_marker("any_part_size") is not None


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> Place:
    """Where servers store."""
    return place_named(request.param, request)


@pytest.fixture
def part_bytes(place: Place) -> int:
    """How large parts are."""
    return place.part_bytes


@pytest.fixture(scope="session")
def server(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers that well-behaved tests share."""
    shared = place.server(tmp_path_factory.mktemp("server"))
    try:
        yield shared.start()
    finally:
        shared.close()


@pytest.fixture
def start_server(place: Place, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers of a test's own, which may be killed: ``start_server(WORKERS=1)``."""
    servers: list[Server] = []

    def start(**settings: object) -> Server:
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        servers.append(place.server(directory, **settings))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def jobless(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that finalizes nothing by itself: uploads stay ``finalizing`` until a test acts."""
    server = place.server(
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
def strict(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for one origin, with public figures, little patience and no private targets."""
    server = place.server(
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
def fragile(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose storage and tables tests take away; they put them back.

    It has one worker: another one might open its storage while it is away.
    """
    server = place.server(
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
def limited(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes small files only, from anybody by tus, behind a proxy it believes."""
    server = place.server(
        tmp_path_factory.mktemp("limited"),
        MAX_UPLOAD_BYTES=LIMIT_BYTES,
        ANONYMOUS_PROTOCOLS="tus",
        TRUSTED_PROXIES="127.0.0.1",
        BODY_IDLE_TIMEOUT_SECS=1,
    )
    server.start()
    yield server
    server.close()


@pytest.fixture
def storage_away(fragile: Server) -> Callable[[], AbstractContextManager[None]]:
    """Take the fragile server's storage away: ``with storage_away():``."""
    return fragile.store.away


@pytest.fixture
def careful(strict: Server) -> Native:
    """A client of that server."""
    return Native(strict, STRICT_KEY.encode().decode("latin-1"))
