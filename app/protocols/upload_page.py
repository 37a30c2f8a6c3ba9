"""The upload page: its files, and what it has to know of this server.

``resumable_static/upload_page/`` has the files; Resumable.js, which the page
uploads with, is fetched by ``make assets`` and may be missing. The page is also
embedded into pages of other origins, so everything here carries CORS headers.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from flask import Blueprint, Response, abort, jsonify, redirect, request, send_file
from flask.typing import ResponseReturnValue

from app.domain.access import Principal
from app.errors import NotAuthenticated
from app.protocols.auth import bearer, uploader
from app.protocols.context import Context, context

bp = Blueprint("upload_page", __name__, url_prefix="/upload-page")

STATIC = Path(__file__).resolve().parents[2] / "resumable_static"
PAGE = STATIC / "upload_page"

#: What npm brought: name in the page's URLs → file.
THIRD_PARTY = {"resumable.js": STATIC / "vendor" / "resumable.js"}

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: Python's own table depends on the system it runs on. Werkzeug adds the charset to texts.
CONTENT_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

#: The page runs no script but its own files, talks to no other server, and can
#: make no HTML of a file's name: nobody steals the token in it.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
        "require-trusted-types-for 'script'",
    )
)

#: Digits of an account's hash: enough to keep the users of one browser apart.
ACCOUNT_DIGITS = 16


@bp.get("", strict_slashes=False)
def page() -> ResponseReturnValue:
    """Return the page. Its links are relative, so that it works below a proxy's prefix."""
    if request.path.endswith("/"):
        return redirect("../upload-page", 308)
    response = _file(PAGE / "index.html")
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@bp.get("/<file>")
def asset(file: str) -> ResponseReturnValue:
    """Return a script, style sheet or picture of the page."""
    path = THIRD_PARTY.get(file, PAGE / file)
    # A file system is asked only for names that it can have.
    if not _NAME.fullmatch(file) or path.suffix not in CONTENT_TYPES or not path.is_file():
        abort(404)
    response = _file(path)
    # A page that isolates itself (Cross-Origin-Embedder-Policy) may embed it too.
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


@bp.get("/settings")
def settings() -> ResponseReturnValue:
    """Return what a page has to know before it uploads.

    Credentials are optional, but wrong ones are refused: so the page learns at
    once that a token has expired. Sizes are in bytes; ``max_file_bytes`` null:
    no limit. ``account`` tells users apart without naming them, ``options`` are
    Resumable.js' names of fields where they are not its defaults.
    """
    here = context()
    principal = _principal(here)
    response = jsonify(
        needs_token=principal is None,
        account=None if principal is None else _account(principal.owner),
        max_file_bytes=_max_file_bytes(here, principal),
        max_chunk_bytes=here.settings.chunk_size_bytes,
        unfinished_seconds=round(here.settings.abandoned_after_seconds),
        has_downloads=here.settings.downloads,
        has_library=THIRD_PARTY["resumable.js"].is_file(),
        min_chunk_bytes=here.settings.resumable_min_chunk_bytes,
        options=dict(here.settings.resumable_parameters),
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _file(path: Path) -> Response:
    # Asked for anew each time and mostly answered 304: after an update a page
    # must not mix old modules with new ones.
    response = send_file(path, mimetype=CONTENT_TYPES[path.suffix], max_age=None)
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _principal(here: Context) -> Principal | None:
    """Return who asks; None: nobody, on a server that wants to know."""
    try:
        return uploader(request, here.settings, here.ledger, "resumable")
    except NotAuthenticated:
        if bearer(request) or "upload_token" in request.args or "X-API-Key" in request.headers:
            raise
        return None


def _account(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()[:ACCOUNT_DIGITS]


def _max_file_bytes(here: Context, principal: Principal | None) -> int | None:
    limits = [here.settings.max_upload_bytes, principal.max_bytes if principal else None]
    return min((limit for limit in limits if limit), default=None)
