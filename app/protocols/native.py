"""The native API: init, part PUT, status, tokens, complete, cancel.

Compatible with chunked-uploader and its SDK. Parts are counted from 0.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from app import metrics
from app.domain.access import Principal, Scope
from app.domain.clock import rfc3339
from app.domain.digests import parse_content_digest, parse_sha256_hex
from app.domain.parts import Geometry
from app.domain.states import State
from app.domain.tokens import part_tokens
from app.errors import InvalidField, UploadNotFound
from app.ingest.threads import sync_pool
from app.protocols.auth import api_key_principal, part_claims
from app.protocols.context import body, context, upload_family
from app.protocols.json_body import json_object
from app.uploads.creating import Wish
from app.uploads.views import PartView, UploadView

PROTOCOL = "native"

#: What was read at the bottom of a request's stack is written to the ledger from
#: a deeper one, so Python's limit of about 1,000 levels must not be near.
MAX_METADATA_LEVELS = 100

bp = Blueprint(PROTOCOL, __name__, url_prefix="/upload")

#: State → ``status`` and ``phase`` as the clients know them.
_STATUS = {
    State.OPEN: ("pending", "uploading"),
    State.FINALIZING: ("finalizing", "finalizing"),
    State.COMPLETE: ("complete", "complete"),
    State.FAILED: ("failed", "failed"),
}

_INCLUDE_PARTS = {"true": True, "1": True, "false": False, "0": False}


@bp.post("/init")
def init() -> ResponseReturnValue:
    """Create an upload and hand out a token for each of its parts."""
    principal = _principal()
    wish = _wish(json_object())
    upload = context().uploads.create(PROTOCOL, principal.owner, wish)
    metrics.uploads_created_total.labels(PROTOCOL).inc()
    geometry = Geometry(upload.length, upload.part_size, upload.part_count)
    tokens = _tokens(upload.id, geometry, range(geometry.part_count), upload.expires_at_ms)
    return jsonify(
        file_id=upload.id,
        total_parts=upload.part_count,
        chunk_size=upload.part_size,
        parts=[
            {"part": index, "token": token, "status": "pending"}
            for index, token in enumerate(tokens)
        ],
        expires_at=rfc3339(upload.expires_at_ms),
    )


@bp.put("/<upload_id>/part/<part>")
def put_part(upload_id: str, part: str) -> ResponseReturnValue:
    """Store the raw body as one part."""
    claims = part_claims(request, context().settings, upload_id, part)
    digest = request.headers.get("Content-Digest")
    expected = None if digest is None else parse_content_digest(digest)
    try:
        stored = context().uploads.put_part(upload_id, claims.part_number, body(), expected)
    except IndexError as error:  # signed by us, so the upload was made with other settings
        raise UploadNotFound from error
    if not stored.again:
        metrics.received_bytes_total.labels(PROTOCOL).inc(claims.expected_size_bytes)
    return jsonify(
        upload_id=stored.upload_id,
        part_number=stored.index,
        status="uploaded",
        checksum_sha256=stored.sha256,
        uploaded_parts=stored.received,
        total_parts=stored.part_count,
    )


@bp.get("/<upload_id>/status")
def status(upload_id: str) -> ResponseReturnValue:
    """Tell how far an upload is, with its parts if they are asked for."""
    principal = _principal()
    include = request.args.get("include_parts")
    if include is not None and include.lower() not in _INCLUDE_PARTS:
        raise InvalidField("include_parts", "must be true or false")
    with_parts = None if include is None else _INCLUDE_PARTS[include.lower()]
    upload = context().uploads.status(_id(upload_id), sees=principal.sees, with_parts=with_parts)
    return jsonify(_status_json(upload))


@bp.get("/<upload_id>/tokens")
def tokens(upload_id: str) -> ResponseReturnValue:
    """Hand out fresh tokens for the pending parts; prolongs nothing."""
    principal = _principal()
    pending = context().uploads.pending(_id(upload_id), sees=principal.sees)
    made = _tokens(upload_id, pending.geometry, pending.indexes, pending.expires_at_ms)
    return jsonify(
        file_id=pending.upload_id,
        parts=[
            {"part": index, "token": token}
            for index, token in zip(pending.indexes, made, strict=True)
        ],
        expires_at=rfc3339(pending.expires_at_ms),
    )


@bp.post("/<upload_id>/complete")
def complete(upload_id: str) -> ResponseReturnValue:
    """Start finalizing; 200: the file is there, 202: it is on its way, 409: it failed."""
    principal = _principal()
    upload = context().uploads.complete(_id(upload_id), sees=principal.sees)
    http_status = {State.COMPLETE: 200, State.FAILED: 409}.get(upload.state, 202)
    answer = _outcome_json(upload)
    if upload.state is State.FAILED:
        answer["finalization_error"] = upload.error
        answer |= {"error": upload.error, "code": "finalization_failed"}
    return jsonify(answer), http_status


@bp.delete("/<upload_id>")
def cancel(upload_id: str) -> ResponseReturnValue:
    """Cancel an upload, or delete a complete one with its file."""
    principal = _principal()
    upload = context().uploads.cancel(_id(upload_id), sees=principal.sees)
    deleted = upload.state is State.DELETED
    message = "Upload and its file deleted" if deleted else "Upload cancelled"
    return jsonify(file_id=upload.id, status="cancelled", message=message)


def _principal() -> Principal:
    return api_key_principal(request, context().settings, context().ledger, Scope.UPLOAD)


def _id(raw: str) -> str:
    """Return an id from a path. PostgreSQL refuses even to look for one that holds a NUL."""
    if "\0" in raw:
        raise UploadNotFound
    return raw


def _wish(fields: dict[str, Any]) -> Wish:
    """Check the types of init's fields; unknown ones are ignored."""
    filename, length = fields.get("filename"), fields.get("total_size")
    if not isinstance(filename, str) or not filename:
        raise InvalidField("filename", "is required and must be a non-empty string")
    if type(length) is not int or length < 0:
        raise InvalidField("total_size", "is required and must be an integer >= 0 (bytes)")
    webhook_url = fields.get("webhook_url")
    if webhook_url is not None and not isinstance(webhook_url, str):
        raise InvalidField("webhook_url", "must be a string")
    checksum = fields.get("checksum_sha256")
    if checksum is not None:
        checksum = parse_sha256_hex(checksum) if isinstance(checksum, str) else None
        if checksum is None:
            raise InvalidField("checksum_sha256", "must be a string of 64 hex digits")
    metadata = fields.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidField("metadata", "must be an object")
    if _is_nested_deeper(metadata, MAX_METADATA_LEVELS):
        raise InvalidField("metadata", f"is nested deeper than {MAX_METADATA_LEVELS} levels")
    return Wish(
        filename,
        length,
        webhook_url=webhook_url,
        checksum_sha256=checksum,
        metadata=metadata or {},
        family=upload_family(),
    )


