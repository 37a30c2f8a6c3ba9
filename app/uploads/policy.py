"""The settings services act by, as plain values with units."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """``max_upload_bytes`` 0: no limit; ``durable``: acknowledged parts survive a power cut."""

    part_size_bytes: int
    ttl_seconds: float
    max_upload_bytes: int
    check_free_disk: bool
    min_free_disk_bytes: int
    complete_wait_seconds: float
    body_idle_timeout_seconds: float
    durable: bool
    allow_private_targets: bool
    max_concurrent_finalizations: int
    resumable_grace_seconds: float

    @property
    def ttl_ms(self) -> int:
        """How long an unfinished upload is kept, in milliseconds."""
        return int(self.ttl_seconds * 1000)

    @property
    def grace_ms(self) -> int:
        """How long a complete upload keeps its client's name for it, in milliseconds."""
        return int(self.resumable_grace_seconds * 1000)
