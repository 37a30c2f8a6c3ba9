"""Commands for operators, ``flask uploads|keys|sessions|…``. The only place that echoes."""

from __future__ import annotations

from flask import Flask

from app.cli.jobs import jobs_group
from app.cli.keys import keys_group
from app.cli.ledger import ledger_group
from app.cli.operator import Operator
from app.cli.sessions import sessions_group
from app.cli.uploads import uploads_group


def install(app: Flask, operator: Operator) -> None:
    """Put the command groups on an application."""
    for make in (uploads_group, keys_group, sessions_group, jobs_group, ledger_group):
        app.cli.add_command(make(operator))
