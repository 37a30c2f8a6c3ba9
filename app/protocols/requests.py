"""What happens around every request, whatever its route: ids, logs, figures, leftovers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from app import logs, metrics
from app.errors import LonghaulError, MalformedRequest
from app.ingest.request import has_body, request_body
from app.ingest.whole import discard_rest
from app.protocols.problems import bug_response, http_problem_response, problem_response

log = structlog.get_logger(__name__)

#: Methods with figures of their own. Clients may invent others, without a key,
#: and each would stay in memory and in the metrics for good.
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def install(app: Flask) -> None:
    """Put the hooks on an application."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_forget)
    app.register_error_handler(LonghaulError, problem_response)
    app.register_error_handler(HTTPException, http_problem_response)
    app.register_error_handler(Exception, bug_response)
    app.wsgi_app = _CollapsedSlashes(app.wsgi_app)  # type: ignore[method-assign]


class _CollapsedSlashes:
    """Repeated slashes in a path count as one: SDKs glue base URLs and paths together."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if "//" in path:
            environ["PATH_INFO"] = "/" + "/".join(filter(None, path.split("/")))
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer


def _begin() -> None:
    g.request_id = logs.request_id(request.headers.get("X-Request-ID"))
    g.started_at = time.monotonic()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    metrics.requests_running.inc()
    g.counted = True
    request_body(request.environ)  # refuses framings nobody can read


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.get("request_id", "-")
    _arrange_leftovers(response)
    seconds = time.monotonic() - g.get("started_at", time.monotonic())
    route = request.url_rule.rule if request.url_rule else "unknown"
    method = request.method if request.method in KNOWN_METHODS else "other"
    metrics.requests_total.labels(method, route, response.status_code).inc()
    metrics.request_seconds.labels(route).observe(seconds)
    log.info(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        milliseconds=round(seconds * 1000),
        remote=request.remote_addr,
    )
    return response


def _arrange_leftovers(response: Response) -> None:
    """Have an unread body read or its connection closed, after the answer has been sent."""
    environ = request.environ
    if not has_body(environ):
        return
    try:
        body = request_body(environ)
    except MalformedRequest:
        if hasattr(environ["wsgi.input"], "failed"):  # gunicorn's: closes the connection
            environ["wsgi.input"].failed = True
        return
    if body.ended:
        body.close()
    else:
        response.call_on_close(lambda: discard_rest(body))


def _forget(_error: BaseException | None) -> None:
    if g.pop("counted", False):
        metrics.requests_running.dec()
    structlog.contextvars.clear_contextvars()
