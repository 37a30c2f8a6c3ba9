"""Resumable.js: chunks tested, stored and completed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.native import KIB, Native
from tests.harness.resumable import CHUNK_BYTES, File, Resumable
from tests.harness.server import Server
from tests.harness.wire import assert_problem, events, nothing_stored

Content = Callable[[int], bytes]


@pytest.fixture
def resumable(server: Server) -> Resumable:
    """A client of the shared server."""
    return Resumable(server)


def test_the_last_chunk_completes_the_file(resumable: Resumable, content: Content) -> None:
    file = File(content(3 * CHUNK_BYTES + 17), relative_path="photos/2024/movie.mp4")
    for number in (2, 1):
        answer = resumable.octet(file, number)
        assert not answer["complete"]
        assert answer["final_path"] is None
    last = resumable.octet(file, 3)
    assert last["complete"]
    assert last["location"] == f"{resumable.server.url}/download/{last['id']}"
    assert (last["received"], last["total_chunks"], last["size"]) == (3, 3, 3 * CHUNK_BYTES + 17)
    path = resumable.server.file(last["final_path"])
    key = resumable.server.store.key(last["final_path"])
    assert key == f"photos/2024/{last['id']}_movie.mp4"
    assert path.read_bytes() == file.content
    assert events(resumable.server, last["id"])[:2] == ["created", "completed"]


def test_a_chunk_that_is_not_stored_is_204_and_one_that_is_is_200(
    resumable: Resumable, content: Content
) -> None:
    file = File(content(3 * CHUNK_BYTES))
    assert not resumable.test(file, 1)
    stored = resumable.octet(file, 1)
    assert resumable.test_raw(file, 1).json() == stored
    assert not resumable.test(file, 2)


def test_other_bytes_replace_a_chunk_until_the_file_is_complete(
    resumable: Resumable, content: Content
) -> None:
    old = File(content(2 * CHUNK_BYTES))
    kept = 10 * KIB
    new = File(old.content[:kept] + content(2 * CHUNK_BYTES - kept), identifier=old.identifier)
    resumable.octet(old, 1)
    assert resumable.octet(new, 1)["received"] == 1
    last = resumable.octet(new, 2)
    assert resumable.server.file(last["final_path"]).read_bytes() == new.content
    again = resumable.octet_raw(old, 1)
    assert again.status_code == 400
    assert again.json()["code"] == "part_conflict"
    assert resumable.octet(new, 1)["location"] == last["location"]
    assert resumable.server.file(last["final_path"]).read_bytes() == new.content


def test_an_edited_file_sent_again_around_a_gap_is_no_mixture(
    resumable: Resumable, content: Content
) -> None:
    """As resumable.js does with ``testChunks: false``: from the first chunk to the last."""
    old = File(content(5 * CHUNK_BYTES))
    new = File(content(5 * CHUNK_BYTES), identifier=old.identifier)
    for number in (1, 2, 4, 5):
        first = resumable.octet(old, number)
    for number in (1, 2, 3, 4):
        answer = resumable.octet(new, number)
        assert not answer["complete"]
    assert answer["received"] == 5, "it is full, and two of its chunks were the old file's"
    last = resumable.octet(new, 5)
    assert last["complete"]
    assert last["id"] == first["id"]
    assert resumable.server.file(last["final_path"]).read_bytes() == new.content
    assert events(resumable.server, last["id"]).count("completed") == 1


def test_who_asks_is_told_that_older_chunks_of_an_edited_file_are_missing(
    resumable: Resumable, content: Content
) -> None:
    old = File(content(4 * CHUNK_BYTES))
    new = File(content(4 * CHUNK_BYTES), identifier=old.identifier)
    for number in (1, 2, 4):
        resumable.octet(old, number)
    resumable.octet(new, 1)
    assert [resumable.test(new, number) for number in new.numbers] == [True, False, False, False]
    for number in (2, 3, 4):
        last = resumable.octet(new, number)
    assert last["complete"]
    assert resumable.server.file(last["final_path"]).read_bytes() == new.content


def test_parts_of_two_editions_are_no_file_for_the_native_api_and_the_operator(
    server: Server, native: Native, resumable: Resumable, content: Content
) -> None:
    old = File(content(3 * CHUNK_BYTES))
    new = File(content(3 * CHUNK_BYTES), identifier=old.identifier)
    for number in (1, 3):
        resumable.octet(old, number)
    for number in (1, 2):
        answer = resumable.octet(new, number)
    assert (answer["received"], answer["complete"]) == (3, False)
    with nothing_stored(server):
        response = native.request("POST", f"/upload/{answer['id']}/complete")
        told = assert_problem(response.status_code, response.content, 409, "upload_not_open")
        assert "send it all again" in told
        failed = server.flask("uploads", "finalize", answer["id"], check=False)
        assert failed.returncode == 1
        assert "send it all again" in failed.stderr
    last = resumable.octet(new, 3)
    assert last["complete"]
    assert server.file(last["final_path"]).read_bytes() == new.content


def test_the_fields_of_a_form_come_before_the_file_or_after_it_or_in_the_query(
    resumable: Resumable, content: Content
) -> None:
    file = File(content(4 * CHUNK_BYTES + 1))
    fields = [[*file.fields(number).items()] for number in file.numbers]
    assert resumable.form_raw(file, 1).status_code == 200
    assert resumable.parts_raw([*file.fields(2, "flow").items()], file, 2).status_code == 200
    assert resumable.parts_raw([], file, 3, after=fields[2]).status_code == 200
    last = resumable.parts_raw([], file, 4, after=fields[3], params=fields[3])
    assert resumable.server.file(last.json()["final_path"]).read_bytes() == file.content
