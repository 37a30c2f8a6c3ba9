"""What the application is put together of: settings reach the storage, its abilities the client."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

from app import create_app
from app.domain.clock import Clock
from app.errors import StorageUnavailable
from app.ledger.database import Ledger
from app.protocols.context import EXTENSION
from app.settings import Settings
from app.storage.base import Arrival, StagedObject
from app.storage.memory import MemoryStorage
from app.wiring import Wiring
from tests.harness.rig import Rig

#: Nobody's secrets; an address that is never listened on.
SETTINGS = {"api_key": "the-key-7c1e", "jwt_secret": "the-secret-0123456789"}


class Unreadable(MemoryStorage):
    """Can do what must be done; neither join uploads nor read unfinished ones."""

    capabilities = replace(MemoryStorage.capabilities, concatenation=False, readable_staging=False)


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Flask]:
    """Make the application with a ledger, files in an empty directory, and a storage."""
    monkeypatch.chdir(tmp_path)

    def made(storage: MemoryStorage | None = None, **settings: object) -> Flask:
        app = create_app(Settings(**(SETTINGS | settings)), storage)  # type: ignore[arg-type]
        with app.app_context():
            wiring(app).migrate()
        return app

    return made


def wiring(app: Flask) -> Wiring:
    found: Wiring = app.extensions[EXTENSION]
    return found


def test_uploads_are_kept_as_long_as_the_settings_say(make_app: Callable[..., Flask]) -> None:
    policy = wiring(make_app(upload_ttl_hours=2, abandoned_after_hours=0.5)).policy
    assert (policy.lifetime_ms, policy.ttl_ms) == (7_200_000, 1_800_000)
    policy = wiring(make_app(upload_ttl_hours=2)).policy
    assert (policy.lifetime_ms, policy.ttl_ms) == (7_200_000, 7_200_000)


@pytest.mark.parametrize(("file_mode", "mode"), [(None, 0o640), ("0600", 0o600), ("0644", 0o644)])
def test_files_have_the_mode_of_the_settings(
    make_app: Callable[..., Flask], tmp_path: Path, file_mode: str | None, mode: int
) -> None:
    storage = wiring(make_app(**({} if file_mode is None else {"file_mode": file_mode}))).storage
    staged = StagedObject("0b7c", 5, "files/0b7c_x", storage.root_for(APPENDED))
    storage.create(staged)
    storage.publish(staged, {}, lambda done, total: None)
    path = tmp_path / "uploads/files/0b7c_x"
    assert stat.S_IMODE(path.stat().st_mode) == mode


APPENDED = Arrival(5, None, None, False)


@pytest.mark.parametrize("storage", [MemoryStorage, Unreadable])
def test_concatenation_is_announced_where_the_storage_can_join_what_is_appended(
    make_app: Callable[..., Flask], storage: type[MemoryStorage]
) -> None:
    answer = make_app(storage()).test_client().options("/files")
    announced = set(answer.headers["Tus-Extension"].split(","))
    joins = {"concatenation", "concatenation-unfinished"}
    assert announced & joins == (set() if storage is Unreadable else joins)
    assert {"creation", "termination", "checksum"} < announced


def test_a_storage_that_cannot_join_refuses_it(ledger: Ledger) -> None:
    rig = Rig(ledger, Unreadable(), Clock())
    partial = rig.partial(b"one half")
    with pytest.raises(StorageUnavailable, match="cannot join"):
        rig.concatenate([partial.id])
