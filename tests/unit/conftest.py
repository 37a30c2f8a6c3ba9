"""Databases, ledgers and what is built on them, in this process and in others beside it.

Tests that take ``database`` run on SQLite and on PostgreSQL, those that take
``storage`` on memory and on local disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.ledger.database import Ledger
from app.ledger.migrate import migrate
from app.storage.base import Storage
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.peer import Nursery, Peer
from tests.harness.postgres import Postgres
from tests.harness.rig import Rig

BACKENDS = ["sqlite", "postgresql"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out local disk with PostgreSQL: each has been tried, and they do not meet."""
    together = {"database": "postgresql", "storage": "local"}
    items[:] = [item for item in items if not together.items() <= _parameters(item).items()]


def _parameters(item: pytest.Item) -> dict[str, object]:
    call = getattr(item, "callspec", None)
    return {} if call is None else {name: str(value) for name, value in call.params.items()}


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    directory = tmp_path_factory.mktemp("sqlite")
    path = directory / "template.db"
    _migrate(Database(f"sqlite:///{path}", directory / "run"))
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A migrated PostgreSQL database to copy."""
    name = postgres.new_database()
    _migrate(Database(postgres.url(name), tmp_path_factory.mktemp("postgres")))
    return name


def _migrate(database: Database) -> None:
    """Migrate as the server does: SQLite's file has a write-ahead log before it is shared.

    Of two connections that want to give it one at the same moment, one fails at once.
    """
    database.ledger()
    (engine,) = database._engines
    migrate(engine)
    database.close()


@contextmanager
def _opened(url: str, directory: Path) -> Iterator[Database]:
    database = Database(url, directory / "run")
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _postgres_database(server: Postgres, directory: Path, template: str) -> Iterator[Database]:
    name = server.new_database(template)
    with _opened(server.url(name), directory) as database:
        yield database
    server.drop_database(name)


@pytest.fixture(params=BACKENDS)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables, on each kind in turn."""
    if request.param == "sqlite":
        opened = _opened(f"sqlite:///{tmp_path}/empty.db", tmp_path)
    else:
        server = request.getfixturevalue("postgres")
        opened = _postgres_database(server, tmp_path, "template1")
    with opened as database:
        yield database


@pytest.fixture(params=BACKENDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated, empty ledger, on each kind of database in turn."""
    if request.param == "sqlite":
        path = tmp_path / "ledger.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        opened = _opened(f"sqlite:///{path}", tmp_path)
    else:
        server = request.getfixturevalue("postgres")
        template = request.getfixturevalue("postgres_template")
        opened = _postgres_database(server, tmp_path, template)
    with opened as database:
        yield database


@pytest.fixture
def ledger(database: Database) -> Ledger:
    """The ledger as this process has it open."""
    return database.ledger()


@pytest.fixture
def clock() -> FakeClock:
    """The time, in the test's hands."""
    return FakeClock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where local storages of this test are."""
    return tmp_path / "uploads"


@pytest.fixture(params=["memory", "local"])
def storage(request: pytest.FixtureRequest, ledger: Ledger, root: Path) -> Storage:
    """A storage of this ledger's, of each kind in turn."""
    if request.param == "memory":
        return MemoryStorage()
    return LocalStorage(root, ledger.instance_id())


@pytest.fixture
def local(ledger: Ledger, root: Path) -> LocalStorage:
    """Local disk, which other processes share."""
    return LocalStorage(root, ledger.instance_id())


@pytest.fixture
def rig(ledger: Ledger, clock: FakeClock) -> Rig:
    """Ledger and jobs on a storage in memory, for tests of the ledger."""
    return Rig(ledger, MemoryStorage(), clock)


StartPeer = Callable[..., Peer]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What peers are forked from."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def start_peer(nursery: Nursery) -> Iterator[StartPeer]:
    """Start processes at a database, beside this one; see ``Peer`` for what is told them."""
    peers: list[Peer] = []

    def start(*told: object, **more: object) -> Peer:
        peers.append(Peer(nursery, *told, **more))  # type: ignore[arg-type]
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()
