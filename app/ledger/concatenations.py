"""Uploads that are made of others: creating them, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from app.domain.states import State
from app.errors import UploadNotFound, WrongRoot
from app.ledger.finals import (
    can_be_joined,
    common_root_id,
    find_all,
    partials_of,
    prolong_partials_of,
    require_bytes_nowhere_else,
    start_finals,
)
from app.ledger.models import concatenations
from app.ledger.records import NewUpload, UploadRecord
from app.ledger.room import take_turns
from app.ledger.transactions import Transactions
from app.ledger.uploads import find, insert_upload


class ConcatenationLedger:
    """Final uploads and their partial ones."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def find(self, upload_ids: Sequence[str]) -> Sequence[UploadRecord | None]:
        """Return uploads in the order of their ids as given, None for each that is unknown."""
        return self._transactions.read(lambda connection: find_all(connection, upload_ids))

    def require_here(self, partial: UploadRecord) -> None:
        """Raise WrongRoot where a partial upload will be joined with bytes on another root."""
        self._transactions.read(lambda connection: require_bytes_nowhere_else(connection, partial))

    def create(
        self, new: NewUpload, partial_ids: Sequence[str], *, room_bytes: int | None
    ) -> UploadRecord:
        """Insert a final upload, and queue it for finalizing if its partial ones are full.

        Nothing of it is staged: finalizing does that. So there is no moment at
        which a crash could leave it half made. What it waits for lives as long
        as it does. Raises UploadNotFound where a partial one has ended meanwhile,
        WrongRoot where one has moved, and StorageFull, see ``UploadLedger.create``.
        """

        def work(connection: Connection) -> UploadRecord:
            if room_bytes is not None:
                take_turns(connection)  # before all others, as who moves an upload does
            # Locked, so that a commit that fills one either is seen by us or sees us.
            found = find_all(connection, partial_ids, locked=True)
            partials = [partial for partial in found if can_be_joined(partial)]
            if len(partials) < len(found):
                raise UploadNotFound
            if common_root_id(partials) != new.root_id:
                raise WrongRoot
            insert_upload(connection, new, room_bytes)
            connection.execute(
                concatenations.insert(),
                [
                    {"final_id": new.id, "position": position, "partial_id": partial_id}
                    for position, partial_id in enumerate(partial_ids)
                ],
            )
            start_finals(connection, [new.id], new.created_at_ms)
            final = find(connection, new.id)
            assert final is not None, "it has just been inserted"
            if final.state is State.OPEN:
                prolong_partials_of(connection, [new.id], new.expires_at_ms)
            return final

        return self._transactions.write(work)

    def sources(self, final_id: str) -> Sequence[UploadRecord | None]:
        """Return what a final upload is made of, in order; None for one whose row is gone."""
        return self._transactions.read(lambda connection: partials_of(connection, final_id))
