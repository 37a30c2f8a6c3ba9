"""Files read back: finished ones of any protocol, in whole or in part."""

from __future__ import annotations

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


def send_file(principal: Principal, upload_id: str) -> Response:
    """Return the answer to a GET or HEAD of an upload's file, conditions and ranges included.

    Raises UploadNotFound, also where the upload is another owner's;
    NotAuthorized where the principal may not use the upload's protocol;
    UploadUnfinished; StorageUnavailable, WrongRoot; werkzeug's errors for 412
    and 416.
    """
    if "\0" in upload_id:  # PostgreSQL refuses even to look for it
        raise UploadNotFound
    view = context().files.find(upload_id, sees=principal.sees)
    principal.require_protocol(view.protocol)
    return _answer(view)


def _answer(view: FileView) -> Response:
    modified_at = moment(view.modified_at_ms).replace(microsecond=0)
    selection = select(request, Validators(view.upload_id, modified_at), view.length)
    if selection.answer is Answer.PRECONDITION_FAILED:
        raise PreconditionFailed("The file is not the one that If-Match or the date asks for")
    if selection.answer is Answer.UNSATISFIABLE:
        raise RequestedRangeNotSatisfiable(view.length)
    if selection.answer is Answer.NOT_MODIFIED:
        response = Response(status=304)
    else:
        response = _file_response(view, selection)
    response.headers["ETag"] = f'"{view.upload_id}"'
    response.headers["Last-Modified"] = http_date(modified_at)
    # To be asked for again each time: it may have been deleted, or its owner's access ended.
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def _file_response(view: FileView, selection: Selection) -> Response:
    response = Response()
    if request.method == "GET":
        file = context().files.open(view)
        response.response = FileSender(file, selection.start, selection.end)
    response.headers.update(file_headers(view.filename, view.content_type))
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Content-Length"] = str(selection.end - selection.start)
    if selection.answer is Answer.PARTIAL:
        response.status_code = 206
        response.headers["Content-Range"] = (
            f"bytes {selection.start}-{selection.end - 1}/{view.length}"
        )
    return response
