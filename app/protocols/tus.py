"""tus 1.0.0: OPTIONS, POST, HEAD, PATCH and DELETE of /files.

What its header fields mean is in ``tus_headers.py``. Where the specification
leaves room, this does what its clients can live with: a HEAD is never answered
with a 4xx that passes, because they would forget the upload and start anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from email.utils import formatdate

from flask import Blueprint, Flask, Response, g, request
from flask.typing import ResponseReturnValue

from app import metrics
from app.domain.access import Principal
from app.domain.checksums import ALGORITHMS
from app.domain.media_types import media_type
from app.errors import (
    LonghaulError,
    MalformedRequest,
    NotAppendable,
    NotAuthenticated,
    NotAuthorized,
    TokenExpired,
    UploadNotFound,
)
from app.ingest.request import has_body
from app.ledger.records import PARTIAL
from app.protocols import tus_headers as fields
from app.protocols.auth import uploader
from app.protocols.context import body, context, upload_family
from app.protocols.downloads import send_file
from app.protocols.tus_checksums import verification
from app.protocols.tus_override import MethodOverride
from app.protocols.urls import absolute_url
from app.uploads.appending import Append
from app.uploads.creating import Wish
from app.uploads.views import AppendedView

PROTOCOL = "tus"
PREFIX = "/files"

#: Name of a file whose client tells none; the stored name has the upload's id too.
DEFAULT_FILENAME = "file"

#: Fields of the creation that every look at the upload repeats.
_ECHOED = ("Upload-Metadata", "Upload-Concat")

bp = Blueprint(PROTOCOL, __name__, url_prefix=PREFIX)


def install(app: Flask, *, downloads: bool) -> None:
    """Put the routes on an application, and the protocol's mark on all their answers.

    ``downloads``: files can be read back, finished or as far as they have come.
    """
    app.register_blueprint(bp)
    if downloads:
        rule, endpoint = f"{PREFIX}/<upload_id>", f"{PROTOCOL}.get"
        app.add_url_rule(rule, endpoint, get, methods=["GET"], strict_slashes=False)
    app.after_request(_mark)
    app.wsgi_app = MethodOverride(app.wsgi_app, PREFIX)  # type: ignore[method-assign]


@bp.before_request
def refuse_nul() -> None:
    """Know nothing of ids that PostgreSQL refuses even to look for."""
    if "\0" in (request.view_args or {}).get("upload_id", ""):
        raise UploadNotFound


@bp.route("", methods=["OPTIONS"], strict_slashes=False)
@bp.route("/<upload_id>", methods=["OPTIONS"], strict_slashes=False)
def options(upload_id: str = "") -> ResponseReturnValue:
    """Tell what this server can do; also to preflights, so without credentials."""
    answer = _empty(204)
    answer.headers["Tus-Version"] = ",".join(fields.VERSIONS)
    answer.headers["Tus-Extension"] = ",".join(_extensions())
    answer.headers["Tus-Checksum-Algorithm"] = ",".join(ALGORITHMS)
    if limit_bytes := context().settings.max_upload_bytes:
        answer.headers["Tus-Max-Size"] = str(limit_bytes)
    return answer


@bp.post("", strict_slashes=False)
def create() -> ResponseReturnValue:
    """Create an upload, with its first bytes if the request has a body."""
    fields.require_version(request.headers.get("Tus-Resumable"))
    principal = _uploader()
    concat = fields.parse_concat(request.headers.get("Upload-Concat"))
    if concat is not None and concat.partial_ids is not None:
        return _create_final(principal, concat.partial_ids)
    length = fields.parse_length(
        request.headers.get("Upload-Length"), request.headers.get("Upload-Defer-Length")
    )
    brings_bytes = has_body(request.environ)
    if brings_bytes:
        fields.require_content_type(request.content_type)
    wish = _wish(principal, length)
    if concat is not None:
        wish = replace(wish, concat=PARTIAL)
    first = _append(principal, 0, None)
    receipt = context().appends.create(principal.owner, wish, first, body())
    metrics.uploads_created_total.labels(PROTOCOL).inc()
    metrics.received_bytes_total.labels(PROTOCOL).inc(receipt.received)
    answer = _created(receipt.upload)
    if brings_bytes:
        answer.headers["Upload-Offset"] = str(receipt.upload.offset)
    return answer


def _create_final(principal: Principal, partial_ids: Sequence[str]) -> ResponseReturnValue:
    """Create an upload of others. Bytes of its own are refused, and a length: it is their sum."""
    if has_body(request.environ):
        raise NotAppendable
    if "Upload-Length" in request.headers or "Upload-Defer-Length" in request.headers:
        raise MalformedRequest("A final upload has the length of its partial ones; tell none")
    wish = _wish(principal, None)
    upload = context().appends.concatenate(PROTOCOL, principal.owner, wish, partial_ids)
    metrics.uploads_created_total.labels(PROTOCOL).inc()
    return _created(upload)


@bp.route("/<upload_id>", methods=["HEAD"], strict_slashes=False)
def head(upload_id: str) -> ResponseReturnValue:
    """Tell how far an upload is. Takes no lease and ends nobody's request."""
    upload = context().appends.look(upload_id, PROTOCOL, sees=_uploader(asks_only=True).sees)
    answer = _empty(200, upload)
    if upload.offset is not None:
        answer.headers["Upload-Offset"] = str(upload.offset)
    if upload.length is None:
        answer.headers["Upload-Defer-Length"] = "1"
    else:
        answer.headers["Upload-Length"] = str(upload.length)
    answer.headers.extend(upload.headers)
    return answer


