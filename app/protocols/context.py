"""What views need of the application, and who hands it to them."""

from __future__ import annotations

import re
from typing import Protocol, cast

from flask import current_app, request

from app.domain.clock import Clock
from app.domain.upload_ids import parse_family
from app.errors import MalformedRequest, UnknownContentType
from app.ingest.body import Body
from app.ingest.drain import Drain
from app.ingest.request import request_body
from app.ingest.whole import read_whole
from app.ledger.database import Ledger
from app.settings import Settings
from app.storage.base import Storage
from app.uploads.append_service import AppendService
from app.uploads.chunks import ChunkService
from app.uploads.reading import FileReader
from app.uploads.service import UploadService

#: Where ``create_app`` puts the context.
EXTENSION = "longhaul"

#: The largest JSON document of a request: a name, an URL and some metadata.
MAX_JSON_BYTES = 1024 * 1024

#: What says that a body is not coded: nothing, or the coding ``identity``.
_NO_CODING = re.compile(r"[ \t]*(?:identity[ \t]*)?", re.IGNORECASE)

#: What is not in names of codings, and how much of one an error repeats.
_UNUSUAL = re.compile(r"[^A-Za-z0-9 ,._-]")
_SHOWN_CHARACTERS = 40


class Context(Protocol):
    """The collaborators of this process. Some are made on first use and may fail then."""

    settings: Settings
    clock: Clock
    drain: Drain
    ledger: Ledger

    @property
    def storage(self) -> Storage: ...

    @property
    def uploads(self) -> UploadService: ...

    @property
    def files(self) -> FileReader: ...

    @property
    def appends(self) -> AppendService: ...

    @property
    def chunks(self) -> ChunkService: ...


def context() -> Context:
    """Return the context of the application that answers this request."""
    return cast(Context, current_app.extensions[EXTENSION])


def upload_family() -> str | None:
    """Return how the id of an upload is to begin that this request creates; None: anyhow.

    A load balancer tells it. Whoever else does gains nothing: what makes ids
    unguessable comes behind it.
    """
    return parse_family(request.headers.get("X-Upload-Family"))


def body() -> Body:
    """Return the body of this request, unread.

    Raises UnknownContentType where it is compressed or coded in some other way
    (RFC 9110 section 8.4): nothing here decodes, so the code would become the file.
    """
    coding = request.headers.get("Content-Encoding", "")
    if _NO_CODING.fullmatch(coding) is None:
        raise UnknownContentType(
            f"Content-Encoding {_UNUSUAL.sub('?', coding)[:_SHOWN_CHARACTERS]!r} is not taken; "
            "send the bytes as they are, without this field"
        )
    return request_body(request.environ)


def small_body() -> bytes:
    """Return this request's body, which must fit in MAX_JSON_BYTES."""
    data = read_whole(
        body(),
        limit_bytes=MAX_JSON_BYTES,
        idle_timeout_seconds=context().settings.body_idle_timeout_secs,
    )
    if data is None:
        raise MalformedRequest(f"The request body is over {MAX_JSON_BYTES} bytes")
    return data
