"""Cross-origin requests: browsers upload from pages of other hosts.

Preflights are answered without credentials and remembered by the browser for a
while; errors carry the headers too, or the page would see no status at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from flask import Flask, Response
from flask_cors import CORS

#: ``*`` does not cover Authorization, so headers are named; tus-js-client sends
#: the Tus- and Upload- ones.
ALLOWED_HEADERS = (
    "Authorization",
    "Content-Type",
    "X-API-Key",
    "X-Request-ID",
    "Content-Digest",
    "Range",
    "If-Range",
    "If-None-Match",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
    "X-HTTP-Method-Override",
    "X-Requested-With",
)

#: What a page may read of an answer, beside the few that it always may.
EXPOSED_HEADERS = (
    "X-Request-ID",
    "Retry-After",
    "Location",
    "Content-Disposition",
    "Content-Range",
    "Accept-Ranges",
    "ETag",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Expires",
)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

#: Chromium forgets a preflight after two hours, whatever it is told.
MAX_AGE_SECONDS = 7200


def install(app: Flask, origins: Sequence[str]) -> None:
    """Answer preflights and put CORS headers on every answer of ``app``.

    ``origins``: scheme://host[:port] of pages that may use the server, or ``*``.
    Credentials in the browser's sense (cookies) are never allowed.
    """
    app.after_request(_name_all_headers)  # before CORS: Flask runs the last one first
    CORS(
        app,
        origins=list(origins),
        methods=list(METHODS),
        allow_headers=list(ALLOWED_HEADERS),
        expose_headers=list(EXPOSED_HEADERS),
        max_age=MAX_AGE_SECONDS,
        supports_credentials=False,
        send_wildcard=True,
    )


def _name_all_headers(response: Response) -> Response:
    """Complete the answer to a preflight: Flask-CORS repeats only what was asked for.

    Whoever keeps that answer would take it for the whole list.
    """
    if "Access-Control-Allow-Methods" in response.headers:
        response.headers["Access-Control-Allow-Headers"] = ", ".join(ALLOWED_HEADERS)
    return response
