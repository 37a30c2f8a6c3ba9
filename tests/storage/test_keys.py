"""Names on disk: no key leaves the root, and none is taken for what it is not."""

from __future__ import annotations

import os.path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.names import parse_client_name, target_key
from app.errors import InvalidName
from app.storage import keys

#: A busy machine is no failure.
UNTIMED = settings(deadline=None)

UPLOAD_ID = "0b8bb7a2-31fd-4a52-9b3c-0a4f3f6f9a10"

ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)

#: Anything at all, and often what could lead somewhere else.
hostile_text = st.text() | st.lists(
    st.sampled_from(["..", ".", "", "/", "\\", "\0", ".staging", ".STAGING", "a", "root-id"])
).map("/".join)


@UNTIMED
@given(ids, ids)
def test_a_staging_key_names_its_instance_and_its_upload(instance_id, upload_id):
    key = keys.staging_key(instance_id, upload_id)
    folder, instance, name = keys.split_staging_key(key)
    assert (folder, instance) == keys.staging_folder(instance_id)
    assert keys.staged_upload_id(name) == upload_id
    assert keys.split_key(key) == (folder, instance, name)


@UNTIMED
@given(st.uuids())
def test_uuids_are_ids(upload_id: UUID):
    assert keys.checked_id(str(upload_id)) == str(upload_id)
    assert keys.checked_id(upload_id.hex) == upload_id.hex


@UNTIMED
@given(hostile_text)
def test_whatever_is_accepted_as_a_final_key_stays_inside_the_root(text):
    try:
        components = keys.split_final_key(text)
    except ValueError:
        return
    path = os.path.normpath(os.path.join("/root", *components))
    assert path == f"/root/{text}"
    assert not path.casefold().startswith("/root/.staging")


@UNTIMED
@given(hostile_text)
def test_whatever_is_accepted_as_a_key_is_of_exactly_one_kind(text):
    accepted = []
    for split in (keys.split_final_key, keys.split_staging_key):
        try:
            accepted.append(split(text))
        except ValueError:
            continue
    assert len(accepted) <= 1
    if accepted:
        assert keys.split_key(text) == accepted[0]
    else:
        with pytest.raises(ValueError, match="key"):
            keys.split_key(text)


@UNTIMED
@given(hostile_text)
def test_every_name_that_clients_may_use_makes_a_final_key(text):
    try:
        name = parse_client_name(text)
    except InvalidName:
        return
    key = target_key(UPLOAD_ID, name)
    assert "/".join(keys.split_final_key(key)) == key


@pytest.mark.parametrize(
    "name",
    ["root-id", "x.probe", ".partial", "a b.partial", "a.partial.bak", "x.PARTIAL", "partial"],
)
def test_files_that_are_no_staged_objects_have_no_upload_id(name):
    assert keys.staged_upload_id(name) is None


def test_a_marker_is_read_as_it_was_written():
    root_id = keys.new_root_id()
    assert keys.parse_marker(keys.marker_bytes(root_id)) == root_id
    assert len(keys.marker_bytes(root_id)) <= keys.MARKER_MAX_BYTES
    assert keys.new_root_id() != root_id


@UNTIMED
@given(st.binary(max_size=keys.MARKER_MAX_BYTES))
def test_no_other_bytes_are_taken_for_a_marker(content):
    root_id = keys.parse_marker(content)
    assert root_id is None or keys.marker_bytes(root_id).strip() == content.strip()


def test_probes_and_drafts_are_no_staged_objects_and_never_the_same():
    assert keys.staged_upload_id(keys.probe_name()) is None
    assert keys.probe_name() != keys.probe_name()
    assert keys.marker_draft_name() not in {keys.MARKER_NAME, keys.marker_draft_name()}
