"""Media types that clients declare for the files they send."""

from __future__ import annotations

import re

#: RFC 9110 section 8.3.1, without comments and the like; longer than any real one.
_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(?:\s*;\s*[\x21-\x7e ]{1,200})?"
)


def media_type(text: str | None) -> str | None:
    """Return a content type if it is one, None otherwise: it is a hint, not worth a refusal."""
    return text if text is not None and _MEDIA_TYPE.fullmatch(text) else None
