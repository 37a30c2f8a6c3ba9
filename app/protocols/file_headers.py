"""How a file presents itself to a browser: its type, its name, and what it must not do.

Clients choose the bytes and the declared type; the page they would run in, if
a browser ran them, is this server's. Hence: attachment, except for types that
cannot run anything; never sniffed; sandboxed where shown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import quote

from werkzeug.http import dump_options_header

UNKNOWN_TYPE = "application/octet-stream"

#: RFC 9110 section 8.3.1: type "/" subtype, and parameters.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[\t !#-\[\]-~]|\\[\t -~])*"'
_MEDIA_TYPE = re.compile(
    rf"(?P<essence>{_TOKEN}/{_TOKEN})(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))*"
)
_MAX_TYPE_CHARACTERS = 255

#: Shown in the browser. Neither HTML nor SVG nor XML, which run scripts, nor
#: PDF: a sandboxed page cannot open the viewer for it.
INLINE_TYPES = frozenset(
    """
    image/png image/jpeg image/gif image/webp image/avif
    video/mp4 video/webm video/ogg video/quicktime
    audio/mpeg audio/mp4 audio/ogg audio/webm audio/wav audio/x-wav audio/flac audio/aac
    text/plain
    """.split()
)

#: A page's <script> and <link> load even an attachment, if it is of such a type:
#: what was uploaded would run as this server's own (WHATWG MIME Sniffing, 4.6).
_LOADED_BY_PAGES = re.compile(
    r"(?:text|application)/(?:x-)?(?:java|ecma|j|live)script[0-9.]*|text/css", re.IGNORECASE
)

#: RFC 8187 section 3.2.1: what needs no percent in an extended value (attr-char).
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"

_FALLBACK_NAME = "download"


def file_headers(filename: str, declared_type: str | None) -> Iterator[tuple[str, str]]:
    """Yield the header fields that say what a file is.

    ``declared_type`` as the uploading client gave it, unchecked.
    """
    essence, content_type = _served_type(declared_type)
    inline = essence in INLINE_TYPES
    yield "Content-Type", content_type
    yield "Content-Disposition", content_disposition(filename, inline=inline)
    yield "X-Content-Type-Options", "nosniff"
    if inline:
        yield "Content-Security-Policy", "sandbox"
        # The address may hold a session token.
        yield "Referrer-Policy", "no-referrer"


def content_disposition(filename: str, *, inline: bool) -> str:
    """Return a Content-Disposition with ``filename`` for every client (RFC 6266).

    Where plain ``filename`` could be misread (section 4.3, appendix D: other
    than ASCII, percent signs, backslashes, quotes), it gets a simpler name and
    ``filename*`` the real one, which clients prefer.
    """
    disposition = "inline" if inline else "attachment"
    simple = _simplified(filename)
    if simple == filename:
        return dump_options_header(disposition, {"filename": simple})
    # Lone surrogates are refused in names; were there one, it must not break a download.
    extended = quote(filename, safe=_ATTRIBUTE_CHARACTERS, errors="replace")
    names = {"filename": simple, "filename*": f"UTF-8''{extended}"}
    return dump_options_header(disposition, names)


def _served_type(declared: str | None) -> tuple[str, str]:
    """Return the essence in lower case, and the Content-Type to send."""
    match = _MEDIA_TYPE.fullmatch((declared or "")[: _MAX_TYPE_CHARACTERS + 1].strip(" \t"))
    if match is None or len(match[0]) > _MAX_TYPE_CHARACTERS:
        return UNKNOWN_TYPE, UNKNOWN_TYPE
    if _LOADED_BY_PAGES.fullmatch(match["essence"]):
        return UNKNOWN_TYPE, UNKNOWN_TYPE
    return match["essence"].lower(), match[0]


def _simplified(filename: str) -> str:
    """Return a name of printable ASCII without ``"``, ``%`` and backslashes."""
    ascii_name = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    kept = "".join(c if " " <= c <= "~" and c not in '"\\%/' else "_" for c in ascii_name)
    stem, dot, extension = kept.rpartition(".")
    if dot and not stem.strip(" ._"):
        return f"{_FALLBACK_NAME}.{extension}" if filename != kept else kept
    return kept if kept.strip(" ._") else _FALLBACK_NAME
