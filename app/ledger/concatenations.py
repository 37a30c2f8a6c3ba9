"""Uploads that are made of others: creating them, and what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from app.errors import UploadNotFound
from app.ledger.finals import can_be_joined, find_all, partials_of, start_finals
from app.ledger.leases import CREATE, Lease, Leases
from app.ledger.models import concatenations
from app.ledger.records import NewUpload, UploadRecord
from app.ledger.transactions import Transactions
from app.ledger.uploads import find, insert_upload


class ConcatenationLedger:
    """Final uploads and their partial ones."""

    def __init__(self, transactions: Transactions, leases: Leases) -> None:
        self._transactions = transactions
        self._leases = leases

    def find(self, upload_ids: Sequence[str]) -> Sequence[UploadRecord | None]:
        """Return uploads in the order of their ids as given, None for each that is unknown."""
        return self._transactions.read(lambda connection: find_all(connection, upload_ids))

    def create(
        self,
        new: NewUpload,
        partial_ids: Sequence[str],
        *,
        room_bytes: int | None,
        monotonic: Callable[[], float],
    ) -> Lease:
        """Insert a final upload; see ``UploadLedger.create``.

        Raises UploadNotFound where a partial one has ended meanwhile, StorageFull.
        """
        claimed_at = monotonic()

        def work(connection: Connection) -> int:
            # Locked, so that a commit that fills one either is seen by us or sees us.
            if not all(map(can_be_joined, find_all(connection, partial_ids, locked=True))):
                raise UploadNotFound
            generation = insert_upload(connection, self._leases, new, room_bytes)
            connection.execute(
                concatenations.insert(),
                [
                    {"final_id": new.id, "position": position, "partial_id": partial_id}
                    for position, partial_id in enumerate(partial_ids)
                ],
            )
            return generation

        generation = self._transactions.write(work)
        return self._leases.hold(new.id, CREATE, generation, claimed_at)

    def start(self, final_id: str, now_ms: int) -> UploadRecord:
        """Move a staged final upload to finalizing if it can be made now; return it as it is.

        Raises UploadNotFound.
        """

        def work(connection: Connection) -> UploadRecord:
            start_finals(connection, [final_id], now_ms)
            final = find(connection, final_id)
            if final is None:
                raise UploadNotFound
            return final

        return self._transactions.write(work)

    def sources(self, final_id: str) -> Sequence[UploadRecord | None]:
        """Return what a final upload is made of, in order; None for one whose row is gone."""
        return self._transactions.read(lambda connection: partials_of(connection, final_id))
