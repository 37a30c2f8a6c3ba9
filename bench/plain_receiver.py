"""The plain Flask receiver: ``request.stream``, read in pieces of 1 MiB, into a file.

``BENCH_TARGET`` names the directory; with ``BENCH_SYNC`` each file is synced
before the answer.
"""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, request

_READ_BYTES = 1024 * 1024
_TARGET = Path(os.environ["BENCH_TARGET"])
_SYNC = bool(os.environ.get("BENCH_SYNC"))

app = Flask(__name__)


@app.put("/put/<int:number>")
def put(number: int) -> tuple[str, int]:
    with (_TARGET / str(number)).open("wb") as file:
        while piece := request.stream.read(_READ_BYTES):
            file.write(piece)
        if _SYNC:
            file.flush()
            os.fdatasync(file.fileno())
    return "", 201
