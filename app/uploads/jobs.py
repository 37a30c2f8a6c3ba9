"""How services tell the jobs of this process that there is something to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.ledger.leases import Lease
from app.ledger.records import UploadRecord


def _nobody() -> None:
    """Nobody runs jobs here: whoever does finds what is due by itself."""


@dataclass
class Jobs:
    """``wake``: something is due. ``finalize``: this upload, claimed for it, None: not here."""

    wake: Callable[[], None] = _nobody
    finalize: Callable[[UploadRecord, Lease], None] | None = None