def _is_nested_deeper(value: object, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        lists = [list(outer.values()) if isinstance(outer, dict) else outer for outer in layer]
        layer = [inner for outer in lists if isinstance(outer, list) for inner in outer]
    return any(isinstance(inner, dict | list) for inner in layer)


def _tokens(upload_id: str, geometry: Geometry, indexes: Any, expires_at_ms: int) -> list[str]:
    secret = context().settings.jwt_secret.get_secret_value()
    signing = part_tokens(upload_id, geometry, indexes, expires_at_ms // 1000, secret)
    # 100,000 signatures take seconds: in a thread, other requests go on meanwhile.
    return sync_pool.run(lambda: list(signing))


def _outcome_json(upload: UploadView) -> dict[str, Any]:
    http_status, phase = _STATUS[upload.state]
    return {
        "file_id": upload.id,
        "filename": upload.filename,
        "total_size": upload.length,
        "status": http_status,
        "phase": phase,
        "final_path": upload.final_path,
        "storage_backend": upload.storage_backend,
        "finalizing_progress_percent": upload.finalized_percent,
    }


def _status_json(upload: UploadView) -> dict[str, Any]:
    parts = None if upload.parts is None else [_part_json(part) for part in upload.parts]
    return _outcome_json(upload) | {
        "chunk_size": upload.part_size,
        "total_parts": upload.part_count,
        "uploaded_parts": upload.received,
        "upload_progress_percent": upload.received_percent,
        "progress_percent": upload.received_percent,
        "finalization_error": upload.error,
        "parts": parts,
        "created_at": rfc3339(upload.created_at_ms),
        "expires_at": rfc3339(upload.expires_at_ms),
    }


def _part_json(part: PartView) -> dict[str, Any]:
    uploaded_at = None if part.received_at_ms is None else rfc3339(part.received_at_ms)
    return {
        "part": part.index,
        "status": "uploaded" if part.is_received else "pending",
        "checksum_sha256": part.sha256,
        "uploaded_at": uploaded_at,
    }
