"""One lease as its holder sees it; the ledger's side is in ``leases.py``."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from app.domain.clock import boot_seconds

LEASE_MS = 6_000

#: A holder stops this long before its lease runs out.
MARGIN_SECONDS = 1.0


class Contention(IntEnum):
    """What others want of a lease's holder."""

    NONE = 0
    ASKED = 1  #: let go if you have stalled
    RELEASE = 2  #: let go now, and keep what has arrived: somebody goes on from there
    ORDERED = 3  #: let go now: the upload is being cancelled


class Lease:
    """A lease held by this process. ``deadline`` is on the clock of ``Clock.monotonic``.

    ``wake`` is called when others want more of the holder than before.
    ``root_id``: where the holder writes to, once it knows; an upload that was
    moved to another root meanwhile takes nothing of it.
    """

    def __init__(self, upload_id: str, key: str, generation: int, claimed_at: float) -> None:
        self.upload_id = upload_id
        self.key = key
        self.generation = generation
        self.contention = Contention.NONE
        self.root_id: str | None = None
        self.wake: Callable[[], None] = lambda: None
        self.renewed(claimed_at)

    def renewed(self, at: float) -> None:
        """Note that the lease was valid at ``at`` (monotonic seconds, before the statement)."""
        self.deadline = at + LEASE_MS / 1000 - MARGIN_SECONDS

    def contend(self, contention: Contention) -> None:
        """Note what others want, and wake the holder if that is news."""
        if contention > self.contention:
            self.contention = contention
            self.wake()

    @property
    def lost(self) -> bool:
        """True when the holder must stop because it cannot be sure of the lease any more."""
        return boot_seconds() >= self.deadline
