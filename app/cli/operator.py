"""What commands work with, and how their failures are shown."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

import click

from app.domain.clock import Clock
from app.errors import LonghaulError
from app.jobs.finalize import Finalizer
from app.jobs.runner import Runner
from app.jobs.sweep import Sweeper
from app.ledger.database import Ledger
from app.settings import Settings
from app.uploads.append_service import AppendService
from app.uploads.service import UploadService

P = ParamSpec("P")
R = TypeVar("R")


class Operator(Protocol):
    """The collaborators of this process. Some are made on first use and may fail then."""

    settings: Settings
    clock: Clock
    ledger: Ledger

    def migrate(self) -> None: ...

    @property
    def uploads(self) -> UploadService: ...

    @property
    def appends(self) -> AppendService: ...

    @property
    def finalizer(self) -> Finalizer: ...

    @property
    def sweeper(self) -> Sweeper: ...

    @property
    def runner(self) -> Runner: ...


def explained(command: Callable[P, R]) -> Callable[P, R]:
    """Show an expected error as one line and exit with 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except LonghaulError as error:
            raise click.ClickException(error.message) from error

    return wrapped
