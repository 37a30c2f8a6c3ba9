"""Session tokens for browsers: an application asks with its API key, its page uses the token."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from app.domain.access import SESSION_PROTOCOLS, Scope
from app.domain.clock import rfc3339
from app.domain.names import parse_client_name
from app.domain.sessions import Session, session_owner, session_token
from app.errors import InvalidField, InvalidName
from app.protocols.auth import api_key_principal
from app.protocols.context import context
from app.protocols.json_body import json_object

#: A working day; who needs more says so.
DEFAULT_SECONDS = 12 * 3600
MAX_SECONDS = 365 * 24 * 3600

#: What the ledger's column of owners holds, in characters; the key's name counts.
MAX_OWNER_CHARACTERS = 255

bp = Blueprint("sessions", __name__, url_prefix="/upload")


@bp.post("/session")
def create() -> ResponseReturnValue:
    """Mint a session token for a user of the application that asks."""
    here = context()
    principal = api_key_principal(request, here.settings, here.ledger, Scope.UPLOAD)
    fields = json_object()
    session = Session(
        owner=_owner(fields, principal.owner),
        directory=_directory(fields),
        max_bytes=_positive(fields, "max_bytes"),
        protocols=_protocols(fields),
    )
    lifetime_seconds = _positive(fields, "expires_in") or DEFAULT_SECONDS
    if lifetime_seconds > MAX_SECONDS:
        raise InvalidField("expires_in", f"must be at most {MAX_SECONDS} seconds")
    expires_at_seconds = here.clock.now_ms() // 1000 + lifetime_seconds
    secret = here.settings.jwt_secret.get_secret_value()
    return jsonify(
        token=session_token(session, expires_at_seconds, secret),
        expires_at=rfc3339(expires_at_seconds * 1000),
    )


def _owner(fields: dict[str, Any], minter: str) -> str:
    user = fields.get("owner")
    if not isinstance(user, str) or not user or not user.isprintable():
        raise InvalidField("owner", "is required and must be a string of printable characters")
    owner = session_owner(minter, user)
    if len(owner) > MAX_OWNER_CHARACTERS:
        raise InvalidField("owner", "is too long; 150 characters always fit")
    return owner


def _directory(fields: dict[str, Any]) -> str:
    directory = fields.get("directory")
    if directory is None or directory == "":
        return ""
    if not isinstance(directory, str):
        raise InvalidField("directory", "must be a string")
    try:
        name = parse_client_name(directory.removesuffix("/"))
    except InvalidName as error:
        raise InvalidField("directory", error.message) from error
    return "/".join(filter(None, (name.directory, name.filename)))


def _positive(fields: dict[str, Any], field: str) -> int | None:
    value = fields.get(field)
    if value is not None and (type(value) is not int or value < 1):
        raise InvalidField(field, "must be an integer >= 1")
    return value


def _protocols(fields: dict[str, Any]) -> frozenset[str] | None:
    protocols = fields.get("protocols")
    if protocols is None:
        return None
    known = ", ".join(sorted(SESSION_PROTOCOLS))
    if not isinstance(protocols, list) or not all(
        isinstance(name, str) and name in SESSION_PROTOCOLS for name in protocols
    ):
        raise InvalidField("protocols", f"must be a list of names out of: {known}")
    return frozenset(protocols)
