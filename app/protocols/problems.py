"""Which status an error gets, and how it is written.

One table per protocol, because clients differ. Subclasses inherit the status of
their nearest listed base.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from flask import Response, jsonify, request
from werkzeug.exceptions import HTTPException

from app import errors
from app.ledger.database import LedgerOutdated

log = structlog.get_logger(__name__)

StatusTable = Mapping[type[errors.LonghaulError], int]

#: The native API. SDK 2.1 takes every 409 on a part for success, hence 503 for
#: a part that is being written and 422 for one stored with other bytes.
NATIVE: StatusTable = {
    errors.LonghaulError: 500,
    errors.RequestRefused: 400,
    errors.InvalidField: 422,
    errors.TargetRefused: 422,
    errors.PartConflict: 422,
    errors.UnknownContentType: 415,
    errors.UploadTooLarge: 413,
    errors.NotAuthenticated: 401,
    errors.NotAuthorized: 403,
    errors.UploadNotFound: 404,
    errors.UploadNotOpen: 409,
    errors.StorageFull: 507,
    errors.StorageFault: 400,
    errors.PartsLost: 503,
    errors.TakenOver: 503,
    errors.TryAgain: 503,
    errors.BodyStalled: 408,
    errors.UploadUnfinished: 409,
    LedgerOutdated: 503,
}

#: Resumable.js gives up on 400, 404, 415, 500 and 501 and sends everything else
#: 100 times again, at once; flow.js gives up at the first error unless told
#: otherwise, and on 404 always. So: what stays wrong is 400, what passes 503.
RESUMABLE: StatusTable = {
    errors.LonghaulError: 503,
    errors.RequestRefused: 400,
    errors.UnknownContentType: 415,
    errors.NotAuthenticated: 401,
    errors.NotAuthorized: 401,
    errors.UploadNotFound: 400,
    errors.StorageFault: 400,
}


#: tus. tus-js-client retries 5xx, 409 and 423 after asking for the offset, and
#: gives up on any other 4xx.
TUS: StatusTable = {
    errors.LonghaulError: 500,
    errors.RequestRefused: 400,
    errors.DigestMismatch: 460,
    errors.OffsetMismatch: 409,
    errors.NotAppendable: 403,
    errors.BodyTooLong: 413,
    errors.UploadTooLarge: 413,
    errors.UnknownVersion: 412,
    errors.UnknownContentType: 415,
    errors.NotAuthenticated: 401,
    errors.NotAuthorized: 403,
    errors.UploadNotFound: 404,
    errors.UploadGone: 410,
    errors.UploadNotOpen: 409,
    errors.TakenOver: 409,
    errors.StorageFull: 507,
    errors.StorageFault: 400,
    errors.PartsLost: 503,
    errors.TryAgain: 503,
    errors.UploadLocked: 423,
    LedgerOutdated: 503,
}

#: Reasons that the HTTP library does not know.
_REASONS = {460: "460 Checksum Mismatch"}


def status_of(error: errors.LonghaulError, table: StatusTable) -> int:
    """Return the status of an error by its nearest listed base class."""
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


#: Blueprint → its table; all other routes have the native one.
TABLES: Mapping[str, StatusTable] = {"tus": TUS, "resumable": RESUMABLE}

#: When to come back after what does not tell by itself, such as a full disk.
_RETRY_AFTER_SECONDS = 30


def problem_response(error: errors.LonghaulError) -> Response:
    """Render an error as JSON, with the status that the request's protocol has for it."""
    status = status_of(error, _table())
    if status >= 500:
        log.warning("request.failed", code=error.code, cause=str(error.__cause__ or ""))
    response = _json_error(error.message, error.code, status)
    if isinstance(error, errors.TryAgain):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    elif status == 503:
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    if status == 415 and "Content-Encoding" in request.headers:  # RFC 9110 section 15.5.16
        response.headers["Accept-Encoding"] = "identity"
    if isinstance(error, errors.NotAuthenticated):
        response.headers["WWW-Authenticate"] = 'Bearer realm="longhaul"'
    return response


def http_problem_response(error: HTTPException) -> Response:
    """Render what routing and Flask itself refuse: unknown routes, methods, bad JSON."""
    status = error.code or 500
    message = error.description or error.name
    response = _json_error(message, error.name.lower().replace(" ", "_"), status)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def bug_response(error: Exception) -> Response:
    """Render an error nobody expected. The log has it; the client gets the request id."""
    log.error("request.bug", exc_info=error)
    message = "Internal server error; the log has it under this request id"
    status = _table()[errors.LonghaulError]
    response = _json_error(message, errors.LonghaulError.code, status)
    if status == 503:
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return response


def _table() -> StatusTable:
    return TABLES.get(request.blueprint or "", NATIVE)


def _json_error(message: str, code: str, status: int) -> Response:
    response = jsonify(error=message, code=code, status=status)
    response.status = _REASONS.get(status, str(status))
    return response
