"""Session tokens: what an application gives the browsers of its users instead of its API key.

A session token says whose uploads it makes (the application's own name for its
user), where they land, how large they may be, by which protocols, until when.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

import jwt

from app.domain.access import Principal, Scope
from app.domain.names import parse_client_name
from app.domain.tokens import ALGORITHM
from app.errors import InvalidField, InvalidName, NotAuthenticated, TokenExpired

#: A working day; who needs more says so.
DEFAULT_SECONDS = 12 * 3600
MAX_SECONDS = 365 * 24 * 3600

#: What the ledger's column of owners holds, in characters; the minter's name counts.
MAX_OWNER_CHARACTERS = 255

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


def mint_session(
    minter: str,
    user: str,
    now_seconds: int,
    secret: str,
    *,
    directory: str = "",
    max_bytes: int | None = None,
    protocols: frozenset[str] | None = None,
    lifetime_seconds: int | None = None,
) -> tuple[str, int]:
    """Return a session token for a user of ``minter``, and the Unix time it is valid until.

    ``directory`` "": the storage's root. None: the server's limit, every
    protocol, DEFAULT_SECONDS. Raises InvalidField.
    """
    lifetime_seconds = lifetime_seconds or DEFAULT_SECONDS
    if lifetime_seconds > MAX_SECONDS:
        raise InvalidField("expires_in", f"must be at most {MAX_SECONDS} seconds")
    owner = _checked_owner(minter, user)
    session = Session(owner, _checked_directory(directory), max_bytes, protocols)
    expires_at_seconds = now_seconds + lifetime_seconds
    return session_token(session, expires_at_seconds, secret), expires_at_seconds


def _checked_owner(minter: str, user: str) -> str:
    if not user or not user.isprintable():
        raise InvalidField("owner", "is required and must be a string of printable characters")
    owner = session_owner(minter, user)
    if len(owner) > MAX_OWNER_CHARACTERS:
        raise InvalidField("owner", "is too long; 150 characters always fit")
    return owner


def _checked_directory(directory: str) -> str:
    if not directory:
        return ""
    try:
        name = parse_client_name(directory.removesuffix("/"))
    except InvalidName as error:
        raise InvalidField("directory", error.message) from error
    return "/".join(filter(None, (name.directory, name.filename)))


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


def page_link(base_url: str, token: str) -> str:
    """Return the address of the upload page with a token for it.

    The token is in the fragment, which browsers keep to themselves: it is in no
    request, no server's log and no Referer.
    """
    return f"{base_url}/upload-page#token={token}"


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
    limit, protocols = claims.get("max_bytes"), claims.get("protocols")
    if not (
        claims["use"] == _USE
        and isinstance(claims["owner"], str)
        and _is_directory(claims["directory"])
        and (limit is None or type(limit) is int)
        and (protocols is None or _are_texts(protocols))
    ):
        raise NotAuthenticated("Invalid session token")
    return Principal(
        owner=claims["owner"],
        scopes=frozenset({Scope.UPLOAD}),
        directory=claims["directory"],
        max_bytes=limit,
        protocols=None if protocols is None else frozenset(protocols),
    )


def _is_directory(value: object) -> bool:
    try:
        return isinstance(value, str) and _checked_directory(value) == value
    except InvalidField:
        return False


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
