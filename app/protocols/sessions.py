"""Session tokens for browsers: an application asks with its API key, its page uses the token."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from app.domain.access import SESSION_PROTOCOLS, Scope
from app.domain.clock import rfc3339
from app.domain.sessions import mint_session
from app.errors import InvalidField
from app.protocols.auth import api_key_principal
from app.protocols.context import context
from app.protocols.json_body import json_object

bp = Blueprint("sessions", __name__, url_prefix="/upload")


@bp.post("/session")
def create() -> ResponseReturnValue:
    """Mint a session token for a user of the application that asks."""
    here = context()
    principal = api_key_principal(request, here.settings, here.ledger, Scope.UPLOAD)
    fields = json_object()
    token, expires_at_seconds = mint_session(
        principal.owner,
        _text(fields, "owner"),
        here.clock.now_ms() // 1000,
        here.settings.jwt_secret.get_secret_value(),
        directory=_text(fields, "directory"),
        max_bytes=_positive(fields, "max_bytes"),
        protocols=_protocols(fields),
        lifetime_seconds=_positive(fields, "expires_in"),
    )
    return jsonify(token=token, expires_at=rfc3339(expires_at_seconds * 1000))


def _text(fields: dict[str, Any], field: str) -> str:
    value = fields.get(field)
    if value is not None and not isinstance(value, str):
        raise InvalidField(field, "must be a string")
    return value or ""


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
