"""An upload that the storage does not take is given up whole."""

from __future__ import annotations

import pytest

from app.errors import LonghaulError, StorageFault, StorageFull, StorageUnavailable
from app.ledger.database import Ledger
from app.ledger.models import events, uploads
from app.storage.base import StagedObject
from app.storage.memory import MemoryStorage
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.rig import Rig


class Refusing(MemoryStorage):
    """Storage that takes nothing new."""

    def __init__(self, error: LonghaulError) -> None:
        super().__init__()
        self._error = error

    def create(self, staged: StagedObject) -> str:
        raise self._error


@pytest.mark.parametrize(
    "error", [StorageFull(), StorageUnavailable(), StorageFault("S3 has no keys of this length")]
)
def test_what_the_storage_does_not_take_reserves_no_room(
    ledger: Ledger, clock: FakeClock, database: Database, error: LonghaulError
) -> None:
    rig = Rig(ledger, Refusing(error), clock)
    with pytest.raises(type(error)):
        rig.create()
    assert [row.state for row in database.rows(uploads)] == ["expired"]
    assert [row.kind for row in database.rows(events)] == ["created", "abandoned"]
