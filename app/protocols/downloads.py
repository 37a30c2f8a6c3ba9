"""Files read back: finished ones of any protocol, in whole or in part."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import PreconditionFailed, RequestedRangeNotSatisfiable
from werkzeug.http import http_date

from app.domain.access import Principal
from app.domain.clock import moment
from app.errors import UploadNotFound
from app.ingest.sending import FileSender
from app.protocols.auth import uploader
from app.protocols.conditions import Answer, Selection, Validators, select
from app.protocols.context import context
from app.protocols.file_headers import file_headers
from app.uploads.reading import FileView

#: Not registered where DOWNLOADS is off.
bp = Blueprint("downloads", __name__)


@bp.get("/download/<upload_id>")
def download(upload_id: str) -> ResponseReturnValue:
    """Send the finished file of an upload, whatever its protocol."""
    here = context()
    principal = uploader(request, here.settings, here.ledger, protocol=None)
    return send_file(principal, upload_id)


def send_file(principal: Principal, upload_id: str, protocol: str | None = None) -> Response:
    """Return the answer to a GET or HEAD of an upload's file, conditions and ranges included.

    ``protocol``: only uploads of that one are known, None: of all. Raises
    UploadNotFound, also where the upload is another owner's; UploadGone;
    NotAuthorized where the principal may not use the upload's protocol;
    UploadUnfinished, UploadLocked; StorageUnavailable, WrongRoot; werkzeug's
    errors for 412 and 416.
    """
    if "\0" in upload_id:  # PostgreSQL refuses even to look for it
        raise UploadNotFound
    view = context().files.find(upload_id, protocol, sees=principal.sees)
    principal.require_protocol(view.protocol)
    return file_answer(view, file_headers(view.filename, view.content_type))


def file_answer(
    view: FileView, headers: Iterable[tuple[str, str]], *, declare_length: bool = False
) -> Response:
    """Return the answer to a GET or HEAD of ``view`` with ``headers`` that describe the file.

    A file that still grows is sent from its beginning until it is complete,
    whatever range is asked for; ``declare_length``: with a Content-Length where
    it is known. Raises as ``send_file`` does.
    """
    response = _finished(view) if view.finished else _growing(view, declare_length)
    if response.status_code != 304:
        response.headers.update(headers)
    return response


def _growing(view: FileView, declare_length: bool) -> Response:
    response = Response()
    response.automatically_set_content_length = False  # for HEAD it would be that of no body
    end = view.length if declare_length else None
    if request.method == "GET":
        response.response = _sender(view, 0, end)
    if end is not None:
        response.headers["Content-Length"] = str(end)
    response.headers["Accept-Ranges"] = "none"
    response.headers["Cache-Control"] = "private, no-store"
    return response


def _finished(view: FileView) -> Response:
    assert view.length is not None, "a finished file has a length"
    modified_at = moment(view.modified_at_ms).replace(microsecond=0)
    selection = select(request, Validators(view.upload_id, modified_at), view.length)
    if selection.answer is Answer.PRECONDITION_FAILED:
        raise PreconditionFailed("The file is not the one that If-Match or the date asks for")
    if selection.answer is Answer.UNSATISFIABLE:
        raise RequestedRangeNotSatisfiable(view.length)
    if selection.answer is Answer.NOT_MODIFIED:
        response = Response(status=304)
    else:
        response = _selected(view, view.length, selection)
    response.headers["ETag"] = f'"{view.upload_id}"'
    response.headers["Last-Modified"] = http_date(modified_at)
    # To be asked for again each time: it may have been deleted, or its owner's access ended.
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def _selected(view: FileView, length: int, selection: Selection) -> Response:
    response = Response()
    start, end = selection.start, selection.end
    if request.method == "GET":
        response.response = _sender(view, start, end)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Content-Length"] = str(end - start)
    if selection.answer is Answer.PARTIAL:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{length}"
    return response


def _sender(view: FileView, start: int, end: int | None) -> FileSender:
    here = context()
    return FileSender(request.environ, here.files.open(view), start, end, here.drain)
