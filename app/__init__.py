"""Longhaul: a resumable upload server.

Imports are inside ``create_app`` because importing ``app.settings`` alone must
stay cheap: gunicorn's master does it before its workers are monkey-patched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.settings import Settings
    from app.storage.base import Storage


def create_app(settings: Settings | None = None, storage: Storage | None = None) -> Flask:
    """Build the application. ``storage`` replaces the one the settings name.

    Raises SettingsError. Neither database nor storage is touched: whoever uses
    them first finds out whether they are ready.
    """
    from flask import Flask

    from app import cli, logs
    from app.ledger import migrate
    from app.ledger.models import db
    from app.protocols import (
        cors,
        downloads,
        native,
        requests,
        resumable,
        sessions,
        system,
        tus,
        upload_page,
    )
    from app.protocols.context import EXTENSION
    from app.settings import load_settings
    from app.wiring import Wiring

    settings = settings or load_settings()
    logs.configure(settings.log_level, settings.log_format)
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # it would redirect; requests.py collapses them
    app.json.sort_keys = False  # type: ignore[attr-defined]  # DefaultJSONProvider
    app.config["SQLALCHEMY_DATABASE_URI"] = settings.database_uri
    db.init_app(app)
    migrate.install(app)
    with app.app_context():
        wiring = Wiring(settings, db.engine, storage)
    app.extensions[EXTENSION] = wiring
    requests.install(app)
    cors.install(app, settings.cors_origins)
    app.register_blueprint(system.bp)
    app.register_blueprint(sessions.bp)
    app.register_blueprint(native.bp)
    app.register_blueprint(resumable.bp)
    if settings.downloads:
        app.register_blueprint(downloads.bp)
    tus.install(app, downloads=settings.downloads)
    app.register_blueprint(upload_page.bp)
    cli.install(app, wiring)
    return app
