"""Digest header fields (RFC 9530) and hex digests, parsed without I/O."""

from __future__ import annotations

import base64
import binascii
import re

from app.errors import MalformedRequest

#: RFC 9530 section 2, in the syntax of RFC 8941: key=:base64:, with parameters.
_MEMBER = re.compile(r"\s*(?P<key>[a-z*][a-z0-9_\-.*]*)=:(?P<value>[A-Za-z0-9+/=]*):(?:;[^,]*)?\s*")
_SHA256_BYTES = 32
_SHA256_HEX = re.compile(r"[0-9a-fA-F]{64}")


def parse_content_digest(header: str) -> bytes | None:
    """Return the 32-byte SHA-256 of a Content-Digest field, None if it has another algorithm only.

    RFC 9530 section 2: a dictionary of algorithm → byte sequence; unknown
    algorithms are ignored. Raises MalformedRequest on anything else, because a
    digest that cannot be read must not pass for a checked one.
    """
    sha256: bytes | None = None
    for member in header.split(","):
        match = _MEMBER.fullmatch(member)
        if match is None:
            raise MalformedRequest(
                "Content-Digest is malformed; expected sha-256=:<base64>: (RFC 9530)"
            )
        if match["key"] != "sha-256":
            continue
        try:
            # RFC 8941 section 4.2.7: do not fail where the padding is missing.
            padding = "=" * (-len(match["value"]) % 4)
            sha256 = base64.b64decode(match["value"] + padding, validate=True)
        except binascii.Error as error:
            raise MalformedRequest("Content-Digest holds invalid base64") from error
        if len(sha256) != _SHA256_BYTES:
            raise MalformedRequest("Content-Digest: a sha-256 digest has 32 bytes")
    return sha256


def parse_sha256_hex(text: str) -> str | None:
    """Return ``text`` as 64 lower-case hex digits, None if it is not a SHA-256 in hex."""
    return text.lower() if _SHA256_HEX.fullmatch(text) else None
