"""POST /upload/session: tokens for the pages of an application, and who they are good for."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import requests

from tests.harness.native import KIB, Native
from tests.harness.resumable import CHUNK_BYTES, File, Resumable, answer_of
from tests.harness.server import API_KEY, JWT_SECRET, Server
from tests.harness.wire import assert_problem, nothing_stored

pytestmark = pytest.mark.not_in("s3-staged", why="sessions are in tokens and the database alone")


def mint_raw(
    server: Server, document: object = None, key: str | None = API_KEY
) -> requests.Response:
    """Ask for a token, as an application does."""
    headers = {} if key is None else {"X-API-Key": key}
    document = {"owner": "alice"} if document is None else document
    return requests.post(f"{server.url}/upload/session", json=document, headers=headers, timeout=60)


def mint(server: Server, **fields: Any) -> str:
    """Return a token; it must be given."""
    answer = answer_of(mint_raw(server, {"owner": "alice", **fields}))
    return str(answer["token"])


def with_token(server: Server, **fields: Any) -> Resumable:
    """Return a client with a new token as a bearer."""
    return Resumable(server, {"Authorization": f"Bearer {mint(server, **fields)}"})


def signed(**claims: object) -> str:
    """Return a token that the server could have made."""
    good = {
        "use": "session",
        "owner": "user:admin/alice",
        "directory": "",
        "exp": int(time.time()) + 60,
    }
    return jwt.encode(good | claims, JWT_SECRET, algorithm="HS256")


# Minting


def test_a_session_is_a_token_and_when_it_ends(server: Server) -> None:
    answer = answer_of(mint_raw(server, {"owner": "alice", "expires_in": 60}))
    assert set(answer) == {"token", "expires_at"}
    ends_at = datetime.fromisoformat(answer["expires_at"].replace("Z", "+00:00"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer["expires_at"])
    assert abs(ends_at - datetime.now(UTC) - timedelta(seconds=60)) < timedelta(seconds=30)
    claims = jwt.decode(answer["token"], JWT_SECRET, algorithms=["HS256"])
    assert claims["exp"] == int(ends_at.timestamp())


def test_a_session_lasts_a_working_day_unless_it_is_told_otherwise(server: Server) -> None:
    claims = jwt.decode(mint(server), JWT_SECRET, algorithms=["HS256"])
    assert 11.9 * 3600 < claims["exp"] - time.time() <= 12 * 3600


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_only_applications_mint(server: Server, key: str | None) -> None:
    response = mint_raw(server, key=key)
    assert_problem(response.status_code, response.content, 401, "not_authenticated")


def test_no_token_mints_another(server: Server) -> None:
    response = requests.post(
        f"{server.url}/upload/session",
        json={"owner": "bob"},
        headers={"Authorization": f"Bearer {mint(server)}"},
        timeout=60,
    )
    assert response.status_code == 401


def test_a_key_without_the_scope_does_not_mint(server: Server) -> None:
    out = server.flask("keys", "create", "watcher", "--scope", "metrics").stdout
    key = out.split()[-1]
    response = mint_raw(server, key=key)
    assert_problem(response.status_code, response.content, 403, "not_authorized")


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "owner"),
        ({"owner": ""}, "owner"),
        ({"owner": 7}, "owner"),
        ({"owner": "a\nb"}, "owner"),
        ({"owner": "a\0b"}, "owner"),
        ({"owner": "x" * 256}, "owner"),
        ({"owner": "a", "directory": 1}, "directory"),
        ({"owner": "a", "directory": "../b"}, "directory"),
        ({"owner": "a", "directory": "/b"}, "directory"),
        ({"owner": "a", "directory": "b//c"}, "directory"),
        ({"owner": "a", "directory": ".staging/x"}, "directory"),
        ({"owner": "a", "max_bytes": 0}, "max_bytes"),
        ({"owner": "a", "max_bytes": "1"}, "max_bytes"),
        ({"owner": "a", "max_bytes": True}, "max_bytes"),
        ({"owner": "a", "expires_in": -1}, "expires_in"),
        ({"owner": "a", "expires_in": 1.5}, "expires_in"),
        ({"owner": "a", "expires_in": 366 * 24 * 3600}, "expires_in"),
        ({"owner": "a", "protocols": "tus"}, "protocols"),
        ({"owner": "a", "protocols": ["ftp"]}, "protocols"),
        ({"owner": "a", "protocols": [1]}, "protocols"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(server: Server, document: dict[str, Any], field: str) -> None:
    response = mint_raw(server, document)
    message = assert_problem(response.status_code, response.content, 422, "invalid_field")
    assert message.startswith(f"{field}:")


@pytest.mark.parametrize("document", [[], "x", 1])
def test_what_is_no_object_is_refused(server: Server, document: object) -> None:
    assert mint_raw(server, document).status_code == 400


# Using


def test_a_token_is_taken_as_a_bearer_and_in_the_query(server: Server) -> None:
    file = File(b"x" * CHUNK_BYTES)
    assert not with_token(server).test(file, 1)
    nobody = Resumable(server, {})
    token = mint(server)
    response = nobody.request("GET", params={**file.fields(1), "upload_token": token})
    assert response.status_code == 204
    response = nobody.request(
        "POST",
        params={**file.fields(1), "upload_token": token},
        data=file.content,
        headers={"Content-Type": "application/octet-stream"},
    )
    assert answer_of(response)["complete"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Bearer {API_KEY}"},
        {"Authorization": f"Basic {API_KEY}"},
        {"Authorization": f"Bearer {signed(use='part', exp=2**33)}"},
        {"Authorization": f"Bearer {jwt.encode({'exp': 2**33}, 'x' * 32, 'HS256')}"},
    ],
    ids=["none", "wrong key", "empty", "nonsense", "key as bearer", "basic", "part", "foreign"],
)
def test_nobody_else_stores_or_looks(server: Server, headers: dict[str, str]) -> None:
    file = File(b"x" * CHUNK_BYTES)
    client = Resumable(server, headers)
    with nothing_stored(server):
        for response in (
            client.test_raw(file, 1),
            client.octet_raw(file, 1),
            client.form_raw(file, 1),
        ):
            assert_problem(response.status_code, response.content, 401, "not_authenticated")
            assert "Bearer" in response.headers["WWW-Authenticate"]


def test_an_expired_token_says_that_it_has_expired(server: Server) -> None:
    expired = signed(exp=int(time.time()) - 5)
    response = Resumable(server, {"Authorization": f"Bearer {expired}"}).test_raw(File(b"x"), 1)
    assert_problem(response.status_code, response.content, 401, "token_expired")


def test_part_tokens_and_session_tokens_open_each_their_own_door(
    server: Server, native: Native
) -> None:
    upload = native.init(size=10)
    as_session = Resumable(server, {"Authorization": f"Bearer {upload.tokens[0]}"})
    assert as_session.test_raw(File(b"x"), 1).status_code == 401
    response = native.put_raw(upload, 0, b"0123456789", token=mint(server))
    assert_problem(response.status_code, response.content, 401, "not_authenticated")
    assert native.pending(upload) == [0]


def test_a_token_is_for_its_protocols_only(server: Server) -> None:
    file = File(b"x" * CHUNK_BYTES)
    client = with_token(server, protocols=["tus", "pipe"])
    with nothing_stored(server):
        response = client.octet_raw(file, 1)
    assert_problem(response.status_code, response.content, 401, "not_authorized")
    assert with_token(server, protocols=["resumable"]).octet(file, 1)["complete"]


def test_uploads_land_under_the_directory_and_none_leaves_it(server: Server) -> None:
    client = with_token(server, directory="users/alice/")
    plain = File(b"x", name="a.txt")
    answer = client.octet(plain, 1)
    assert server.store.key(answer["final_path"]) == f"users/alice/{answer['id']}_a.txt"
    nested = File(b"x", name="a.txt", relative_path="photos/2024/a.txt")
    answer = client.octet(nested, 1)
    key = server.store.key(answer["final_path"])
    assert key == f"users/alice/photos/2024/{answer['id']}_a.txt"
    for path in ("../a.txt", "photos/../../a.txt", "/etc/a.txt", "..", ".staging/a.txt"):
        with nothing_stored(server):
            response = client.octet_raw(File(b"x", relative_path=path), 1)
        assert_problem(response.status_code, response.content, 400, "invalid_name")


def test_a_directory_and_a_name_have_one_limit_together(server: Server) -> None:
    """S3 has no longer keys; what is refused there at the end could never be finished."""
    folder, path = "/".join(["d" * 200] * 3), "/".join(["n" * 200] * 2) + "/a.txt"
    for directory, status in (("d", 200), (folder, 400)):
        response = with_token(server, directory=directory).octet_raw(
            File(b"x", name="a.txt", relative_path=path), 1
        )
        assert response.status_code == status
    assert "with its folders" in assert_problem(400, response.content, 400, "invalid_name")


def test_one_file_sent_to_two_directories_is_two_files(server: Server) -> None:
    file = File(b"x")
    answers = [with_token(server, directory=name).octet(file, 1) for name in ("one", "two", "one")]
    assert [answer["final_path"].split("/")[-2] for answer in answers] == ["one", "two", "one"]
    assert answers[0] == answers[2]


def test_uploads_are_no_larger_than_the_token_allows(server: Server) -> None:
    client = with_token(server, max_bytes=CHUNK_BYTES)
    assert client.octet(File(b"x" * CHUNK_BYTES), 1)["complete"]
    large = File(b"x" * (CHUNK_BYTES + 1))
    with nothing_stored(server):
        for response in (client.test_raw(large, 1), client.octet_raw(large, 1)):
            assert_problem(response.status_code, response.content, 400, "upload_too_large")


def test_users_do_not_see_each_others_uploads(server: Server) -> None:
    alice, bob = with_token(server, owner="alice"), with_token(server, owner="bob")
    hers = File(b"a" * (3 * CHUNK_BYTES))
    his = File(b"b" * (3 * CHUNK_BYTES), identifier=hers.identifier)
    first = alice.octet(hers, 1)
    assert not bob.test(his, 1)
    assert bob.octet(his, 1)["id"] != first["id"]
    for number in (2, 3):
        hers_done, his_done = alice.octet(hers, number), bob.octet(his, number)
    for client_file, done in ((hers, hers_done), (his, his_done)):
        assert server.file(done["final_path"]).read_bytes() == client_file.content
    assert not Resumable(server).test(hers, 1)


def test_the_same_user_of_two_applications_is_two_owners(server: Server) -> None:
    out = server.flask("keys", "create", "other-app", "--scope", "upload").stdout
    token = answer_of(mint_raw(server, {"owner": "alice"}, key=out.split()[-1]))["token"]
    file = File(b"x" * (2 * CHUNK_BYTES))
    with_token(server, owner="alice").octet(file, 1)
    assert not Resumable(server, {"Authorization": f"Bearer {token}"}).test(file, 1)


def test_tokens_never_stand_in_the_log(server: Server) -> None:
    token = mint(server)
    file = File(b"x" * KIB)
    nobody = Resumable(server, {})
    for method in ("GET", "POST", "OPTIONS", "DELETE"):
        nobody.request(method, params={**file.fields(1), "upload_token": token}, data=b"x")
    nobody.request("GET", params={**file.fields(1), "upload_token": token + "x"})
    nobody.request("GET", params={"upload_token": token, "fill": "x" * 9000})  # gunicorn refuses
    log = "\n".join(server.log_lines())
    assert '"path": "/api/upload"' in log
    for piece in token.split("."):
        assert piece not in log
