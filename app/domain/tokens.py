"""Part tokens: a JWT for each part, so a browser can send bytes without the API key."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jwt
from jwt.algorithms import HMACAlgorithm

from app.domain.parts import Geometry
from app.errors import NotAuthenticated

#: The only accepted algorithm. Fixed, so that a token cannot choose "none".
ALGORITHM = "HS256"

# A file of 1 TiB has 21,000 tokens. ``jwt.encode`` looks at the secret anew for each,
# whether it might be some other kind of key, which takes half the time.
_HMAC = HMACAlgorithm(HMACAlgorithm.SHA256)
_HEADER = b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."  # {"alg":"HS256","typ":"JWT"}
_to_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class PartClaims:
    """What a part token says: who may write which part of how many bytes."""

    upload_id: str
    part_number: int
    expected_size_bytes: int


def part_tokens(
    upload_id: str, geometry: Geometry, indexes: Iterable[int], expires_at_seconds: int, secret: str
) -> Iterator[str]:
    """Yield a token for each of ``indexes``, in their order.

    ``expires_at_seconds`` is Unix time; the claims are ``upload_id``,
    ``part_number``, ``expected_size`` (bytes) and ``exp``.
    """
    key = _HMAC.prepare_key(secret)
    for index in indexes:
        claims = {
            "upload_id": upload_id,
            "part_number": index,
            "expected_size": geometry.span(index).length,
            "exp": expires_at_seconds,
        }
        signed = _HEADER + _base64url(_to_json(claims).encode())
        yield (signed + b"." + _base64url(_HMAC.sign(signed, key))).decode()


def read_part_token(token: str, secret: str) -> PartClaims:
    """Verify a part token's signature and expiry and return its claims.

    Raises NotAuthenticated on anything but an unexpired HS256 token with
    exactly typed claims.
    """
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=[ALGORITHM],
            options={"require": ["exp", "upload_id", "part_number", "expected_size"]},
        )
    except jwt.ExpiredSignatureError as error:
        raise NotAuthenticated("Part token has expired; ask the server for new ones") from error
    except jwt.InvalidTokenError as error:
        raise NotAuthenticated("Invalid part token") from error
    upload_id, part, size = claims["upload_id"], claims["part_number"], claims["expected_size"]
    if not isinstance(upload_id, str) or type(part) is not int or type(size) is not int:
        raise NotAuthenticated("Invalid part token")
    return PartClaims(upload_id, part, size)


def _base64url(data: bytes) -> bytes:
    """RFC 7515 section 2: without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")
