"""Part tokens: GET /upload/{id}/tokens, and every token that must not open anything."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.harness.native import MIB, Native, Upload
from tests.harness.server import JWT_SECRET, Server
from tests.harness.wire import assert_problem, examples, exchange, head, nothing_stored

pytestmark = pytest.mark.once(why="tokens are signed, not stored")


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, JWT_SECRET, algorithms=["HS256"])
    return claims


# Fresh tokens


def test_fresh_tokens_come_for_the_pending_parts_only(native: Native) -> None:
    upload = native.init(size=3 * MIB + 5)
    native.put(upload, 1, bytes(MIB))
    response = native.request("GET", f"/upload/{upload.id}/tokens")
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"file_id", "parts", "expires_at"}
    assert answer["file_id"] == upload.id
    assert [part["part"] for part in answer["parts"]] == [0, 2, 3]
    assert all(set(part) == {"part", "token"} for part in answer["parts"])
    for part in answer["parts"]:
        assert claims_of(part["token"]) == claims_of(upload.tokens[part["part"]])


def test_fresh_tokens_work_and_prolong_nothing(native: Native) -> None:
    upload = native.init(size=5)
    answer = native.request("GET", f"/upload/{upload.id}/tokens").json()
    assert answer["expires_at"] == upload.raw["expires_at"]
    assert native.put_raw(upload, 0, b"bytes", token=answer["parts"][0]["token"]).ok
    assert native.status(upload)["expires_at"] == upload.raw["expires_at"]
    assert native.request("GET", f"/upload/{upload.id}/tokens").json()["parts"] == []


def test_there_are_no_tokens_for_an_upload_that_takes_no_parts(
    native: Native, waiting: Native
) -> None:
    for client in (native, waiting):
        upload = client.init(size=0)
        client.complete_raw(upload)
        response = client.request("GET", f"/upload/{upload.id}/tokens")
        assert_problem(response.status_code, response.content, 409, "upload_not_open")


def test_there_are_no_tokens_for_an_unknown_or_cancelled_upload(native: Native) -> None:
    upload = native.init()
    native.cancel_raw(upload)
    for upload_id in (upload.id, "00000000-0000-4000-8000-000000000000", "x"):
        response = native.request("GET", f"/upload/{upload_id}/tokens")
        assert_problem(response.status_code, response.content, 404, "upload_not_found")


def test_a_part_token_opens_nothing_but_its_part(native: Native) -> None:
    upload = native.init()
    token = upload.tokens[0]
    for method, path in [
        ("GET", f"/upload/{upload.id}/tokens"),
        ("GET", f"/upload/{upload.id}/status"),
        ("POST", f"/upload/{upload.id}/complete"),
        ("DELETE", f"/upload/{upload.id}"),
        ("POST", "/upload/init"),
        ("GET", "/metrics"),
    ]:
        for headers in ({"Authorization": f"Bearer {token}"}, {"X-API-Key": token}):
            response = native.request(method, path, headers=headers)
            assert_problem(response.status_code, response.content, 401, "not_authenticated")
    assert native.status(upload)["status"] == "pending"


# Tokens that open nothing


@pytest.fixture(scope="module")
def part(server: Server) -> Upload:
    """An open upload of one part, which no test here manages to store."""
    return Native(server).init(size=5)


def refused(native: Native, upload: Upload, authorization: str) -> str:
    """PUT part 0 with this Authorization field, which must be refused; return the message."""
    request = head("PUT", f"/upload/{upload.id}/part/0", Content_Length=5) + b"bytes"
    line = f"Authorization: {authorization}\r\n".encode("latin-1")
    with nothing_stored(native.server):
        status, _, body = exchange(native.server, request.replace(b"Host", line + b"Host", 1))
        return assert_problem(status, body, 401, "not_authenticated")


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def signed(fields: dict[str, Any], claims: dict[str, Any], digest: str = "sha256") -> str:
    """Return a JWT with the server's secret, whatever its header says; PyJWT would refuse some."""
    text = f"{base64url(json.dumps(fields).encode())}.{base64url(json.dumps(claims).encode())}"
    return f"{text}.{base64url(hmac.digest(JWT_SECRET.encode(), text.encode(), digest))}"


def good_claims(upload: Upload) -> dict[str, Any]:
    return {
        "upload_id": upload.id,
        "part_number": 0,
        "expected_size": 5,
        "exp": int(time.time()) + 600,
    }


def test_the_claims_below_would_open_it_if_they_were_signed(native: Native) -> None:
    upload = native.init(size=5)
    token = signed({"alg": "HS256", "typ": "JWT"}, good_claims(upload))
    native.put_raw(upload, 0, b"bytes", token=token).raise_for_status()


