"""Ids of uploads: UUIDs that nobody can guess, which begin as a load balancer says."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.upload_ids import FAMILY_DIGITS, family_of, new_upload_id, parse_family


@pytest.mark.parametrize("family", [None, "00000000", "0123abcd"])
def test_ids_are_random_uuids_and_never_the_same(family: str | None) -> None:
    made = [new_upload_id(family) for _ in range(1000)]
    assert len({upload_id[FAMILY_DIGITS:] for upload_id in made}) == len(made)
    for upload_id in made:
        assert str(uuid.UUID(upload_id)) == upload_id
        assert uuid.UUID(upload_id).version == 4
        assert family in (None, family_of(upload_id))


@given(st.text("0123456789abcdef", min_size=FAMILY_DIGITS, max_size=FAMILY_DIGITS))
def test_a_family_is_taken_as_it_was_told(text: str) -> None:
    assert parse_family(text) == text
    assert family_of(new_upload_id(parse_family(text))) == text


@pytest.mark.parametrize(
    "text", [None, "", "0123abc", "0123abcde", "0123ABCD", "0123abcg", " 123abcd", "0123abcd\n"]
)
def test_what_is_no_family_is_not_taken(text: str | None) -> None:
    assert parse_family(text) is None


@given(st.text())
def test_nothing_else_gets_into_an_id(text: str) -> None:
    assert str(uuid.UUID(new_upload_id(parse_family(text)))) is not None
