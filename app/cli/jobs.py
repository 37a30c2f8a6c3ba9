"""``flask jobs run``: the runner in a process of its own."""

from __future__ import annotations

import signal

import click

from app.cli.operator import Operator, explained


def jobs_group(operator: Operator) -> click.Group:
    """Return the command group."""

    @click.group("jobs", help="Finalizing, sweeping and webhooks outside the web workers.")
    def group() -> None:
        pass

    @group.command("run")
    @explained
    def run() -> None:
        """Run jobs until SIGTERM or Ctrl-C; set RUN_JOBS_IN_WORKERS=false for the server."""
        runner = operator.runner
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runner.stop())
        click.echo("running jobs; stop with Ctrl-C", err=True)
        runner.run()

    return group
