"""Whether the server is well, and its figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from app import metrics
from app.errors import LonghaulError
from app.ingest.threads import sync_pool
from app.protocols.auth import metrics_principal
from app.protocols.context import Context, context

bp = Blueprint("system", __name__)

#: A check writes to the storage and needs no credentials, so its result is
#: reused for this long.
CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Health:
    checked_at: float
    ledger_problem: str | None
    storage_problem: str | None


_latest: dict[int, _Health] = {}  # id of the context → its latest check


@bp.get("/health")
def health() -> ResponseReturnValue:
    """Tell whether database and storage work, by trying them."""
    here = context()
    checked = _check(here)
    problem = checked.storage_problem
    well = problem is None and checked.ledger_problem is None
    answer = {
        "status": "OK" if well else "DEGRADED",
        "storage": {
            "backend_type": here.settings.storage_backend,
            "status": "healthy" if problem is None else "unavailable",
            "message": problem,
        },
    }
    return jsonify(answer), 200 if well else 503


@bp.get("/ready")
def ready() -> ResponseReturnValue:
    """Tell whether this server should be sent requests now."""
    here = context()
    checked = _check(here)
    problems = [checked.ledger_problem, checked.storage_problem]
    if here.drain.begun:
        problems.append("The server is shutting down")
    reasons = [problem for problem in problems if problem]
    return jsonify(ready=not reasons, reasons=reasons), 503 if reasons else 200


@bp.get("/metrics")
def prometheus() -> ResponseReturnValue:
    """Return the figures of all workers in Prometheus' text format."""
    here = context()
    if not here.settings.metrics_public:
        metrics_principal(request, here.settings, here.ledger)
    counts = {state.value: count for state, count in here.ledger.count_by_state().items()}
    return Response(metrics.exposition(counts), content_type=metrics.CONTENT_TYPE)


def _check(here: Context) -> _Health:
    known = _latest.get(id(here))
    if known is not None and time.monotonic() - known.checked_at < CHECK_SECONDS:
        return known
    checked = _Health(
        time.monotonic(),
        _problem(here.ledger.check),
        _problem(lambda: sync_pool.run(here.storage.check)),
    )
    _latest[id(here)] = checked
    return checked


def _problem(check: Callable[[], object]) -> str | None:
    try:
        check()
    except LonghaulError as error:
        return error.message
    return None
