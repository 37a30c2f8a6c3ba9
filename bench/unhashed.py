"""The product's pump without hashing, behind a route that only the benchmark has.

``PUT /bench/<index>`` moves the body through ``app.ingest.pump`` into the
storage of the settings: no ledger, no token, no hash. What is measured is what
receiving and storing cost. ``POST /bench`` makes the object first, from
``BENCH_PARTS`` parts of ``BENCH_PART_BYTES`` bytes; with ``BENCH_FILE_EACH`` an
object for each part, as if each were an upload of its own.
"""

from __future__ import annotations

import os
from uuid import UUID

from flask import Flask
from flask.typing import ResponseReturnValue

from app import create_app
from app.errors import PartSizeMismatch
from app.ingest.pump import Ended, pump
from app.ingest.threads import sync_pool
from app.protocols.context import body, context
from app.storage.base import StagedObject

_FILE_EACH = bool(os.environ.get("BENCH_FILE_EACH"))
_PARTS = int(os.environ["BENCH_PARTS"])
_PART_BYTES = int(os.environ["BENCH_PART_BYTES"])


def _staged(number: int) -> StagedObject:
    """Return object ``number``: the only one is 0, or each part has one of its number."""
    return StagedObject(
        upload_id=str(UUID(int=number + 1, version=4)),
        length=_PART_BYTES if _FILE_EACH else _PARTS * _PART_BYTES,
        target_key="files/bench",
        root_id=context().storage.root_id,
    )


def create() -> ResponseReturnValue:
    """Make the sparse objects that the parts are written into."""
    for number in range(_PARTS if _FILE_EACH else 1):
        context().storage.create(_staged(number))
    return "", 201


def put(index: int) -> ResponseReturnValue:
    """Store the body as part ``index``, synced if DURABILITY says so."""
    storage, settings = context().storage, context().settings
    number, offset = (index, 0) if _FILE_EACH else (0, index * _PART_BYTES)
    with storage.writer(_staged(number), index, offset, _PART_BYTES) as writer:
        transfer = pump(
            body(),
            writer,
            limit_bytes=_PART_BYTES,
            idle_timeout_seconds=settings.body_idle_timeout_secs,
            native_writes=storage.capabilities.native_thread_writes,
        )
        if transfer.ended is not Ended.WHOLE or transfer.received != _PART_BYTES:
            raise PartSizeMismatch(_PART_BYTES, transfer.received)
        sync_pool.run(lambda: writer.commit(durable=settings.strict_durability))
    return "", 201


def _application() -> Flask:
    application = create_app()
    application.add_url_rule("/bench", view_func=create, methods=["POST"])
    application.add_url_rule("/bench/<int:index>", view_func=put, methods=["PUT"])
    return application


app = _application()
