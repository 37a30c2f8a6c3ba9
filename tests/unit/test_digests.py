"""Digest fields: read exactly, and never taken for checked when they cannot be read."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.domain.digests import parse_content_digest, parse_sha256_hex
from app.errors import MalformedRequest

#: A busy machine is no failure.
UNTIMED = settings(deadline=None)

HELLO = hashlib.sha256(b'{"hello": "world"}\n').digest()

#: As RFC 9530 prints it for that content.
HELLO_BASE64 = "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg="
HELLO_FIELD = f"sha-256=:{HELLO_BASE64}:"
SHA512_FIELD = "sha-512=:" + base64.b64encode(bytes(64)).decode() + ":"


@pytest.mark.parametrize(
    "field",
    [
        HELLO_FIELD,
        f"  {HELLO_FIELD}\t",
        f"{HELLO_FIELD},{SHA512_FIELD}",
        f"{SHA512_FIELD} , {HELLO_FIELD}",
        f"md5=:AAAA:, {HELLO_FIELD}, unixsum=:AA==:",
        f"{HELLO_FIELD};parameter=1",
        f"{SHA512_FIELD};a;b=2, {HELLO_FIELD}",
        HELLO_FIELD.replace("=:", ":").replace("sha-256:", "sha-256=:"),
    ],
)
def test_the_sha_256_of_a_field_is_found(field):
    assert parse_content_digest(field) == HELLO


@pytest.mark.parametrize(
    "field", [SHA512_FIELD, "md5=:AAAA:", "x*.-_9=::", f"{SHA512_FIELD}, a=:AA==:"]
)
def test_other_algorithms_alone_are_ignored(field):
    assert parse_content_digest(field) is None


def test_of_two_the_last_counts():
    other = base64.b64encode(bytes(32)).decode()
    assert parse_content_digest(f"sha-256=:{other}:, {HELLO_FIELD}") == HELLO
    assert parse_content_digest(f"{HELLO_FIELD}, sha-256=:{other}:") == bytes(32)


@pytest.mark.parametrize(
    "field",
    [
        "",
        ",",
        HELLO_FIELD + ",",
        "," + HELLO_FIELD,
        "sha-256",
        "sha-256=",
        "sha-256=::",
        "sha-256=:",
        f"sha-256={HELLO_BASE64}",
        f"sha-256=:{HELLO_BASE64}",
        f"sha-256={HELLO_BASE64}:",
        f'sha-256="{HELLO_BASE64}"',
        f"sha-256 =:{HELLO_BASE64}:",
        f"SHA-256=:{HELLO_BASE64}:",
        f"sha-256=:{HELLO_BASE64}: x",
        f"sha-256=:{HELLO.hex()}:",
        "sha-256=:" + base64.b64encode(bytes(31)).decode() + ":",
        "sha-256=:" + base64.b64encode(bytes(33)).decode() + ":",
        "sha-256=:" + base64.b64encode(bytes(64)).decode() + ":",
        f"sha-256=:={HELLO_BASE64[1:]}:",
        f"sha-256=:{HELLO_BASE64[:-2]}=:",
        f"sha-256=:{HELLO_BASE64.replace('/', '_')}:",
        f"sha-256=:{HELLO_BASE64}:, nonsense",
        f"nonsense, sha-256=:{HELLO_BASE64}:",
        f"sha-256=: {HELLO_BASE64}:",
    ],
)
def test_what_cannot_be_read_is_refused_and_not_ignored(field):
    with pytest.raises(MalformedRequest):
        parse_content_digest(field)


@UNTIMED
@given(st.binary(min_size=32, max_size=32))
def test_every_digest_is_read_as_it_was_written(digest):
    encoded = base64.b64encode(digest).decode()
    assert parse_content_digest(f"sha-256=:{encoded}:") == digest
    assert parse_content_digest(f"sha-256=:{encoded.rstrip('=')}:") == digest


@UNTIMED
@given(st.text() | st.text(st.sampled_from("sha-256=:;, AZaz09+/\t")))
@example("sha-256=:" + "A" * 43 + "é:")
def test_any_text_gives_a_whole_digest_or_none_or_is_refused(field):
    try:
        digest = parse_content_digest(field)
    except MalformedRequest:
        return
    assert digest is None or len(digest) == 32


@UNTIMED
@given(st.binary(min_size=32, max_size=32))
def test_a_hex_digest_is_returned_in_lower_case(digest):
    assert parse_sha256_hex(digest.hex()) == digest.hex()
    assert parse_sha256_hex(digest.hex().upper()) == digest.hex()


@pytest.mark.parametrize(
    "text",
    ["", "0" * 63, "0" * 65, "g" * 64, " " + "0" * 63, "0" * 64 + "\n", "0x" + "0" * 62, "٠" * 64],
)
def test_anything_but_64_hex_digits_is_no_sha_256(text):
    assert parse_sha256_hex(text) is None