@bp.patch("/<upload_id>", strict_slashes=False)
def patch(upload_id: str) -> ResponseReturnValue:
    """Append the body at the offset that the client believes in."""
    fields.require_version(request.headers.get("Tus-Resumable"))
    principal = _uploader()
    g.patched_by = principal  # whatever the answer will be, it tells when the upload expires
    fields.require_content_type(request.content_type)
    offset = fields.parse_number("Upload-Offset", request.headers.get("Upload-Offset", ""))
    told = request.headers.get("Upload-Length")
    length = None if told is None else fields.parse_number("Upload-Length", told)
    receipt = context().appends.append(upload_id, _append(principal, offset, length), body())
    metrics.received_bytes_total.labels(PROTOCOL).inc(receipt.received)
    answer = _empty(204, receipt.upload)
    answer.headers["Upload-Offset"] = str(receipt.upload.offset)
    return answer


@bp.delete("/<upload_id>", strict_slashes=False)
def delete(upload_id: str) -> ResponseReturnValue:
    """Terminate an upload, finished or not; whoever is appending to it is stopped."""
    fields.require_version(request.headers.get("Tus-Resumable"))
    context().appends.end(upload_id, PROTOCOL, sees=_uploader().sees)
    return _empty(204)


def get(upload_id: str) -> ResponseReturnValue:
    """Send the file of an upload."""
    return send_file(_uploader(), upload_id, PROTOCOL)


def _extensions() -> Iterator[str]:
    """Name the extensions of the specification that code and storage together can do."""
    yield from ("creation", "creation-with-upload", "creation-defer-length")
    yield from ("expiration", "checksum", "checksum-trailer", "termination")
    if context().appends.can_concatenate:
        yield from ("concatenation", "concatenation-unfinished")


def _uploader(*, asks_only: bool = False) -> Principal:
    """Return who asks.

    ``asks_only``: an expired token is the only 401, because it is the only one
    that a client can do anything about.
    """
    here = context()
    try:
        return uploader(request, here.settings, here.ledger, PROTOCOL)
    except TokenExpired:
        raise
    except NotAuthenticated as error:
        if asks_only:
            raise NotAuthorized(error.message) from error
        raise


def _wish(principal: Principal, length: int | None) -> Wish:
    metadata = fields.parse_metadata(request.headers.get("Upload-Metadata"))
    echoed = {name: value for name in _ECHOED if (value := request.headers.get(name))}
    return Wish(
        filename=fields.metadata_text(metadata, "filename", "name") or DEFAULT_FILENAME,
        length=length,
        directory=principal.directory,
        content_type=media_type(fields.metadata_text(metadata, "filetype", "type")),
        max_bytes=principal.max_bytes,
        metadata=fields.metadata_json(metadata),
        family=upload_family(),
        headers=echoed,
    )


def _append(principal: Principal, offset: int, length: int | None) -> Append:
    return Append(
        protocol=PROTOCOL,
        sees=principal.sees,
        offset=offset,
        length=length,
        max_bytes=principal.max_bytes,
        verification=verification(request.headers),
    )


def _created(upload: AppendedView) -> Response:
    answer = _empty(201, upload)
    settings = context().settings
    answer.headers["Location"] = absolute_url(request, settings, f"{PREFIX}/{upload.id}")
    if concat := request.headers.get("Upload-Concat"):
        answer.headers["Upload-Concat"] = concat
    return answer


def _empty(status: int, upload: AppendedView | None = None) -> Response:
    """Return an answer without a body, with the expiry of an upload that has one."""
    answer = Response(status=status)
    del answer.headers["Content-Type"]
    if upload is not None:
        _tell_expiry(answer, upload)
    return answer


def _tell_expiry(answer: Response, upload: AppendedView) -> None:
    if upload.expires_at_ms is not None:
        answer.headers["Upload-Expires"] = formatdate(upload.expires_at_ms / 1000, usegmt=True)


def _tell_refused(answer: Response, principal: Principal) -> None:
    """Tell a client whose PATCH was refused when its upload expires, if it has one."""
    with contextlib.suppress(LonghaulError):
        upload_id = (request.view_args or {})["upload_id"]
        _tell_expiry(answer, context().appends.look(upload_id, PROTOCOL, sees=principal.sees))


def _mark(response: Response) -> Response:
    """Put the version on every answer below /files, whoever made it."""
    if not (request.path == PREFIX or request.path.startswith(f"{PREFIX}/")):
        return response
    response.headers["Tus-Resumable"] = fields.VERSIONS[0]
    if response.status_code >= 400 and response.status_code != 500 and "patched_by" in g:
        _tell_refused(response, g.patched_by)
    if response.status_code == 412:
        response.headers["Tus-Version"] = ",".join(fields.VERSIONS)
    if request.method == "HEAD":
        response.headers["Cache-Control"] = "no-store"
        if response.status_code >= 400:
            response.set_data(b"")
            response.headers.pop("Content-Type", None)
    return response
