"""Session tokens: what an application gives the browsers of its users instead of its API key.

A session token says whose uploads it makes (the application's own name for its
user), where they land, how large they may be, by which protocols, until when.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

import jwt

from app.domain.access import Principal, Scope
from app.domain.tokens import ALGORITHM
from app.errors import NotAuthenticated, TokenExpired

#: Tells session tokens from part tokens, which are signed with the same secret.
_USE = "session"


@dataclass(frozen=True, slots=True)
class Session:
    """What a session token grants; ``owner`` is unique among all who mint tokens."""

    owner: str
    directory: str
    max_bytes: int | None
    protocols: frozenset[str] | None


def session_owner(minter: str, user: str) -> str:
    """Return the owner of what a session uploads, for the user ``user`` of whoever mints it.

    No key can mint itself into another one's uploads, whatever it is called.
    """
    return f"user:{quote(minter, safe=':')}/{user}"


def session_token(session: Session, expires_at_seconds: int, secret: str) -> str:
    """Return a signed token for ``session``, valid until a Unix time."""
    claims = {
        "use": _USE,
        "owner": session.owner,
        "directory": session.directory,
        "max_bytes": session.max_bytes,
        "protocols": None if session.protocols is None else sorted(session.protocols),
        "exp": expires_at_seconds,
    }
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


def session_principal(token: str, secret: str) -> Principal:
    """Verify a session token and return who it stands for.

    Raises TokenExpired, or NotAuthenticated on anything else than an HS256
    token that ``session_token`` made.
    """
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=[ALGORITHM],
            options={"require": ["exp", "use", "owner", "directory"]},
        )
    except jwt.ExpiredSignatureError as error:
        raise TokenExpired(
            "Session token has expired; ask the application for a new one"
        ) from error
    except jwt.InvalidTokenError as error:
        raise NotAuthenticated("Invalid session token") from error
    if claims["use"] != _USE:
        raise NotAuthenticated("Invalid session token")
    protocols = claims.get("protocols")
    return Principal(
        owner=claims["owner"],
        scopes=frozenset({Scope.UPLOAD}),
        directory=claims["directory"],
        max_bytes=claims.get("max_bytes"),
        protocols=None if protocols is None else frozenset(protocols),
    )
