"""What becomes of uploads while their files are being read: the ledger, looked at now and then.

All readers of an upload in this process share the looks, so a thousand readers
of one growing file cost the ledger as much as one. The looks happen beside the
readers: a database that does not answer holds nobody up who has bytes to send.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from app.domain.clock import Clock
from app.errors import TryAgain
from app.ledger.records import UploadRecord

#: Returns an upload in whatever state it is, None if its row is gone.
Fetch = Callable[[str], UploadRecord | None]


class Watch:
    """One upload, as of some moments ago."""

    def __init__(self, fetch: Fetch, clock: Clock, upload: UploadRecord) -> None:
        self.readers = 0
        self._fetch = fetch
        self._clock = clock
        self.upload_id = upload.id
        self._upload: UploadRecord | None = upload
        self._looked_at = clock.monotonic()
        self._looking = False

    def latest(self, max_age_seconds: float) -> UploadRecord | None:
        """Return the upload as last seen; where that is older, a new look begins meanwhile."""
        too_old = self._clock.monotonic() - self._looked_at >= max_age_seconds
        if too_old and not self._looking:
            self._looking = True
            threading.Thread(target=self._look, name="watch", daemon=True).start()
        return self._upload

    def _look(self) -> None:
        try:
            self._upload = self._fetch(self.upload_id)
        except TryAgain:
            pass  # the ledger has logged it; what was known holds until it answers again
        finally:
            self._looked_at = self._clock.monotonic()
            self._looking = False


class Watches:
    """The watches of this process."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._watches: dict[str, Watch] = {}

    def begin(self, upload: UploadRecord) -> Watch:
        """Return the watch of an upload for one more reader, who has just seen it."""
        watch = self._watches.get(upload.id)
        if watch is None:
            watch = self._watches[upload.id] = Watch(self._fetch, self._clock, upload)
        watch.readers += 1
        return watch

    def end(self, watch: Watch) -> None:
        """Let go of a watch; the last reader ends it."""
        watch.readers -= 1
        if not watch.readers:
            del self._watches[watch.upload_id]
