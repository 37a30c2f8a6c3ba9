"""Session tokens: what they grant, for how long, and nothing else passes for one."""

from __future__ import annotations

import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import Scope
from app.domain.parts import Geometry
from app.domain.sessions import Session, session_owner, session_principal, session_token
from app.domain.tokens import part_tokens, read_part_token
from app.errors import NotAuthenticated, NotAuthorized, TokenExpired

SECRET = "secret-of-the-tests-0123456789abcdef0123456789abcdef"
LATER = int(time.time()) + 86400  # the tests of a slow machine begin hours after this line
SESSION = Session("user:admin/alice", "users/alice", 1000, frozenset({"resumable", "tus"}))


def signed(secret: str = SECRET, algorithm: str = "HS256", **changed: object) -> str:
    """Return a token as the server makes it, with other claims (None: without)."""
    claims = jwt.decode(session_token(SESSION, LATER, SECRET), SECRET, algorithms=["HS256"])
    claims = {name: value for name, value in (claims | changed).items() if value is not None}
    return jwt.encode(claims, secret, algorithm=algorithm)


def test_a_token_stands_for_what_it_was_made_of() -> None:
    principal = session_principal(session_token(SESSION, LATER, SECRET), SECRET)
    assert principal.owner == principal.sees == "user:admin/alice"
    assert principal.directory == "users/alice"
    assert principal.max_bytes == 1000
    assert principal.protocols == {"resumable", "tus"}
    assert principal.scopes == {Scope.UPLOAD}


def test_what_a_token_does_not_limit_is_not_limited() -> None:
    token = session_token(Session("user:admin/alice", "", None, None), LATER, SECRET)
    principal = session_principal(token, SECRET)
    assert (principal.directory, principal.max_bytes) == ("", None)
    principal.require_protocol("pipe")


def test_a_token_is_for_its_protocols_only() -> None:
    principal = session_principal(session_token(SESSION, LATER, SECRET), SECRET)
    principal.require_protocol("tus")
    with pytest.raises(NotAuthorized, match="pipe"):
        principal.require_protocol("pipe")


def test_a_token_ends() -> None:
    token = session_token(SESSION, int(time.time()) - 1, SECRET)
    with pytest.raises(TokenExpired):
        session_principal(token, SECRET)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "nonsense",
        "a.b.c",
        signed(secret="another-secret-0123456789abcdef0"),
        signed(algorithm="HS384"),
        signed(use=None),
        signed(use="part"),
        signed(owner=None),
        signed(directory=None),
        signed(exp=None),
        signed(owner=5),
        signed(directory=["a"]),
        signed(directory="../other"),
        signed(directory="/etc"),
        signed(directory="users/\0"),
        signed(max_bytes="1000"),
        signed(max_bytes=True),
        signed(protocols="tus"),
        signed(protocols=5),
        signed(protocols=[["tus"]]),
        jwt.encode({"use": "session", "owner": "x", "directory": "", "exp": LATER}, "", "none"),
    ],
)
def test_nothing_else_passes_for_a_token(token: str) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        session_principal(token, SECRET)
    assert not isinstance(refused.value, TokenExpired)


def test_part_tokens_and_session_tokens_are_not_taken_for_each_other() -> None:
    (part,) = part_tokens("id", Geometry(1, 1, 1), [0], LATER, SECRET)
    assert read_part_token(part, SECRET)
    with pytest.raises(NotAuthenticated):
        session_principal(part, SECRET)
    with pytest.raises(NotAuthenticated):
        read_part_token(session_token(SESSION, LATER, SECRET), SECRET)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_no_two_users_of_any_two_minters_are_one_owner(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assert (session_owner(*one) == session_owner(*other)) == (one == other)


@given(st.text(), st.text())
def test_no_user_is_a_key_or_the_administrator_or_nobody(minter: str, user: str) -> None:
    owner = session_owner(minter, user)
    assert owner not in {"admin", "anonymous"}
    assert not owner.startswith("key:")
