"""Credentials → principal. Looked at before anything else of a request."""

from __future__ import annotations

import hmac

from flask import Request

from app.domain.access import ADMIN_OWNER, ANONYMOUS_OWNER, Principal, Scope
from app.domain.sessions import session_principal
from app.domain.tokens import PartClaims, read_part_token
from app.errors import NotAuthenticated
from app.ledger.database import Ledger
from app.settings import Settings

_NO_CREDENTIALS = "Missing credentials; send X-API-Key, or a session token as a bearer"


def api_key_principal(
    request: Request, settings: Settings, ledger: Ledger, scope: Scope
) -> Principal:
    """Return who sends this X-API-Key.

    Raises NotAuthenticated if it is missing or wrong, NotAuthorized if it is
    not for ``scope``.
    """
    return _principal(request.headers.get("X-API-Key", ""), settings, ledger, scope)


def uploader(
    request: Request, settings: Settings, ledger: Ledger, protocol: str | None
) -> Principal:
    """Return who uploads, or downloads, by a protocol of clients that have no part tokens.

    Credentials are an X-API-Key, or a session token as ``Authorization: Bearer``
    or as ``upload_token`` in the query. Without any, ``ANONYMOUS_PROTOCOLS``
    decides. ``protocol`` None: whichever of them. Raises NotAuthenticated
    (TokenExpired), NotAuthorized.
    """
    token = bearer(request) or request.args.get("upload_token", "")
    if request.headers.get("X-API-Key"):
        return api_key_principal(request, settings, ledger, Scope.UPLOAD)
    if token:
        principal = session_principal(token, settings.jwt_secret.get_secret_value())
    elif settings.anonymous_protocols:
        open_to_all = settings.anonymous_protocols
        principal = Principal(ANONYMOUS_OWNER, frozenset({Scope.UPLOAD}), protocols=open_to_all)
        if protocol is not None and protocol not in open_to_all:
            raise NotAuthenticated(_NO_CREDENTIALS)
    else:
        raise NotAuthenticated(_NO_CREDENTIALS)
    if protocol is not None:
        principal.require_protocol(protocol)
    return principal


def metrics_principal(request: Request, settings: Settings, ledger: Ledger) -> Principal:
    """Return who reads metrics: X-API-Key, or the key as a bearer (Prometheus can send that)."""
    key = request.headers.get("X-API-Key", "") or bearer(request)
    return _principal(key, settings, ledger, Scope.METRICS)


def part_claims(request: Request, settings: Settings, upload_id: str, part: str) -> PartClaims:
    """Return the claims of a part token that is for this very part.

    Raises NotAuthenticated, also where the token is for another part.
    """
    token = bearer(request)
    if not token:
        raise NotAuthenticated("Missing part token; send Authorization: Bearer <token>")
    claims = read_part_token(token, settings.jwt_secret.get_secret_value())
    if claims.upload_id != upload_id or str(claims.part_number) != part:
        raise NotAuthenticated("Part token is for another upload or part")
    return claims


def bearer(request: Request) -> str:
    """Return the token of ``Authorization: Bearer``, "" without one (RFC 6750 section 2.1)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _principal(key: str, settings: Settings, ledger: Ledger, scope: Scope) -> Principal:
    if not key:
        raise NotAuthenticated("Missing API key")
    own = settings.api_key.get_secret_value()
    # WSGI hands out bytes as Latin-1; a key that is not ASCII is sent as UTF-8.
    if hmac.compare_digest(key.encode("latin-1", "replace"), own.encode()):
        return Principal(ADMIN_OWNER, frozenset({Scope.ADMIN}))
    record = ledger.keys.find(key)
    if record is None:
        raise NotAuthenticated("Invalid API key")
    principal = Principal(f"key:{record.name}", frozenset(Scope(name) for name in record.scopes))
    principal.require(scope)
    return principal
