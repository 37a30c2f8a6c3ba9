"""``flask uploads``: list, show, cancel, finalize, cleanup."""

from __future__ import annotations

import click

from app.cli.operator import Operator, explained
from app.domain.clock import rfc3339
from app.domain.states import State
from app.ledger.records import UploadRecord
from app.uploads.views import UploadView

_UNFINISHED = (State.OPEN, State.FINALIZING, State.FAILED)


def uploads_group(operator: Operator) -> click.Group:
    """Return the command group."""

    @click.group("uploads", help="Look at uploads and manage them.")
    def group() -> None:
        pass

    @group.command("list")
    @click.option("--all", "everything", is_flag=True, help="Finished and cancelled ones too.")
    @click.option("--limit", default=50, show_default=True, help="The newest so many.")
    @explained
    def list_uploads(everything: bool, limit: int) -> None:
        """List unfinished uploads, newest first."""
        states = tuple(State) if everything else _UNFINISHED
        for upload in operator.ledger.uploads.list(states, limit):
            _echo_row(upload)

    @group.command("show")
    @click.argument("upload_id")
    @explained
    def show(upload_id: str) -> None:
        """Show all that is known of an upload."""
        _echo_view(operator.uploads.status(upload_id, sees=None, with_parts=True))

    @group.command("cancel")
    @click.argument("upload_id")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @explained
    def cancel(upload_id: str, yes: bool) -> None:
        """Cancel an upload; a complete one is deleted with its file."""
        upload = operator.uploads.status(upload_id, sees=None, with_parts=False)
        if upload.state is State.COMPLETE and not yes:
            click.confirm(f"{upload.filename} is complete. Delete its file?", abort=True)
        click.echo(f"{upload_id} {operator.uploads.cancel(upload_id, sees=None).state}")

    @group.command("finalize")
    @click.argument("upload_id")
    @explained
    def finalize(upload_id: str) -> None:
        """Finalize a full upload now, in this process; also after it has failed."""
        operator.uploads.jobs.wake = lambda: _run_due(operator)
        upload = operator.uploads.complete(upload_id, sees=None)
        _echo_view(upload)
        if upload.state is not State.COMPLETE:
            raise click.ClickException(
                upload.error or "not done yet; a running server or `flask jobs run` goes on with it"
            )

    @group.command("cleanup")
    @click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
    @explained
    def cleanup(dry_run: bool) -> None:
        """Remove expired uploads and leftovers, as the server does by itself."""
        count = 0
        for swept in operator.sweeper.sweep(dry_run=dry_run):
            count += 1
            click.echo(f"{swept.what}  {swept.upload_id}  {swept.filename}")
        click.echo(f"{count} {'would be removed' if dry_run else 'removed'}")

    return group


def _run_due(operator: Operator) -> None:
    while claim := operator.finalizer.claim():
        operator.finalizer.finalize(*claim)


def _echo_row(upload: UploadRecord) -> None:
    click.echo(
        f"{upload.id}  {upload.state:<10}  {upload.received}/{upload.part_count} parts  "
        f"{upload.length} bytes  {rfc3339(upload.created_at_ms)}  {upload.filename}"
    )


def _echo_view(upload: UploadView) -> None:
    rows = {
        "id": upload.id,
        "filename": upload.filename,
        "state": upload.state.value,
        "owner": upload.owner,
        "protocol": upload.protocol,
        "size": f"{upload.length} bytes in {upload.part_count} parts of {upload.part_size}",
        "received": f"{upload.received} parts ({upload.received_percent} %)",
        "finalized": f"{upload.finalized_percent} %",
        "error": upload.error or "-",
        "file": upload.final_path or "-",
        "created": rfc3339(upload.created_at_ms),
        "expires": rfc3339(upload.expires_at_ms),
    }
    for name, value in rows.items():
        click.echo(f"{name:<14} {value}")
    if upload.parts is not None:
        pending = [part.index for part in upload.parts if not part.is_received]
        click.echo(f"pending parts  {_ranges(pending) or 'none'}")


def _ranges(indexes: list[int]) -> str:
    """Write 0,1,2,5 as ``0-2, 5``."""
    spans: list[list[int]] = []
    for index in indexes:
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
