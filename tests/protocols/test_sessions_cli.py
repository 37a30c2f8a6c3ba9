"""``flask sessions create``: tokens without an application that makes them."""

from __future__ import annotations

import time

import jwt
import pytest
import requests

from tests.harness.server import API_KEY, JWT_SECRET, Server

pytestmark = pytest.mark.once(why="session tokens are signed, not stored")


def created(server: Server, *arguments: str) -> str:
    return server.flask("sessions", "create", *arguments).stdout.strip()


def claims(token: str) -> dict[str, object]:
    read: dict[str, object] = jwt.decode(token, JWT_SECRET, algorithms=["HS256"])
    return read


def test_a_created_token_is_the_one_an_application_would_get(server: Server) -> None:
    answer = requests.post(
        f"{server.url}/upload/session",
        json={"owner": "me", "directory": "inbox", "max_bytes": 10 * 1024**3},
        headers={"X-API-Key": API_KEY},
        timeout=30,
    )
    given = claims(answer.json()["token"])
    own = claims(created(server, "me", "--directory", "inbox", "--max-size", "10G"))
    lifetimes = (given.pop("exp"), own.pop("exp"))
    assert own == given
    assert abs(lifetimes[0] - lifetimes[1]) < 60


def test_a_token_lasts_as_long_as_it_is_told(server: Server) -> None:
    lifetime = claims(created(server, "me", "--hours", "0.5"))["exp"] - time.time()
    assert 1700 < lifetime <= 1800


def test_a_token_can_be_for_one_protocol(server: Server) -> None:
    read = claims(created(server, "me", "--protocol", "resumable"))
    assert read["protocols"] == ["resumable"]


def test_a_link_has_the_token_where_no_server_sees_it(server: Server) -> None:
    page, fragment, token = created(server, "me", "--link").partition("#token=")
    assert page == f"{server.url}/upload-page"
    assert fragment
    assert claims(token)["owner"] == "user:admin/me"


def test_what_cannot_be_granted_is_refused_in_one_line(server: Server) -> None:
    for arguments, told in [
        (["\t"], "owner"),
        (["me", "--directory", "../x"], "directory"),
        (["me", "--hours", "100000"], "expires_in"),
        (["me", "--hours", "0"], "--hours"),
        (["me", "--max-size", "much"], "--max-size"),
        (["me", "--protocol", "gopher"], "--protocol"),
    ]:
        failed = server.flask("sessions", "create", *arguments, check=False)
        assert failed.returncode != 0
        assert failed.stdout == ""
        assert told in failed.stderr.splitlines()[-1]
