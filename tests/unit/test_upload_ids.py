"""Ids of uploads: UUIDs that nobody can guess, alike at the beginning in a family."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from app.domain.upload_ids import FAMILY_DIGITS, family_named, family_of, new_upload_id


def test_ids_are_random_uuids_and_never_the_same() -> None:
    for family in (None, family_named("secret", "alice")):
        made = [new_upload_id(family) for _ in range(1000)]
        assert len(set(made)) == len(made)
        for upload_id in made:
            assert str(uuid.UUID(upload_id)) == upload_id
            assert uuid.UUID(upload_id).version == 4


def test_those_of_a_family_begin_alike_and_differ_behind() -> None:
    family = family_named("secret", "alice", "192.0.2.1")
    made = [new_upload_id(family) for _ in range(1000)]
    assert {family_of(upload_id) for upload_id in made} == {family}
    assert len({upload_id[FAMILY_DIGITS:] for upload_id in made}) == len(made)


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_a_family_has_always_the_same_digits(names: list[str]) -> None:
    family = family_named("secret", *names)
    assert family == family_named("secret", *names)
    assert len(family) == FAMILY_DIGITS
    assert int(family, 16) >= 0


def test_other_names_or_secrets_make_other_families() -> None:
    families = [
        family_named("secret", "alice", "192.0.2.1"),
        family_named("secret", "alice", "192.0.2.2"),
        family_named("secret", "bob", "192.0.2.1"),
        family_named("secret", "alice192.0.2.1"),
        family_named("other", "alice", "192.0.2.1"),
    ]
    assert len(set(families)) == len(families)
