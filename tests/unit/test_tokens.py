"""Part tokens: what they say is believed only if we signed it, and only until they expire."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.parts import MAX_PARTS, Geometry
from app.domain.tokens import PartClaims, part_tokens, read_part_token
from app.errors import NotAuthenticated

#: A busy machine is no failure.
UNTIMED = settings(deadline=None)

SECRET = "a secret of thirty-two bytes or more"
UPLOAD_ID = "550e8400-e29b-41d4-a716-446655440000"
MIB = 1 << 20
HOUR_SECONDS = 3600


def in_an_hour():
    return int(time.time()) + HOUR_SECONDS


def claims(**changes):
    """Return the claims of a good token with some changed; None takes one away."""
    good = {
        "upload_id": UPLOAD_ID,
        "part_number": 2,
        "expected_size": MIB,
        "exp": in_an_hour(),
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(payload, secret=SECRET, algorithm="HS256"):
    return jwt.encode(payload, secret, algorithm=algorithm)


def encoded(part):
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@UNTIMED
@given(
    st.uuids().map(str),
    st.integers(0, MAX_PARTS - 1),
    st.integers(1, 1 << 40),
    st.integers(1, 10**6),
)
def test_what_was_signed_is_read_back(upload_id, index, part_size, valid_seconds):
    geometry = Geometry.of(part_size * (index + 1), part_size)
    expires_at = int(time.time()) + 60 + valid_seconds
    [token] = part_tokens(upload_id, geometry, [index], expires_at, SECRET)
    assert read_part_token(token, SECRET) == PartClaims(upload_id, index, part_size)


def test_a_token_holds_just_the_claims_that_clients_know():
    expires_at = in_an_hour()
    [token] = part_tokens(UPLOAD_ID, Geometry.of(3 * MIB - 1, MIB), [2], expires_at, SECRET)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    assert jwt.decode(token, SECRET, algorithms=["HS256"]) == {
        "upload_id": UPLOAD_ID,
        "part_number": 2,
        "expected_size": MIB - 1,
        "exp": expires_at,
    }


@given(index=st.integers(0, 9), expires_at=st.integers(0, 2**40), secret=st.binary(min_size=32))
@UNTIMED
def test_a_token_is_what_the_library_would_make_of_its_claims(index, expires_at, secret):
    secret = secret.hex()
    geometry = Geometry(10 * MIB, MIB, 10)
    (token,) = part_tokens(UPLOAD_ID, geometry, [index], expires_at, secret)
    assert token == jwt.encode(claims(part_number=index, exp=expires_at), secret, algorithm="HS256")


def test_there_is_a_token_for_each_part_asked_for_in_that_order():
    geometry = Geometry.of(5 * MIB, MIB)
    tokens = part_tokens(UPLOAD_ID, geometry, [4, 0, 2], in_an_hour(), SECRET)
    assert [read_part_token(token, SECRET).part_number for token in tokens] == [4, 0, 2]


def test_there_is_no_token_for_a_part_that_does_not_exist():
    with pytest.raises(IndexError):
        list(part_tokens(UPLOAD_ID, Geometry.of(MIB, MIB), [1], in_an_hour(), SECRET))


@pytest.mark.parametrize("age_seconds", [0, 1, HOUR_SECONDS])
def test_an_expired_token_is_refused_and_says_what_to_do(age_seconds):
    token = signed(claims(exp=int(time.time()) - age_seconds))
    with pytest.raises(NotAuthenticated, match="expired"):
        read_part_token(token, SECRET)


def test_a_token_signed_with_another_secret_is_refused():
    token = signed(claims(), secret=SECRET[::-1])
    with pytest.raises(NotAuthenticated, match="Invalid"):
        read_part_token(token, SECRET)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_no_other_algorithm_is_accepted_even_with_the_right_secret(algorithm):
    token = signed(claims(), secret=SECRET * 2, algorithm=algorithm)
    with pytest.raises(NotAuthenticated, match="Invalid"):
        read_part_token(token, SECRET * 2)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "RS256", "ES256"])
def test_a_token_cannot_choose_to_go_unsigned(algorithm):
    header = {"alg": algorithm, "typ": "JWT"}
    good_signature = signed(claims()).rpartition(".")[2]
    for signature in ("", good_signature):
        token = f"{encoded(header)}.{encoded(claims())}.{signature}"
        with pytest.raises(NotAuthenticated, match="Invalid"):
            read_part_token(token, SECRET)


@UNTIMED
@given(st.data())
def test_a_token_that_was_tampered_with_is_refused(data):
    token = signed(claims())
    position = data.draw(st.integers(0, len(token) - 2))  # the last character has unused bits
    character = data.draw(st.characters(codec="ascii", categories=["L", "N"]))
    if token[position] == character:
        return
    with pytest.raises(NotAuthenticated):
        read_part_token(token[:position] + character + token[position + 1 :], SECRET)


def test_the_claims_of_one_token_do_not_go_with_the_signature_of_another():
    first, second = signed(claims(part_number=1)), signed(claims(part_number=2))
    header, payload, _ = first.split(".")
    with pytest.raises(NotAuthenticated):
        read_part_token(f"{header}.{payload}.{second.split('.')[2]}", SECRET)


@pytest.mark.parametrize("missing", ["upload_id", "part_number", "expected_size", "exp"])
def test_a_token_without_one_of_its_claims_is_refused(missing):
    with pytest.raises(NotAuthenticated, match="Invalid"):
        read_part_token(signed(claims(**{missing: None})), SECRET)


@pytest.mark.parametrize(
    "changes",
    [
        {"upload_id": 5},
        {"upload_id": [UPLOAD_ID]},
        {"part_number": "2"},
        {"part_number": 2.0},
        {"part_number": True},
        {"expected_size": "1"},
        {"expected_size": 1.5},
        {"expected_size": False},
        {"exp": "tomorrow"},
        {"exp": [1]},
    ],
)
def test_claims_of_the_wrong_type_are_refused(changes):
    with pytest.raises(NotAuthenticated, match="Invalid"):
        read_part_token(signed(claims(**changes)), SECRET)


@UNTIMED
@given(st.text() | st.text(st.sampled_from("eyJhbGciOi.-_=")))
def test_any_text_is_refused_without_another_error(text):
    with pytest.raises(NotAuthenticated):
        read_part_token(text, SECRET)
