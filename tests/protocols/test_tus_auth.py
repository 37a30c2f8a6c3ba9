"""Who may do what below /files."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.harness.native import Native
from tests.harness.server import API_KEY, JWT_SECRET, Server
from tests.harness.tus import CONTENT_TYPE, Tus, TusUpload, metadata
from tests.harness.wire import nothing_stored, rows

pytestmark = pytest.mark.not_in("s3-staged", why="who may what is in the database alone")


def session(server: Server, **claims: Any) -> str:
    """Return a session token as an application mints it."""
    document = {"owner": "alice", **claims}
    response = Native(server).request("POST", "/upload/session", json=document)
    assert response.status_code == 200, response.text
    token: str = response.json()["token"]
    return token


def expired_session() -> str:
    from app.domain.sessions import Session, session_token

    return session_token(Session("user:admin/alice", "", None, None), 1_000_000_000, JWT_SECRET)


def with_token(server: Server, token: str) -> Tus:
    tus = Tus(server, None)
    tus.usual["Authorization"] = f"Bearer {token}"
    return tus


def every_request(tus: Tus, upload: TusUpload) -> dict[str, requests.Response]:
    """Ask for everything there is."""
    return {
        "POST": tus.create_raw({"Upload-Length": 5}),
        "HEAD": tus.head(upload),
        "PATCH": tus.patch_raw(upload, 0, b"abc"),
        "GET": tus.request("GET", upload),
        "DELETE": tus.delete(upload),
    }


@pytest.mark.parametrize("key", [None, "wrong", API_KEY + "x"])
def test_every_request_needs_credentials(server: Server, tus: Tus, key: str | None) -> None:
    upload = tus.create(5)
    with nothing_stored(server):
        answers = every_request(Tus(server, key), upload)
    assert {method: answer.status_code for method, answer in answers.items()} == {
        "POST": 401,
        "HEAD": 403,  # tus-js-client can do nothing about it
        "PATCH": 401,
        "GET": 401,
        "DELETE": 401,
    }
    assert "WWW-Authenticate" in answers["PATCH"].headers
    assert tus.offset(upload) == 0


def test_an_expired_token_is_the_only_401_of_a_head(server: Server, tus: Tus) -> None:
    upload = tus.create(5)
    with nothing_stored(server):
        answers = every_request(with_token(server, expired_session()), upload)
    assert {answer.status_code for answer in answers.values()} == {401}
    assert answers["HEAD"].content == b""
    assert answers["PATCH"].json()["code"] == "token_expired"
    override = with_token(server, "nonsense").request(
        "POST", upload, {"X-HTTP-Method-Override": "HEAD"}
    )
    assert override.status_code == 403


def test_credentials_are_looked_at_before_the_first_byte_of_the_body(
    server: Server, tus: Tus
) -> None:
    from tests.harness.native import read_response

    upload = tus.create(1000)
    with Tus(server, "wrong").open_patch(upload, 0, 1000) as sock:  # nothing of the body is sent
        assert read_response(sock)[0] == 401


def test_a_session_uploads_to_its_directory_under_its_owner(server: Server) -> None:
    tus = with_token(server, session(server, directory="users/alice"))
    upload = tus.create(5, b"bytes", Upload_Metadata=metadata(filename="a/b.txt"))
    (row,) = rows(server, "SELECT owner, directory FROM uploads WHERE id = ?", upload.id)
    assert row == {"owner": "user:admin/alice", "directory": "users/alice/a"}


def test_the_token_may_come_in_the_query(server: Server) -> None:
    token = session(server)
    tus = Tus(server, None)
    response = tus.request("POST", f"/files?upload_token={token}", {"Upload-Length": 5})
    assert response.status_code == 201
    upload = TusUpload(response.headers["Location"])
    assert "upload_token" not in upload.url
    assert tus.request("HEAD", f"{upload.url}?upload_token={token}").status_code == 200
    response = tus.request(
        "PATCH",
        f"{upload.url}?upload_token={token}",
        {"Upload-Offset": 0, "Content-Type": CONTENT_TYPE},
        b"abc",
    )
    assert response.status_code == 204


def test_a_session_s_own_limit_holds(server: Server) -> None:
    tus = with_token(server, session(server, max_bytes=100))
    assert tus.create_raw({"Upload-Length": 101}).status_code == 413
    upload = tus.create(None)
    assert tus.patch_raw(upload, 0, bytes(101)).status_code == 413
    assert tus.patch_raw(upload, 0, b"", Upload_Length=101).status_code == 413
    assert tus.patch(upload, 0, bytes(100), Upload_Length=100) == 100
    partials = [tus.partial(bytes(60)), tus.partial(bytes(60))]
    urls = " ".join(partial.url for partial in partials)
    assert tus.create_raw({"Upload-Concat": f"final;{urls}"}).status_code == 413


def test_a_session_for_another_protocol_is_403(server: Server, tus: Tus) -> None:
    upload = tus.create(5)
    answers = every_request(with_token(server, session(server, protocols=["resumable"])), upload)
    assert {answer.status_code for answer in answers.values()} == {403}


def test_another_owner_s_upload_is_404_whatever_is_asked(server: Server) -> None:
    alice = with_token(server, session(server, owner="alice"))
    bob = with_token(server, session(server, owner="bob"))
    upload = alice.create(5)
    ended = alice.create(5)
    alice.delete(ended)
    for target in (upload, ended):
        answers = every_request(bob, target)
        del answers["POST"]
        assert {answer.status_code for answer in answers.values()} == {404}
    assert alice.offset(upload) == 0


def test_another_owner_s_partial_is_as_unknown(server: Server) -> None:
    alice = with_token(server, session(server, owner="alice"))
    bob = with_token(server, session(server, owner="bob"))
    partial = alice.partial(b"abc")
    for tus, status in ((bob, 404), (alice, 201)):
        response = tus.create_raw({"Upload-Concat": f"final;{partial.url}"})
        assert response.status_code == status


def test_nobody_joins_partials_of_others_not_even_the_administrator(
    server: Server, tus: Tus
) -> None:
    """Who may see them all still has a file of its own to make, from uploads of its own."""
    alice = with_token(server, session(server, owner="alice"))
    hers, own = alice.partial(b"abc"), tus.partial(b"abc")
    for partials in ([hers], [own, hers]):
        urls = " ".join(partial.url for partial in partials)
        with nothing_stored(server):
            response = tus.create_raw({"Upload-Concat": f"final;{urls}"})
        assert response.status_code == 404
    assert tus.create_raw({"Upload-Concat": f"final;{own.url}"}).status_code == 201


def test_the_administrator_sees_everybody_s(server: Server, tus: Tus) -> None:
    alice = with_token(server, session(server, owner="alice"))
    upload = alice.create(5)
    assert tus.offset(upload) == 0
    assert tus.delete(upload).status_code == 204


def test_a_protocol_may_be_open_to_all(limited: Server) -> None:
    anybody = Tus(limited, None)
    upload = anybody.create(5)
    assert anybody.patch(upload, 0, b"bytes") == 5
    (row,) = rows(limited, "SELECT owner FROM uploads WHERE id = ?", upload.id)
    assert row["owner"] == "anonymous"
    keyed = Tus(limited).create(5)
    assert anybody.head(keyed).status_code == 404


def test_a_version_that_is_not_spoken_is_told_before_anything_else(server: Server) -> None:
    response = Tus(server, None).create_raw({"Upload-Length": 5, "Tus-Resumable": "0.2.2"})
    assert response.status_code == 412
