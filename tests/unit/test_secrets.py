"""Secrets are compared in constant time: ``hmac.compare_digest`` decides, and nothing else does."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable

import pytest
from flask import Request
from werkzeug.test import EnvironBuilder

from app.domain.access import Scope
from app.domain.parts import Geometry
from app.domain.sessions import Session, session_token
from app.domain.tokens import part_tokens
from app.errors import NotAuthenticated
from app.ledger.database import Ledger
from app.protocols.auth import api_key_principal, metrics_principal, part_claims, uploader
from app.settings import Settings

API_KEY, JWT_SECRET = "the-key-7c1e", "the-secret-0123456789-0123456789-0123456789"
SETTINGS = Settings(api_key=API_KEY, jwt_secret=JWT_SECRET)  # type: ignore[arg-type]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

Check = Callable[[Ledger, str], object]


def request_with(**headers: str) -> Request:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(EnvironBuilder(headers=told).get_environ())


def api_key(ledger: Ledger, key: str) -> object:
    return api_key_principal(request_with(X_API_Key=key), SETTINGS, ledger, Scope.UPLOAD)


def key_of_an_uploader(ledger: Ledger, key: str) -> object:
    return uploader(request_with(X_API_Key=key), SETTINGS, ledger, "tus")


def key_for_metrics(ledger: Ledger, key: str) -> object:
    return metrics_principal(request_with(X_API_Key=key), SETTINGS, ledger)


def bearer_for_metrics(ledger: Ledger, key: str) -> object:
    return metrics_principal(request_with(Authorization=f"Bearer {key}"), SETTINGS, ledger)


def part_token(_ledger: Ledger, secret: str) -> object:
    expires_at = int(time.time()) + 3600
    [token] = part_tokens("upload", Geometry.of(1, 1), [0], expires_at, secret)
    return part_claims(request_with(Authorization=f"Bearer {token}"), SETTINGS, "upload", "0")


def session(ledger: Ledger, secret: str) -> object:
    token = session_token(Session("user", "", None, None), int(time.time()) + 3600, secret)
    return uploader(request_with(Authorization=f"Bearer {token}"), SETTINGS, ledger, "tus")


@pytest.mark.parametrize(
    ("check", "right"),
    [
        (api_key, API_KEY),
        (key_of_an_uploader, API_KEY),
        (key_for_metrics, API_KEY),
        (bearer_for_metrics, API_KEY),
        (part_token, JWT_SECRET),
        (session, JWT_SECRET),
    ],
)
def test_the_comparison_in_constant_time_decides(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, check: Check, right: str
) -> None:
    wrong = "x" * len(right)
    assert check(ledger, right)
    with pytest.raises(NotAuthenticated):
        check(ledger, wrong)
    monkeypatch.setattr(hmac, "compare_digest", lambda _one, _other: False)
    with pytest.raises(NotAuthenticated):
        check(ledger, right)
    monkeypatch.setattr(hmac, "compare_digest", lambda _one, _other: True)
    assert check(ledger, wrong)