def test_an_unsigned_token_is_refused(native: Native, part: Upload) -> None:
    assert refused(native, part, f"Bearer {jwt.encode(good_claims(part), None, 'none')}")
    for algorithm in ("none", "None", "NONE", "nOnE", "", None, 0, ["HS256"]):
        token = signed({"alg": algorithm, "typ": "JWT"}, good_claims(part))
        text = token.rpartition(".")[0]
        for tampered in (f"{text}.", f"{text}.AAAA", text, token):
            assert refused(native, part, f"Bearer {tampered}")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_is_refused_though_the_key_is_right(
    native: Native, part: Upload, algorithm: str
) -> None:
    digest = algorithm.replace("HS", "sha")
    token = signed({"alg": algorithm, "typ": "JWT"}, good_claims(part), digest)
    assert refused(native, part, f"Bearer {token}")


@pytest.mark.parametrize("key", ["0" * 48, JWT_SECRET + "x", JWT_SECRET[:-1], JWT_SECRET.upper()])
def test_another_key_is_refused(native: Native, part: Upload, key: str) -> None:
    assert refused(native, part, f"Bearer {jwt.encode(good_claims(part), key, 'HS256')}")


@pytest.mark.parametrize("key_in_header", ["jwk", "jku", "kid", "x5c"])
def test_a_token_cannot_bring_its_own_key(native: Native, part: Upload, key_in_header: str) -> None:
    key = "key-of-an-attacker-0123456789abcdef"
    raw = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    brought: object = {
        "jwk": {"kty": "oct", "k": raw},
        "jku": "http://127.0.0.1:9/keys",
        "kid": "/dev/null",
        "x5c": [raw],
    }[key_in_header]
    token = jwt.encode(good_claims(part), key, "HS256", headers={key_in_header: brought})
    assert refused(native, part, f"Bearer {token}")


def test_an_expired_token_is_refused_and_says_so(native: Native, part: Upload) -> None:
    for age_seconds in (0, 1, 3600, 10**9):
        claims = good_claims(part) | {"exp": int(time.time()) - age_seconds}
        message = refused(native, part, f"Bearer {jwt.encode(claims, JWT_SECRET, 'HS256')}")
        assert "expired" in message


@pytest.mark.parametrize("claim", ["upload_id", "part_number", "expected_size", "exp"])
def test_a_token_without_one_of_the_claims_is_refused(
    native: Native, part: Upload, claim: str
) -> None:
    claims = good_claims(part)
    del claims[claim]
    assert refused(native, part, f"Bearer {jwt.encode(claims, JWT_SECRET, 'HS256')}")


@examples
@given(
    claim=st.sampled_from(["upload_id", "part_number", "expected_size", "exp"]),
    value=st.none()
    | st.booleans()
    | st.floats(allow_nan=False, max_value=1e9)
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=1)
    | st.integers(max_value=-1),
)
@example("part_number", 0.0)
@example("part_number", False)
@example("part_number", "0")
@example("expected_size", "5")
@example("exp", None)
def test_a_signed_token_with_claims_of_other_types_is_refused(
    native: Native, part: Upload, claim: str, value: object
) -> None:
    if claim == "expected_size" and type(value) is int:
        return  # of the right type; the upload's own geometry decides
    token = signed({"alg": "HS256", "typ": "JWT"}, good_claims(part) | {claim: value})
    assert refused(native, part, f"Bearer {token}")


@examples
@given(at=st.integers(0, 2**16), by=st.characters(codec="ascii", categories=("L", "N", "P")))
def test_a_tampered_token_is_refused(native: Native, part: Upload, at: int, by: str) -> None:
    token = part.tokens[0]
    at %= len(token)
    tampered = token[:at] + by + token[at + 1 :]
    try:
        same = claims_of(tampered)  # the last digits of base64 may say nothing
    except jwt.InvalidTokenError:
        assert refused(native, part, f"Bearer {tampered}")
    else:
        assert same == claims_of(token)


@examples
@given(
    field=st.text(
        st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\x85"),
        max_size=60,
    )
    | st.builds(
        "{} {}".format,
        st.sampled_from(["Bearer", "bearer", "Basic", "Digest", "Bearer\t", "Token"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    )
)
@example("")
@example("Bearer")
@example("Bearer ..")
@example("Bearer a.b.c.d")
@example("Bearer \xff.\xff.\xff")
@example("Bearer " + "A" * 7000)
@example("Bearer " + "eyJhbGciOiJIUzI1NiJ9." * 2)
def test_any_other_authorization_is_refused(native: Native, part: Upload, field: str) -> None:
    assert refused(native, part, field.strip())


def test_the_scheme_is_not_case_sensitive(native: Native) -> None:
    upload = native.init(size=5)
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} {upload.tokens[0]}"}
        response = native.request(
            "PUT", f"/upload/{upload.id}/part/0", data=b"bytes", headers=headers
        )
        assert response.status_code == 200


def test_a_token_in_the_query_is_not_looked_at(native: Native, part: Upload) -> None:
    response = native.request(
        "PUT",
        f"/upload/{part.id}/part/0?token={part.tokens[0]}&access_token={part.tokens[0]}",
        data=b"bytes",
        headers={},
    )
    assert_problem(response.status_code, response.content, 401, "not_authenticated")
