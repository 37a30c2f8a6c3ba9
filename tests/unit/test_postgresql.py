"""PostgreSQL is waited for as long as LEDGER_BUSY_TIMEOUT_SECS says, whatever it does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from app.errors import LedgerBusy
from app.ledger import migrate as migrating
from app.ledger.database import Ledger, open_ledger
from app.ledger.models import instance
from app.ledger.postgresql import prepare_postgresql
from tests.harness.databases import Database
from tests.harness.listener import Listener, end
from tests.harness.wire import wait_until

BUSY_SECONDS = 0.3

#: Where nothing should take that long, however busy the machine is.
LONG_SECONDS = 30

WAITING_FOR_LOCKS = text("SELECT count(*) FROM pg_locks WHERE NOT granted")

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


def touch(ledger: Ledger) -> None:
    """Write to the one row of a table."""
    statement = instance.update().values(id=instance.c.id)
    ledger.transactions.write(lambda connection: connection.execute(statement))


def test_a_row_that_somebody_has_locked_is_trouble_that_passes(database: Database) -> None:
    ledger = database.ledger(busy_timeout_seconds=BUSY_SECONDS)
    with ThreadPoolExecutor() as pool, database.by_hand.connect() as other, other.begin():
        other.execute(instance.select().with_for_update())
        started_at = time.monotonic()
        touched = pool.submit(touch, ledger)
        assert isinstance(touched.exception(LONG_SECONDS), LedgerBusy)
        assert time.monotonic() - started_at >= BUSY_SECONDS
        ledger.check()  # who only reads waits for nobody
    touch(ledger)


def test_a_limit_that_the_url_names_goes_first(database: Database) -> None:
    url = f"{database.url}?connect_timeout=77&options=-c%20lock_timeout%3D1234"
    engine = create_engine(url)
    prepare_postgresql(engine, BUSY_SECONDS)
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW lock_timeout")) == "1234ms"
        driver = connection.connection.driver_connection
        assert driver is not None
        assert driver.info.get_parameters()["connect_timeout"] == "77"
    engine.dispose()


def test_a_host_that_goes_is_noticed_in_time(database: Database) -> None:
    """By the system, which is told so; nobody here can cut a network under a test."""
    engine = database.engine()
    prepare_postgresql(engine, 12)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with closing(socket.socket(fileno=socket.dup(driver.fileno()))) as sock:
            told = {
                name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"))
                for name in ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT")
            }
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert told == {"KEEPIDLE": 8, "KEEPINTVL": 4, "KEEPCNT": 1, "USER_TIMEOUT": 12_000}


@pytest.fixture
def silent() -> Iterator[Listener]:
    """Something that accepts connections and says nothing."""
    over = threading.Event()

    def serve(client: socket.socket) -> None:
        over.wait()
        end(client)
        client.close()

    listener = Listener(serve)
    yield listener
    listener.close()
    over.set()
    listener.join()


def test_a_server_that_does_not_answer_is_trouble_that_passes(
    database: Database, silent: Listener
) -> None:
    engine = create_engine(f"postgresql+psycopg://app@127.0.0.1:{silent.port}/any")
    ledger = open_ledger(
        engine, database.run_directory, strict=True, busy_timeout_seconds=BUSY_SECONDS
    )
    started_at = time.monotonic()
    with pytest.raises(LedgerBusy):
        ledger.check()
    assert time.monotonic() - started_at < LONG_SECONDS
    engine.dispose()


def test_a_migration_waits_for_another_one_as_long_as_that_takes(database: Database) -> None:
    engine = database.engine()
    prepare_postgresql(engine, BUSY_SECONDS)
    lock = text("SELECT pg_advisory_xact_lock(:key)")
    with ThreadPoolExecutor() as pool:
        with database.by_hand.connect() as other, other.begin():
            other.execute(lock, {"key": migrating._ADVISORY_LOCK})
            migrated = pool.submit(migrating.migrate, engine)
            wait_until(
                lambda: _scalar(database, WAITING_FOR_LOCKS) == 1 or migrated.done(), "it waits"
            )
            # Whoever comes later gives up, so the migration has waited for longer than that.
            with engine.connect() as impatient, pytest.raises(OperationalError):
                impatient.execute(lock, {"key": migrating._ADVISORY_LOCK})
            assert not migrated.done()
        assert migrated.result(LONG_SECONDS) is None


def _scalar(database: Database, statement: object) -> object:
    with database.by_hand.connect() as connection:
        return connection.scalar(statement)  # type: ignore[call-overload]
