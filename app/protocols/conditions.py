"""Conditional and range requests (RFC 9110 sections 13 and 14), decided without I/O.

The bytes of a finished upload never change under its id, so its validators are
always strong: the ETag is the id, and the date may be compared for equality.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from flask import Request
from werkzeug.http import parse_date, parse_range_header, unquote_etag


class Answer(Enum):
    """What a request is to be answered with."""

    WHOLE = auto()  #: 200
    PARTIAL = auto()  #: 206
    NOT_MODIFIED = auto()  #: 304
    PRECONDITION_FAILED = auto()  #: 412
    UNSATISFIABLE = auto()  #: 416


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells one representation from another: ETag without quotes, time in whole seconds."""

    etag: str
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Selection:
    """The answer, and the bytes ``start`` to ``end`` (exclusive) that go with it."""

    answer: Answer
    start: int
    end: int


def select(request: Request, validators: Validators, length: int) -> Selection:
    """Decide what a GET or HEAD of ``length`` bytes gets.

    RFC 9110 section 13.2.2 has the order: If-Match, else If-Unmodified-Since;
    If-None-Match, else If-Modified-Since; then Range, where If-Range allows it.
    """
    if not _may_be_read(request, validators):
        return Selection(Answer.PRECONDITION_FAILED, 0, 0)
    if _is_known(request, validators):
        return Selection(Answer.NOT_MODIFIED, 0, 0)
    # Section 14.2: a Range means nothing to methods other than GET.
    if request.method == "GET" and _range_applies(request, validators):
        return _ranged(request.headers.get("Range"), length)
    return Selection(Answer.WHOLE, 0, length)


def _may_be_read(request: Request, validators: Validators) -> bool:
    if "If-Match" in request.headers:
        return validators.etag in request.if_match
    since = request.if_unmodified_since
    return since is None or validators.modified_at <= since


def _is_known(request: Request, validators: Validators) -> bool:
    if "If-None-Match" in request.headers:
        return request.if_none_match.contains_weak(validators.etag)
    since = request.if_modified_since
    return since is not None and validators.modified_at <= since


def _range_applies(request: Request, validators: Validators) -> bool:
    """Section 13.1.5: strong comparison of an ETag, equality of a date; without it, always."""
    condition = request.headers.get("If-Range")
    if condition is None:
        return True
    date = parse_date(condition)
    if date is not None:
        return date == validators.modified_at
    etag, weak = unquote_etag(condition)
    return etag == validators.etag and not weak


def _ranged(header: str | None, length: int) -> Selection:
    """Return the one range a header asks for; several, or malformed ones, mean the whole.

    Section 14.2 lets a server ignore what it does not want to serve in pieces.
    """
    whole = Selection(Answer.WHOLE, 0, length)
    wanted = parse_range_header(header)
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return whole
    start, end = wanted.ranges[0]
    if start < 0:  # the last bytes; of an empty file no Content-Range could tell them
        return Selection(Answer.PARTIAL, max(0, length + start), length) if length else whole
    if start >= length:
        return Selection(Answer.UNSATISFIABLE, 0, 0)
    return Selection(Answer.PARTIAL, start, length if end is None else min(end, length))
