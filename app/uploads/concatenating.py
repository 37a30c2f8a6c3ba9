"""Uploads that are made of others, which may still be on their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.domain.clock import Clock
from app.domain.states import State
from app.domain.upload_ids import family_of
from app.errors import InvalidField, StorageUnavailable, UploadNotFound
from app.ledger.database import Ledger
from app.ledger.finals import common_root_id
from app.ledger.records import FINAL, PARTIAL, UploadRecord
from app.storage.base import Capabilities, Storage
from app.uploads.creating import Creator, Wish
from app.uploads.staging import Staging
from app.uploads.visibility import require_visible


def can_join(capabilities: Capabilities) -> bool:
    """Tell whether staged objects can be joined, by the storage itself or by reading them."""
    return capabilities.concatenation or capabilities.readable_staging


class Concatenator:
    """Creates final uploads."""

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        clock: Clock,
        staging: Staging,
        creator: Creator,
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._staging = staging
        self._creator = creator

    def create(
        self, protocol: str, owner: str, wish: Wish, partial_ids: Sequence[str]
    ) -> UploadRecord:
        """Create an upload of partial ones in their order; return it waiting or finalizing.

        Its length is the sum of theirs. Raises UploadNotFound (a partial one is
        unknown, gone, or somebody else's, whatever ``owner`` may see), InvalidField
        (it is not a partial one, or its length is not known yet), WrongRoot where
        their bytes are on several nodes' disks, and as ``Creator.create``, but for
        what making a staged object may raise: finalizing does that, on the node that
        has their bytes.
        """
        partials = [
            self._usable(partial, protocol, owner)
            for partial in self._ledger.concatenations.find(partial_ids)
        ]
        length = sum(partial.length or 0 for partial in partials)
        wish = replace(wish, length=length, concat=FINAL, family=family_of(partials[0].id))
        new = self._creator.planned(protocol, owner, wish)
        if not can_join(self._storage.capabilities_of(new.root_id)):
            raise StorageUnavailable("This storage cannot join uploads")
        new = replace(new, root_id=common_root_id(partials))
        is_here = new.root_id in self._storage.root_ids
        room_bytes = self._staging.room_bytes(new.root_id) if is_here else None
        return self._ledger.concatenations.create(new, partial_ids, room_bytes=room_bytes)

    def _usable(self, partial: UploadRecord | None, protocol: str, owner: str) -> UploadRecord:
        found = require_visible(partial, protocol, owner, self._clock.now_ms())
        if found.concat != PARTIAL:
            raise InvalidField("concat", f"{found.id} is not a partial upload")
        if found.length is None:
            raise InvalidField("concat", f"the length of {found.id} is not known yet")
        if found.state is not State.OPEN:
            raise UploadNotFound
        return found
