"""``flask ledger``: the database's tables."""

from __future__ import annotations

import os

import click

from app.cli.operator import Operator, explained
from app.errors import LedgerBusy


class _TryAgain(click.ClickException):
    exit_code = os.EX_TEMPFAIL


def ledger_group(operator: Operator) -> click.Group:
    """Return the command group."""

    @click.group("ledger", help="The database.")
    def group() -> None:
        pass

    @group.command("migrate")
    @explained
    def migrate() -> None:
        """Bring the tables to this version; the server does it at its start by itself.

        Exits with 75 where the database is away or locked, with 1 where no retry helps.
        """
        try:
            operator.migrate()
        except LedgerBusy as error:
            raise _TryAgain(error.message) from error

    @group.command("check")
    @explained
    def check() -> None:
        """Tell whether the database answers and has the right tables."""
        operator.ledger.check()
        click.echo("the database is up to date")

    return group
