"""The settings services act by, as plain values with units."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """``max_upload_bytes`` 0: no limit; ``durable``: acknowledged parts survive a power cut.

    ``abandoned_after_seconds`` None: the same as ``ttl_seconds``, which it is never above.
    """

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
    abandoned_after_seconds: float | None = None

    @property
    def ttl_ms(self) -> int:
        """How long an unfinished upload is kept after its last progress, in milliseconds."""
        return int((self.abandoned_after_seconds or self.ttl_seconds) * 1000)

    @property
    def lifetime_ms(self) -> int:
        """How long one is kept that expires at a fixed time, in milliseconds."""
        return int(self.ttl_seconds * 1000)

    @property
    def grace_ms(self) -> int:
        """How long a complete upload keeps its client's name for it, in milliseconds."""
        return int(self.resumable_grace_seconds * 1000)
