"""The product's pump without hashing, behind a route that only the benchmark has.

``PUT /bench/<index>`` moves the body through ``app.ingest.pump`` into the
storage of the settings: no ledger, no token, no hash. What is measured is what
receiving and storing cost. ``POST /bench`` makes the object first, from
``BENCH_PARTS`` parts of ``BENCH_PART_BYTES`` bytes.
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

UPLOAD_ID = str(UUID(int=1, version=4))

_PARTS = int(os.environ["BENCH_PARTS"])
_PART_BYTES = int(os.environ["BENCH_PART_BYTES"])


def _staged() -> StagedObject:
    return StagedObject(
        upload_id=UPLOAD_ID,
        length=_PARTS * _PART_BYTES,
        target_key="files/bench",
        root_id=context().storage.root_id,
    )


def create() -> ResponseReturnValue:
    """Make the sparse object that the parts are written into."""
    context().storage.create(_staged())
    return "", 201


def put(index: int) -> ResponseReturnValue:
    """Store the body as part ``index``, synced if DURABILITY says so."""
    storage, settings = context().storage, context().settings
    with storage.writer(_staged(), index, index * _PART_BYTES, _PART_BYTES) as writer:
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
