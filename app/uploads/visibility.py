"""Which uploads a principal gets to see by the protocols that have no tokens per upload."""

from __future__ import annotations

from app.domain.states import GONE
from app.errors import UploadGone, UploadNotFound
from app.ledger.records import UploadRecord


def require_visible(
    upload: UploadRecord | None, protocol: str | None, sees: str | None, now_ms: int
) -> UploadRecord:
    """Return an upload of ``protocol`` (None: of any) that is there and visible to ``sees``
    (None: to all).

    Raises UploadNotFound, also where it is somebody else's; UploadGone where it
    has ended and its row still tells of it.
    """
    if upload is None or protocol not in (None, upload.protocol):
        raise UploadNotFound
    if sees is not None and upload.owner != sees:
        raise UploadNotFound
    if upload.state in GONE or upload.has_expired(now_ms):
        raise UploadGone
    return upload
