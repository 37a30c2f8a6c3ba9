"""``flask uploads``: list, show, cancel, finalize, cleanup."""

from __future__ import annotations

from collections.abc import Iterable

import click

from app.cli.operator import Operator, explained
from app.domain.clock import rfc3339
from app.domain.parts import pending_parts
from app.domain.states import State
from app.errors import UploadNotFound
from app.ledger.records import FINAL, PARTIAL, UploadRecord

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
        _echo_upload(operator, _known(operator, upload_id))

    @group.command("cancel")
    @click.argument("upload_id")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @explained
    def cancel(upload_id: str, yes: bool) -> None:
        """Cancel an upload; a complete one is deleted with its file."""
        upload = _known(operator, upload_id)
        if upload.state is State.COMPLETE and not yes:
            click.confirm(f"{upload.filename} is complete. Delete its file?", abort=True)
        click.echo(f"{upload_id} {operator.uploads.end(upload_id).state}")

    @group.command("finalize")
    @click.argument("upload_id")
    @explained
    def finalize(upload_id: str) -> None:
        """Finalize a full upload now, in this process; also after it has failed."""
        operator.uploads.jobs.wake = lambda: _run_due(operator)
        if _known(operator, upload_id).part_count is None:
            operator.appends.finalize(upload_id)
        else:
            operator.uploads.complete(upload_id, sees=None)
        upload = _known(operator, upload_id)
        _echo_upload(operator, upload)
        if upload.state is not State.COMPLETE:
            raise click.ClickException(
                upload.error or "not done yet; a running server or `flask jobs run` goes on with it"
            )

    group.add_command(_cleanup_command(operator))
    return group


def _cleanup_command(operator: Operator) -> click.Command:
    @click.command("cleanup")
    @click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
    @explained
    def cleanup(dry_run: bool) -> None:
        """Remove expired uploads and leftovers, as the server does by itself."""
        count = 0
        for swept in operator.sweeper.sweep(dry_run=dry_run):
            count += 1
            click.echo(f"{swept.what}  {swept.upload_id}  {swept.filename}")
        click.echo(f"{count} {'would be removed' if dry_run else 'removed'}")

    return cleanup


def _run_due(operator: Operator) -> None:
    while claim := operator.finalizer.claim():
        operator.finalizer.finalize(*claim)


def _known(operator: Operator, upload_id: str) -> UploadRecord:
    """Return an upload of any protocol, in whatever state it is."""
    upload = operator.ledger.uploads.get(upload_id)
    if upload is None:
        raise UploadNotFound
    return upload


def _echo_row(upload: UploadRecord) -> None:
    click.echo(
        f"{upload.id}  {upload.state:<10}  {upload.protocol:<9}  {_progress(upload)}  "
        f"{_length(upload)}  {rfc3339(upload.created_at_ms)}  {upload.filename}"
    )


def _echo_upload(operator: Operator, upload: UploadRecord) -> None:
    in_parts = f" in {upload.part_count} parts of {upload.part_size}"
    rows = {
        "id": upload.id,
        "filename": upload.filename,
        "state": upload.state.value,
        "owner": upload.owner,
        "protocol": upload.protocol,
        "size": _length(upload) + ("" if upload.part_count is None else in_parts),
        "received": _received(upload),
        "finalized": f"{upload.finalized_percent} %",
        "error": upload.error or "-",
        "file": operator.uploads.final_path(upload) or "-",
        "created": rfc3339(upload.created_at_ms),
        "expires": rfc3339(upload.expires_at_ms),
    }
    if upload.concat == PARTIAL:
        rows["concatenation"] = "partial: other uploads are made of it"
    if upload.part_count is not None:
        words = operator.ledger.parts.words(upload.id)
        rows["pending parts"] = _ranges(pending_parts(words, upload.part_count)) or "none"
    for name, value in rows.items():
        click.echo(f"{name:<14} {value}")
    if upload.concat == FINAL:
        _echo_partials(operator, upload)


def _echo_partials(operator: Operator, upload: UploadRecord) -> None:
    for partial in operator.ledger.concatenations.sources(upload.id):
        told = "gone" if partial is None else f"{partial.id} {partial.state} {_progress(partial)}"
        click.echo(f"{'made of':<14} {told}")


def _length(upload: UploadRecord) -> str:
    return "unknown length" if upload.length is None else f"{upload.length} bytes"


def _progress(upload: UploadRecord) -> str:
    """Write how far an upload is, in parts or in bytes."""
    if upload.concat == FINAL:
        return "made of others"
    if upload.part_count is not None:
        return f"{upload.received}/{upload.part_count} parts"
    return f"{upload.offset}/{'?' if upload.length is None else upload.length} bytes"


def _received(upload: UploadRecord) -> str:
    if upload.concat == FINAL:
        return "made of others"
    if upload.part_count is not None:
        return f"{upload.received} parts ({upload.received_percent} %)"
    percent = "" if upload.length is None else f" ({upload.received_percent} %)"
    return f"{upload.offset} bytes{percent}"


def _ranges(indexes: Iterable[int]) -> str:
    """Write 0,1,2,5 as ``0-2, 5``."""
    spans: list[list[int]] = []
    for index in indexes:
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
