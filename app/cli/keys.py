"""``flask keys``: create, list, revoke."""

from __future__ import annotations

import secrets

import click

from app.cli.operator import Operator, explained
from app.domain.access import Scope
from app.domain.clock import rfc3339

#: Bytes of randomness in a key: nobody guesses 256 bits.
KEY_BYTES = 32


def keys_group(operator: Operator) -> click.Group:
    """Return the command group."""

    @click.group("keys", help="Manage API keys beside the one in the settings.")
    def group() -> None:
        pass

    @group.command("create")
    @click.argument("name")
    @click.option(
        "--scope",
        "scopes",
        multiple=True,
        type=click.Choice([scope.value for scope in Scope]),
        default=[Scope.UPLOAD.value],
        show_default=True,
        help="May be given several times.",
    )
    @explained
    def create(name: str, scopes: tuple[str, ...]) -> None:
        """Create a key and print it; it cannot be shown again."""
        key = secrets.token_urlsafe(KEY_BYTES)
        operator.ledger.keys.create(name, key, frozenset(scopes), operator.clock.now_ms())
        click.echo(key)

    @group.command("list")
    @explained
    def list_keys() -> None:
        """List all keys without the keys themselves."""
        for key in operator.ledger.keys.list():
            ended = f"revoked {rfc3339(key.revoked_at_ms)}" if key.revoked_at_ms else "valid"
            scopes = ",".join(sorted(key.scopes))
            click.echo(f"{key.name}  {scopes}  created {rfc3339(key.created_at_ms)}  {ended}")

    @group.command("revoke")
    @click.argument("name")
    @explained
    def revoke(name: str) -> None:
        """Revoke a key; requests with it are refused from now on."""
        if not operator.ledger.keys.revoke(name, operator.clock.now_ms()):
            raise click.ClickException(f"no valid key is named {name!r}; see: flask keys list")
        click.echo(f"{name} revoked")

    return group
