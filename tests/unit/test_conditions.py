"""Conditions and ranges of requests, against RFC 9110 written down another way."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from flask import Request
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.http import http_date
from werkzeug.test import EnvironBuilder

from app.protocols.conditions import Answer, Selection, Validators, select

ETAG = "5f0c"
MODIFIED_AT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
VALIDATORS = Validators(ETAG, MODIFIED_AT)
LENGTH = 1000

BEFORE = http_date(MODIFIED_AT - timedelta(seconds=1))
EXACTLY = http_date(MODIFIED_AT)
AFTER = http_date(MODIFIED_AT + timedelta(days=1))
GARBAGE = "not a date"


def answer(length: int = LENGTH, method: str = "GET", **fields: str) -> Selection:
    """Decide a request; an underscore in a field's name stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    request = Request(EnvironBuilder(method=method, headers=named).get_environ())
    return select(request, VALIDATORS, length)


def expected_range(text: str, length: int) -> Selection:
    """Return what RFC 9110 section 14.1.2 says of one range, by its grammar."""
    whole = Selection(Answer.WHOLE, 0, length)
    suffix = re.fullmatch(r"bytes=-([0-9]+)", text)
    if suffix is not None:
        count = min(int(suffix[1]), length)
        return Selection(Answer.PARTIAL, length - count, length) if count else whole
    first_last = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", text)
    if first_last is None:
        return whole
    first, last = int(first_last[1]), int(first_last[2] or length - 1)
    if first_last[2] and last < first:
        return whole  # invalid
    if first >= length:
        return Selection(Answer.UNSATISFIABLE, 0, 0)
    return Selection(Answer.PARTIAL, first, min(last, length - 1) + 1)


_NUMBERS = st.integers(0, 40).map(str) | st.sampled_from(["", "007", str(2**64), "9" * 5000])


@given(_NUMBERS, _NUMBERS, st.integers(0, 30))
@example("", "", 5)
@example("", "5", 0)
@example("0", "", 0)
@example("9" * 5000, "", 5)
def test_every_range_is_what_the_grammar_says(first: str, last: str, length: int) -> None:
    text = f"bytes={first}-{last}"
    if max(len(first), len(last)) > 4300:  # more digits than Python reads: ignored
        assert answer(length, Range=text) == Selection(Answer.WHOLE, 0, length)
    else:
        assert answer(length, Range=text) == expected_range(text, length)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_no_header_of_nonsense_is_more_than_ignored(text: str) -> None:
    selection = answer(Range=text)
    assert selection.answer in (Answer.WHOLE, Answer.PARTIAL, Answer.UNSATISFIABLE)
    assert 0 <= selection.start <= selection.end <= LENGTH


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"If_None_Match": f'"{ETAG}"'}, Answer.NOT_MODIFIED),
        ({"If_None_Match": f'W/"{ETAG}"'}, Answer.NOT_MODIFIED),
        ({"If_None_Match": f'"other", "{ETAG}"'}, Answer.NOT_MODIFIED),
        ({"If_None_Match": "*"}, Answer.NOT_MODIFIED),
        ({"If_None_Match": '"other"'}, Answer.WHOLE),
        ({"If_Modified_Since": BEFORE}, Answer.WHOLE),
        ({"If_Modified_Since": EXACTLY}, Answer.NOT_MODIFIED),
        ({"If_Modified_Since": AFTER}, Answer.NOT_MODIFIED),
        ({"If_Modified_Since": GARBAGE}, Answer.WHOLE),
        # The ETag counts, the date is not looked at.
        ({"If_None_Match": '"other"', "If_Modified_Since": AFTER}, Answer.WHOLE),
        ({"If_Match": f'"{ETAG}"'}, Answer.WHOLE),
        ({"If_Match": "*"}, Answer.WHOLE),
        ({"If_Match": '"other"'}, Answer.PRECONDITION_FAILED),
        ({"If_Match": f'W/"{ETAG}"'}, Answer.PRECONDITION_FAILED),
        ({"If_Unmodified_Since": BEFORE}, Answer.PRECONDITION_FAILED),
        ({"If_Unmodified_Since": EXACTLY}, Answer.WHOLE),
        ({"If_Unmodified_Since": GARBAGE}, Answer.WHOLE),
        ({"If_Match": f'"{ETAG}"', "If_Unmodified_Since": BEFORE}, Answer.WHOLE),
        # 412 before 304.
        ({"If_Match": '"other"', "If_None_Match": f'"{ETAG}"'}, Answer.PRECONDITION_FAILED),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions_in_the_order_of_the_rfc(
    method: str, fields: dict[str, str], expected: Answer
) -> None:
    assert answer(method=method, **fields).answer is expected


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [
        (f'"{ETAG}"', Answer.PARTIAL),
        (EXACTLY, Answer.PARTIAL),
        ('"other"', Answer.WHOLE),
        (f'W/"{ETAG}"', Answer.WHOLE),
        (BEFORE, Answer.WHOLE),
        (AFTER, Answer.WHOLE),  # equality, not order
        (GARBAGE, Answer.WHOLE),
        ("", Answer.WHOLE),
    ],
)
def test_a_range_is_for_the_file_that_if_range_names(if_range: str, expected: Answer) -> None:
    selection = answer(Range="bytes=1-2", If_Range=if_range)
    assert selection.answer is expected
    assert (selection.start, selection.end) == ((1, 3) if expected is Answer.PARTIAL else (0, 1000))


def test_if_range_without_a_range_changes_nothing() -> None:
    assert answer(If_Range='"other"') == Selection(Answer.WHOLE, 0, LENGTH)


def test_a_condition_that_fails_comes_before_the_range() -> None:
    fields = {"If_None_Match": f'"{ETAG}"', "Range": "bytes=1-2"}
    assert answer(**fields).answer is Answer.NOT_MODIFIED
    assert answer(Range="bytes=5000-", If_Range='"other"').answer is Answer.WHOLE


def test_a_range_means_nothing_to_head() -> None:
    assert answer(method="HEAD", Range="bytes=1-2") == Selection(Answer.WHOLE, 0, LENGTH)
