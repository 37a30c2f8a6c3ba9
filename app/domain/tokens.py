"""Part tokens: a JWT for each part, so a browser can send bytes without the API key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jwt

from app.domain.parts import Geometry
from app.errors import NotAuthenticated

#: The only accepted algorithm. Fixed, so that a token cannot choose "none".
ALGORITHM = "HS256"


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
    for index in indexes:
        yield jwt.encode(
            {
                "upload_id": upload_id,
                "part_number": index,
                "expected_size": geometry.span(index).length,
                "exp": expires_at_seconds,
            },
            secret,
            algorithm=ALGORITHM,
        )


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
