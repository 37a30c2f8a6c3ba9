"""How PostgreSQL is connected to: nobody waits longer for its locks than for SQLite's.

By itself its client waits for a lock for ever, and for a host that is gone as long as
the system repeats its packets, which is a quarter of an hour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, event, text

#: libpq takes one second for two, and 0 for ever.
_MIN_CONNECT_SECONDS = 2

#: Of the session; whoever has set a limit for the user or the database knows better.
_LIMIT_LOCKS = """
SELECT set_config('lock_timeout', %s, false) WHERE current_setting('lock_timeout') = '0'
"""


def prepare_postgresql(engine: Engine, busy_timeout_seconds: float) -> None:
    """Have each connection opened so that a wait of ``busy_timeout_seconds`` ends in an error.

    A lock that is held for longer raises OperationalError, and so does a server that
    does not answer to a new connection. A host that goes later is noticed by the
    system: by TCP's keepalive while an answer is awaited, by TCP_USER_TIMEOUT where
    something was to be sent. Whatever DATABASE_URL says of these goes first.
    """
    milliseconds = max(1, math.ceil(busy_timeout_seconds * 1000))
    wait_seconds = max(_MIN_CONNECT_SECONDS, math.ceil(busy_timeout_seconds))
    # Two thirds of the time until the first probe, and one more after a third.
    limits = {
        "connect_timeout": wait_seconds,
        "keepalives_idle": max(1, wait_seconds * 2 // 3),
        "keepalives_interval": max(1, wait_seconds // 3),
        "keepalives_count": 1,
        "tcp_user_timeout": wait_seconds * 1000,
    }

    @event.listens_for(engine, "do_connect")
    def connecting(_dialect: Any, _record: Any, _args: Sequence[Any], told: dict[str, Any]) -> None:
        for name, value in limits.items():
            told.setdefault(name, value)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(_LIMIT_LOCKS, (str(milliseconds),))
        connection.commit()


def wait_for_locks(connection: Connection) -> None:
    """Let the transaction that has begun on ``connection`` wait for locks as long as it takes."""
    connection.execute(text("SET LOCAL lock_timeout = 0"))
