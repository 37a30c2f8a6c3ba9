"""POST /upload/init: what it gives, what it refuses, and that a refusal leaves nothing."""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.harness.native import MIB, Native
from tests.harness.places import Place
from tests.harness.server import JWT_SECRET, Server
from tests.harness.wire import assert_problem, events, examples, nothing_stored, rows

GIB = 1024 * MIB


@pytest.fixture(scope="module")
def cramped(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with parts and a room of 3 GiB for uploads of at most 2.5 GiB."""
    directory = tmp_path_factory.mktemp("cramped")
    free_bytes = shutil.disk_usage(directory).free
    server = place.server(
        directory,
        CHUNK_SIZE_MB=1024,
        MAX_UPLOAD_BYTES=5 * GIB // 2,
        MIN_FREE_DISK_BYTES=max(0, free_bytes - 3 * GIB),
    )
    server.start()
    yield server
    server.close()


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, JWT_SECRET, algorithms=["HS256"])
    return claims


# What it gives


def test_init_answers_id_geometry_tokens_and_expiry(server: Server, native: Native) -> None:
    response = native.init_raw({"filename": "movie.mp4", "total_size": 2 * MIB + 1})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    answer = response.json()
    assert set(answer) == {"file_id", "total_parts", "chunk_size", "parts", "expires_at"}
    assert uuid.UUID(answer["file_id"]).version == 4
    assert (answer["total_parts"], answer["chunk_size"]) == (3, MIB)
    assert [part["part"] for part in answer["parts"]] == [0, 1, 2]
    assert all(set(part) == {"part", "token", "status"} for part in answer["parts"])
    assert {part["status"] for part in answer["parts"]} == {"pending"}
    assert events(server, answer["file_id"]) == ["created"]


def test_a_load_balancer_says_how_the_id_begins(native: Native) -> None:
    native.session.headers["X-Upload-Family"] = "0123abcd"
    first, second = native.init(size=1), native.init(size=1)
    assert first.id != second.id
    assert (first.id[:9], second.id[:9]) == ("0123abcd-", "0123abcd-")
    native.session.headers["X-Upload-Family"] = "../0123a"
    assert native.init(size=1).id[:8] not in ("../0123a", "0123abcd")


def test_an_upload_expires_a_day_after_init_in_rfc_3339_utc(native: Native) -> None:
    text = native.init().raw["expires_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
    left = datetime.fromisoformat(text) - datetime.now(UTC)
    assert timedelta(hours=24) - timedelta(minutes=1) < left <= timedelta(hours=24)


def test_a_part_token_is_a_jwt_with_exactly_these_claims(native: Native) -> None:
    upload = native.init(size=MIB + 5)
    expires_at = datetime.fromisoformat(upload.raw["expires_at"]).timestamp()
    assert jwt.get_unverified_header(upload.tokens[1])["alg"] == "HS256"
    assert claims_of(upload.tokens[1]) == {
        "upload_id": upload.id,
        "part_number": 1,
        "expected_size": 5,
        "exp": expires_at,
    }


@examples
@given(size=st.integers(0, 40 * MIB))
@example(0)
@example(1)
@example(MIB - 1)
@example(MIB)
@example(MIB + 1)
def test_the_parts_cover_the_file_and_the_last_one_is_the_rest(native: Native, size: int) -> None:
    upload = native.init(size=size)
    sizes = [claims_of(token)["expected_size"] for token in upload.tokens]
    assert upload.raw["total_parts"] == len(sizes) == -(-size // MIB)
    assert sum(sizes) == size
    assert all(length == MIB for length in sizes[:-1])
    assert all(0 < length <= MIB for length in sizes[-1:])
    assert native.cancel_raw(upload).status_code == 200


def test_init_makes_a_staged_file_of_full_length(server: Server, native: Native) -> None:
    upload = native.init(size=3 * MIB + 17)
    (staged,) = [path for path in server.staged_files() if upload.id in path.name]
    assert staged.stat().st_size == 3 * MIB + 17


def test_an_empty_file_has_no_parts_and_completes_at_once(server: Server, native: Native) -> None:
    upload = native.init("empty.txt", size=0)
    assert (upload.raw["total_parts"], upload.raw["parts"]) == (0, [])
    status = native.status(upload)
    assert (status["upload_progress_percent"], status["progress_percent"]) == (100, 100)
    assert (status["phase"], status["parts"]) == ("uploading", [])
    answer = native.complete(upload)
    assert server.file(answer["final_path"]).read_bytes() == b""
    assert events(server, upload.id) == ["created", "completed", "processing_started", "finalized"]


def test_optional_fields_are_kept_and_unknown_ones_ignored(server: Server, native: Native) -> None:
    upload = native.init(
        metadata={"album": "Ünïcode", "tags": [1, None, {"a": "\0"}]},
        checksum_sha256="AB" * 32,
        webhook_url="http://127.0.0.1:9/hook",
        chunk_size=7,
        file_id="mine",
        nonsense={"a": []},
    )
    (row,) = rows(server, "SELECT * FROM uploads WHERE id = ?", upload.id)
    assert json.loads(row["metadata"]) == {"album": "Ünïcode", "tags": [1, None, {"a": "\0"}]}
    assert row["checksum_sha256"] == "ab" * 32
    assert row["webhook_url"] == "http://127.0.0.1:9/hook"
    assert upload.chunk_size == MIB


def test_optional_fields_may_be_null(native: Native) -> None:
    assert native.init(webhook_url=None, checksum_sha256=None, metadata=None).tokens


def test_the_content_type_of_the_document_does_not_matter(native: Native) -> None:
    document = json.dumps({"filename": "a", "total_size": 1}).encode()
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        headers = native.headers | {"Content-Type": content_type}
        response = native.request("POST", "/upload/init", data=document, headers=headers)
        assert response.status_code == 200
    assert native.request("POST", "/upload/init", data=iter([document])).status_code == 200


# What it refuses


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("filename", [None, "", 7, True, ["a"], {"a": 1}]),
        ("total_size", [None, -1, "5", 5.0, 1e3, True, [5], {}]),
        ("webhook_url", [7, True, [], {}]),
        ("checksum_sha256", [7, "", "ab", "g" * 64, "a" * 65, ["a" * 64]]),
        ("metadata", ["text", 7, True, [], [{}]]),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_by_name(
    server: Server, native: Native, field: str, values: list[object]
) -> None:
    with nothing_stored(server):
        for value in values:
            response = native.init_raw({"filename": "a", "total_size": 5} | {field: value})
            message = assert_problem(response.status_code, response.content, 422, "invalid_field")
            assert field in message


@pytest.mark.parametrize("field", ["filename", "total_size"])
def test_a_missing_field_is_refused_by_name(server: Server, native: Native, field: str) -> None:
    document: dict[str, object] = {"filename": "a", "total_size": 5}
    del document[field]
    with nothing_stored(server):
        response = native.init_raw(document)
    message = assert_problem(response.status_code, response.content, 422, "invalid_field")
    assert field in message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"filename": "\xe9", "total_size": 5}',
        b'{"filename": "a", "total_size": 5} trailing',
        b"{'filename': 'a', 'total_size': 5}",
        b'{"filename": "a", "total_size": 5,}',
        b'{"filename": "a", "total_size": NaN}',
        b'{"filename": "a", "total_size": 5, "metadata": {"a": NaN}}',
        b'{"filename": "a", "total_size": 5, "metadata": {"a": -Infinity}}',
        b'{"filename": "a", "total_size": 5, "metadata": {"a": 1e999}}',
        b'{"filename": "a", "total_size": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'["filename", "total_size"]',
        b'"text"',
        b"null",
    ],
    ids=lambda body: repr(body[:50]),
)
def test_bad_json_is_refused(server: Server, native: Native, body: bytes) -> None:
    with nothing_stored(server):
        response = native.request("POST", "/upload/init", data=body)
    assert_problem(response.status_code, response.content, 400, "malformed_request")


def test_a_document_over_a_mebibyte_is_refused(server: Server, native: Native) -> None:
    document = {"filename": "a", "total_size": 5, "metadata": {"a": "a" * MIB}}
    raw = json.dumps(document).encode()
    with nothing_stored(server):
        for data in (raw, iter([raw])):  # with Content-Length, and chunked
            response = native.request("POST", "/upload/init", data=data)
            assert_problem(response.status_code, response.content, 400, "malformed_request")
    assert native.status(native.init())["status"] == "pending"  # the connection goes on


def test_deeply_nested_metadata_is_stored_or_refused_but_never_an_accident(native: Native) -> None:
    for depth in (98, 99, 100, 101, 500, *range(850, 1010, 10), 5000):
        metadata = '{"a":' + "[" * depth + "]" * depth + "}"
        body = f'{{"filename": "a", "total_size": 0, "metadata": {metadata}}}'
        response = native.request("POST", "/upload/init", data=body.encode())
        assert response.status_code in {200, 400, 422}, (depth, response.text)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@examples
@given(
    document=_json
    | st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["filename", "total_size", "webhook_url", "checksum_sha256", "metadata"], _json
        ),
    )
)
def test_any_document_is_answered_with_an_upload_or_a_problem(
    native: Native, document: object
) -> None:
    response = native.init_raw(document)
    if response.status_code != 200:
        problem = response.json()
        assert response.status_code in {400, 413, 422}
        assert set(problem) == {"error", "code", "status"}
        assert problem["status"] == response.status_code


def test_a_webhook_that_is_no_http_url_is_refused(server: Server, native: Native) -> None:
    with nothing_stored(server):
        for url in ("", "ftp://example.com/", "example.com", "http://", "http://a b/", "\0"):
            response = native.init_raw({"filename": "a", "total_size": 5, "webhook_url": url})
            assert_problem(response.status_code, response.content, 422, "target_refused")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost:8080/hook",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://[fe80::1]/",
        "http://2130706433/",
    ],
)
def test_a_webhook_to_a_private_address_is_refused(careful: Native, url: str) -> None:
    with nothing_stored(careful.server):
        response = careful.init_raw({"filename": "a", "total_size": 5, "webhook_url": url})
    assert_problem(response.status_code, response.content, 422, "target_refused")
    assert careful.init(webhook_url="https://example.com/hook").tokens


# Limits


def test_the_size_limit_is_looked_at_before_the_free_disk(cramped: Server) -> None:
    native = Native(cramped)
    with nothing_stored(cramped):
        for size in (5 * GIB // 2 + 1, 100 * GIB, 2**63, 10**30):
            response = native.init_raw({"filename": "a", "total_size": size})
            assert_problem(response.status_code, response.content, 413, "upload_too_large")


@pytest.mark.not_in("s3-staged", why="a bucket has no end")
def test_announced_bytes_count_until_their_upload_ends(cramped: Server) -> None:
    native = Native(cramped)
    first = native.init(size=2 * GIB)
    with nothing_stored(cramped):
        response = native.init_raw({"filename": "a", "total_size": 2 * GIB})
        message = assert_problem(response.status_code, response.content, 507, "storage_full")
        assert "space" in message
    assert native.cancel_raw(first).status_code == 200
    second = native.init(size=2 * GIB)
    assert native.cancel_raw(second).status_code == 200


def test_without_the_check_free_disk_is_left_to_the_writes(careful: Native) -> None:
    settings = careful.server.settings
    assert (settings["CHECK_FREE_DISK"], settings["MIN_FREE_DISK_BYTES"]) == ("off", "1000T")
    upload = careful.init(size=5)
    careful.put(upload, 0, b"bytes")
    assert careful.complete(upload)["status"] == "complete"


def test_an_upload_has_at_most_a_hundred_thousand_parts(careful: Native) -> None:
    upload = careful.init(size=100_000 * MIB)
    assert (len(upload.tokens), upload.raw["total_parts"]) == (100_000, 100_000)
    careful.put(upload, 99_999, bytes(MIB))
    status = careful.status(upload)
    assert (status["uploaded_parts"], status["upload_progress_percent"]) == (1, 0.0)
    assert status["parts"][99_999]["status"] == "uploaded"
    assert careful.cancel_raw(upload).status_code == 200
    with nothing_stored(careful.server):
        response = careful.init_raw({"filename": "a", "total_size": 100_000 * MIB + 1})
        assert_problem(response.status_code, response.content, 413, "upload_too_large")


# Names


def stored_as(native: Native, filename: str) -> str:
    """Send an empty file of this name; return its path below the storage root."""
    upload = native.init(filename, size=0)
    answer = native.complete(upload)
    assert answer["filename"] == unicodedata.normalize("NFC", filename).rpartition("/")[2]
    assert native.server.file(answer["final_path"]).exists()
    below = native.server.store.key(answer["final_path"])
    assert answer["final_path"] == native.server.store.location(below)
    assert f"/{upload.id}_" in below
    return below.replace(upload.id, "<uuid>")


def test_a_path_is_kept_and_a_bare_name_goes_to_files(native: Native) -> None:
    assert stored_as(native, "videos/2024/movie.mp4") == "videos/2024/<uuid>_movie.mp4"
    assert stored_as(native, "movie.mp4") == "files/<uuid>_movie.mp4"
    assert stored_as(native, "files/movie.mp4") == "files/<uuid>_movie.mp4"


def test_uploads_of_one_name_do_not_meet(native: Native) -> None:
    finals = set()
    for data in (b"first", b"other"):
        upload = native.init("twice.txt", size=5)
        native.put_all(upload, data)
        finals.add(native.server.file(native.complete(upload)["final_path"]))
    assert sorted(path.read_bytes() for path in finals) == [b"first", b"other"]


@pytest.mark.parametrize(
    "name",
    [
        "with spaces / and more .txt",
        " leading and trailing ",
        "日本語/映画.mp4",
        "emoji 🎬🏳️‍🌈.mov",
        "e\u0301te\u0301.txt",  # NFD, as macOS sends it
        "quote'\"<>|:*?%00&#.txt",
        ".hidden",
        "...",
        "~",
        "-rf",
    ],
)
def test_spaces_and_unicode_are_kept_in_nfc(native: Native, name: str) -> None:
    directory, _, base = unicodedata.normalize("NFC", name).rpartition("/")
    assert stored_as(native, name) == f"{directory or 'files'}/<uuid>_{base}"


_component = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/\\"),
    min_size=1,
    max_size=40,
).filter(lambda text: text not in {".", ".."} and text.casefold() != ".staging")


@examples
@given(components=st.lists(_component, min_size=1, max_size=3))
def test_every_printable_name_can_be_stored(native: Native, components: list[str]) -> None:
    name = unicodedata.normalize("NFC", "/".join(components))
    if len(name.encode()) <= 200:  # longer ones are shortened, see below
        directory, _, base = name.rpartition("/")
        assert stored_as(native, "/".join(components)) == f"{directory or 'files'}/<uuid>_{base}"


_hostile = st.sampled_from(
    [
        *("", ".", "..", "..\\..", "a\\b", ".staging", ".STAGING"),
        *("a\0b", "a\nb", "\x7f", "a\x85", "\ud800", "x" * 256, "é" * 128),
    ]
)
_components = st.lists(_component, max_size=2)


@examples
@given(
    before=st.lists(_component, max_size=2),
    hostile=_hostile,
    after=st.lists(_component, max_size=2),
)
@example([], "", ["etc", "passwd"])
@example([], "..", ["..", "etc", "passwd"])
@example(["a"], "", [])
@example([], ".staging", ["x"])
def test_a_hostile_component_is_refused_by_name(
    server: Server, native: Native, before: list[str], hostile: str, after: list[str]
) -> None:
    filename = "/".join([*before, hostile, *after])
    if not filename:
        return  # a missing name: 422
    with nothing_stored(server):
        response = native.init_raw({"filename": filename, "total_size": 5})
    message = assert_problem(response.status_code, response.content, 400, "invalid_name")
    shown = hostile.encode("ascii", "backslashreplace").decode()
    if hostile and not filename.startswith("/"):
        assert repr(shown[:50])[1:-1] in message


def test_an_absolute_name_is_refused(server: Server, native: Native) -> None:
    with nothing_stored(server):
        for name in ("/etc/passwd", "//etc/passwd", "/"):
            response = native.init_raw({"filename": name, "total_size": 5})
            assert_problem(response.status_code, response.content, 400, "invalid_name")


def test_a_name_over_900_bytes_with_its_folders_is_refused(server: Server, native: Native) -> None:
    with nothing_stored(server):
        name = "/".join(["a" * 200] * 5)
        response = native.init_raw({"filename": name, "total_size": 5})
    assert_problem(response.status_code, response.content, 400, "invalid_name")


@pytest.mark.parametrize(
    "name",
    [
        "a" * 251 + ".mp4",
        "é" * 125 + ".mp4",
        "x" + "é" * 125 + ".mp4",
        "🎬" * 62 + ".mp4",
        "xyz" + "🎬" * 62 + ".mp4",
        "videos/" + "日" * 83 + ".mp4",
        "a" * 220 + ".tar.gz",
    ],
)
def test_a_name_too_long_for_its_uuid_loses_the_end_of_its_stem(native: Native, name: str) -> None:
    upload = native.init(name, size=0)
    base = name.rpartition("/")[2]
    answer = native.complete(upload)
    assert native.status(upload)["filename"] == answer["filename"] == base  # stays whole
    stored_name = native.server.file(answer["final_path"]).name
    stem, _, extension = stored_name.removeprefix(f"{upload.id}_").rpartition(".")
    assert extension == base.rpartition(".")[2]
    assert base.rpartition(".")[0].startswith(stem)
    # As long as fits: another character would have been too much.
    length = len(stored_name.encode())
    assert length <= 255 < length + len(base[len(stem)].encode())


def test_a_long_name_without_an_extension_is_shortened_at_its_end(native: Native) -> None:
    for base in ("a" * 255, "." + "a" * 254, "a." + "b" * 253):
        upload = native.init(base, size=0)
        stored_name = native.server.file(native.complete(upload)["final_path"]).name
        assert stored_name == f"{upload.id}_{base}"[:255]


@pytest.mark.not_in("smb", why="the share's server refuses to follow links that leave the share")
@pytest.mark.not_in("s3-staged", why="buckets have no links")
def test_no_symbolic_link_leads_out_of_the_storage_root(
    server: Server, native: Native, tmp_path: Path
) -> None:
    (server.uploads / "trap").symlink_to(tmp_path)
    upload = native.init("trap/movie.mp4", size=5)
    native.put_all(upload, b"bytes")
    response = native.complete_raw(upload)
    assert (response.status_code, response.json()["status"]) == (409, "failed")
    assert list(tmp_path.iterdir()) == []
    (server.uploads / "trap").unlink()
    assert (
        native.server.file(native.complete(upload)["final_path"]).read_bytes() == b"bytes"
    )  # nothing is lost
