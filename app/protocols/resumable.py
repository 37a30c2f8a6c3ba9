"""Resumable.js and flow.js: a chunk is tested with GET and stored with POST.

Chunk numbers count from 1 on the wire; here they become part indexes.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import parse_qsl

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from app.domain.access import Principal
from app.domain.names import parse_client_name
from app.domain.resumable import (
    ChunkFields,
    Field,
    FieldCollector,
    FieldNames,
    chunk_counts,
    client_key,
    geometry,
    possible_lengths,
    told_chunk_count,
)
from app.domain.states import State
from app.errors import (
    InvalidField,
    MalformedRequest,
    UnknownContentType,
)
from app.ingest.multipart import Form
from app.ledger.records import AliasKey
from app.protocols.auth import uploader
from app.protocols.context import body, context, upload_family
from app.protocols.urls import absolute_url
from app.storage.spool import Spool
from app.uploads.chunks import Chunk
from app.uploads.creating import Wish
from app.uploads.views import UploadView

PROTOCOL = "resumable"

#: What forms become that hold the chunk as text (``chunkFormat: 'base64'``).
_REFUSED_TYPES = frozenset({"application/x-www-form-urlencoded"})

bp = Blueprint(PROTOCOL, __name__, url_prefix="/api")


@bp.get("/upload")
def test() -> ResponseReturnValue:
    """Tell whether a chunk is stored: 200, or 204 where it is not."""
    principal = uploader(request, context().settings, context().ledger, PROTOCOL)
    fields = _query_fields().fields()
    upload = context().chunks.find(_chunk(fields, principal, None))
    return Response(status=204) if upload is None else _upload_json(upload)


@bp.route("/upload", methods=["POST", "PUT", "PATCH"])
def store() -> ResponseReturnValue:
    """Store a chunk: the raw body, or the file of a form."""
    principal = uploader(request, context().settings, context().ledger, PROTOCOL)
    collector = _query_fields()
    if request.mimetype == "multipart/form-data":
        return _upload_json(_put_form(collector, principal))
    if request.mimetype.startswith("multipart/") or request.mimetype in _REFUSED_TYPES:
        raise UnknownContentType(
            f"A body of the type {request.mimetype} is not taken; "
            "send multipart/form-data, or the chunk itself as application/octet-stream"
        )
    fields = collector.fields(_real_type(request.mimetype))
    return _upload_json(context().chunks.put(_chunk(fields, principal, body().length), body()))


def _put_form(collector: FieldCollector, principal: Principal) -> UploadView:
    """Store the file of a form: straight to its place, if the fields have come before it."""
    here = context()
    idle_timeout_seconds, guard = here.settings.body_idle_timeout_secs, here.drain.guard_part
    boundary = request.mimetype_params.get("boundary", "")
    form = Form(body(), boundary, _names().files, collector.add)
    form.read_to_file(idle_timeout_seconds, guard)
    if collector.is_complete:
        fields = collector.fields(_real_type(form.file_type))
        file = form.file(possible_lengths(fields))
        return here.chunks.put(_chunk(fields, principal, file.length), file)
    with Spool(here.settings.temp_storage_path) as spool:
        limit_bytes = here.settings.resumable_max_spool_bytes
        file = form.spooled(spool, limit_bytes, idle_timeout_seconds, guard)
        fields = collector.fields(_real_type(form.file_type))
        return here.chunks.put(_chunk(fields, principal, file.length), file)


def _real_type(declared: str | None) -> str | None:
    """Return the type a body is declared to have, unless it only says that it is bytes.

    flow.js has no field for the file's type: it is the body's.
    """
    return None if declared in {"", "application/octet-stream"} else declared


def _query_fields() -> FieldCollector:
    """Return the fields of the query. Raises MalformedRequest."""
    collector = FieldCollector(_names())
    try:
        query = request.query_string.decode()
        collector.add_all(parse_qsl(query, keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError as error:
        raise MalformedRequest("The query is not UTF-8") from error
    return collector


def _names() -> FieldNames:
    return _names_of(context().settings.resumable_parameters)


@lru_cache(maxsize=1)
def _names_of(options: tuple[tuple[str, str], ...]) -> FieldNames:
    return FieldNames.of(dict(options))


def _chunk(fields: ChunkFields, principal: Principal, length: int | None) -> Chunk:
    """Check a request's fields against each other; ``length`` of its bytes, None: not known."""
    least_bytes = context().settings.resumable_min_chunk_bytes
    if fields.chunk_size < least_bytes:
        raise InvalidField(Field.CHUNK_SIZE, f"must be at least {least_bytes} bytes here")
    for name in filter(None, (fields.filename, fields.relative_path)):
        parse_client_name(name)
    told = told_chunk_count(fields, length)
    unforced, _ = chunk_counts(fields.total_size, fields.chunk_size)
    cut = geometry(fields, unforced if told is None else told)
    index = fields.chunk_number - 1
    span = cut.span(index)
    for given in (fields.current_chunk_size, length):
        if given is not None and given != span.length:
            raise InvalidField(
                Field.CURRENT_CHUNK_SIZE,
                f"chunk {fields.chunk_number} has {span.length} bytes, not {given}",
            )
    alias = AliasKey(PROTOCOL, principal.owner, client_key(fields, principal.directory))
    wish = Wish(
        filename=fields.relative_path or fields.filename,
        length=fields.total_size,
        geometry=cut,
        directory=principal.directory,
        content_type=fields.content_type,
        max_bytes=principal.max_bytes,
        family=upload_family(),
    )
    return Chunk(PROTOCOL, alias, index, told, wish)


def _upload_json(upload: UploadView) -> ResponseReturnValue:
    return jsonify(
        id=upload.id,
        location=absolute_url(request, context().settings, f"/download/{upload.id}"),
        complete=upload.state is State.COMPLETE,
        received=upload.received,
        total_chunks=upload.part_count,
        size=upload.length,
        final_path=upload.final_path,
    )
