"""``flask sessions``: tokens for trying the upload page, or for whom no application makes them."""

from __future__ import annotations

import click
from pydantic import TypeAdapter, ValidationError

from app import setting_types as types
from app.cli.operator import Operator, explained
from app.domain.access import ADMIN_OWNER, SESSION_PROTOCOLS
from app.domain.sessions import DEFAULT_SECONDS, mint_session, page_link

_SECONDS_PER_HOUR = 3600


def sessions_group(operator: Operator) -> click.Group:
    """Return the command group."""

    @click.group("sessions", help="Make session tokens, which let a person upload from a browser.")
    def group() -> None:
        pass

    @group.command("create")
    @click.argument("owner")
    @click.option("--directory", default="", help="Folder the files land in.")
    @click.option("--max-size", callback=_size, help="Largest file, such as 500M or 10G.")
    @click.option(
        "--hours",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_SECONDS / _SECONDS_PER_HOUR,
        show_default=True,
        help="How long the token is valid.",
    )
    @click.option(
        "--protocol",
        "protocols",
        multiple=True,
        type=click.Choice(sorted(SESSION_PROTOCOLS)),
        help="Only for this protocol. May be given several times.",
    )
    @click.option("--link", is_flag=True, help="Print a link to the upload page that holds it.")
    @explained
    def create(
        owner: str,
        directory: str,
        max_size: int | None,
        hours: float,
        protocols: tuple[str, ...],
        link: bool,
    ) -> None:
        """Make a session token for the person OWNER and print it.

        It is what POST /upload/session makes with the API key of the settings:
        the same OWNER has the same uploads.
        """
        settings = operator.settings
        token, _ = mint_session(
            ADMIN_OWNER,
            owner,
            operator.clock.now_ms() // 1000,
            settings.jwt_secret.get_secret_value(),
            directory=directory,
            max_bytes=max_size,
            protocols=frozenset(protocols) or None,
            lifetime_seconds=max(1, round(hours * _SECONDS_PER_HOUR)),
        )
        base_url = settings.base_url or types.local_url(settings.bind_addr)
        click.echo(page_link(base_url, token) if link else token)

    return group


def _size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return TypeAdapter(types.Size).validate_python(value) or None
    except ValidationError as error:
        raise click.BadParameter("a number of bytes; K, M, G or T multiply by 1024") from error
