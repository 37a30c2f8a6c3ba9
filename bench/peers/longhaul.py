"""Starts the product as an operator does, for one cell, and calls its JSON API."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from bench.loads import MIB, Durability
from bench.peers.base import REPOSITORY, WORKERS, CallFailed, WrongContent
from bench.procs import free_port, running

API_KEY = "bench-api-key"
_JWT_SECRET = "bench-jwt-secret-of-enough-length"

#: The slowest answer is that of a 1 TiB init.
_ANSWER_SECONDS = 60.0
_FINALIZE_SECONDS = 60.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the API: status, the JSON in it ({} where there is none), how long it took."""

    status: int
    value: dict[str, Any]
    seconds: float
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Server:
    """A running Longhaul: the process id of its master, its port, its storage root."""

    pid: int
    port: int
    storage: Path

    def call(self, method: str, path: str, document: Mapping[str, Any] | None = None) -> Answer:
        """Call the API with the API key; raises CallFailed unless it answers below 400.

        The seconds run from the request to the last byte of the answer, on a
        connection that is open already.
        """
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)
        try:
            connection.connect()
            body = None if document is None else json.dumps(document)
            headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
            start = time.perf_counter()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
            seconds = time.perf_counter() - start
        except (OSError, HTTPException) as error:
            raise CallFailed(f"{method} {path}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise CallFailed(f"{method} {path}: {response.status} {content[:500]!r}")
        value = json.loads(content) if content else {}
        return Answer(response.status, value, seconds, len(content))

    def finalize(self, upload_id: str) -> Path:
        """Complete an upload and return where its file is, once it is there."""
        answer = self.call("POST", f"/upload/{upload_id}/complete").value
        deadline = time.monotonic() + _FINALIZE_SECONDS
        while answer["status"] != "complete":
            if answer["status"] == "failed" or time.monotonic() > deadline:
                raise WrongContent(f"finalizing ended as {answer}")
            time.sleep(_POLL_SECONDS)
            answer = self.call("GET", f"/upload/{upload_id}/status?include_parts=0").value
        return Path(answer["final_path"])


def common_settings(storage: Path, durability: Durability, part_bytes: int) -> dict[str, str]:
    """Return the environment that every Longhaul of the benchmark has."""
    return {
        "PYTHONPATH": str(REPOSITORY),
        "API_KEY": API_KEY,
        "JWT_SECRET": _JWT_SECRET,
        "LOCAL_STORAGE_PATH": str(storage),
        "DURABILITY": durability.value,
        "CHUNK_SIZE_MB": str(part_bytes // MIB),
    }


@contextmanager
def longhaul(
    directory: Path,
    durability: Durability,
    part_bytes: int,
    *,
    application: str = "wsgi:app",
    more_env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run gunicorn with the deployed configuration; everything it keeps is under ``directory``.

    Its working directory is there too, so that no ``.env`` of a developer is read.
    """
    port, storage = free_port(), directory / "storage"
    env = {
        **common_settings(storage, durability, part_bytes),
        "BIND_ADDR": f"127.0.0.1:{port}",
        "DATABASE_PATH": str(directory / "ledger.db"),
        "DATABASE_URL": "",
        "WORKERS": str(WORKERS),
        **(more_env or {}),
    }
    config = REPOSITORY / "deploy" / "gunicorn.conf.py"
    command = [sys.executable, "-m", "gunicorn", "-c", str(config), application]
    with running(command, port=port, log=directory / "log", cwd=directory, env=env) as pid:
        yield Server(pid, port, storage)
