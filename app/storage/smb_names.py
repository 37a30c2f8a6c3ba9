"""Names of files on a share: what its rules forbid is stored under another character.

Windows, and with it every SMB server, refuses ``" * : < > ? |`` in a name, and a
blank or a full stop at its end. A client's name is data, so it is stored with
the characters that macOS and Linux put in their place on such shares (Apple's
SFM mapping, in Unicode's private use area): they show such a file under the
client's own name, Windows shows a placeholder. Answers and the ledger always
have the client's name; the mapping is made anew from it each time.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.names import MAX_COMPONENT_BYTES

#: SFM: where each forbidden character goes. Controls and ``\\`` are refused before.
_FORBIDDEN = {
    '"': "\uf020",
    "*": "\uf021",
    ":": "\uf022",
    "<": "\uf023",
    ">": "\uf024",
    "?": "\uf025",
    "|": "\uf027",
}
_AT_THE_END = {" ": "\uf028", ".": "\uf029"}

_MAPPED = str.maketrans(_FORBIDDEN)
_SHORT = str.maketrans(dict.fromkeys(_FORBIDDEN, "_"))


def stored_name(name: str) -> str:
    """Return the name on the share for one component of a key.

    A mapped character takes three bytes instead of one: where the name would
    get longer than file systems allow, they become underscores instead.
    """
    stored = _without_end(name.translate(_MAPPED), _AT_THE_END)
    if len(stored.encode()) > max(MAX_COMPONENT_BYTES, len(name.encode())):
        return _without_end(name.translate(_SHORT), dict.fromkeys(_AT_THE_END, "_"))
    return stored


def share_path(names: Sequence[str]) -> str:
    """Return the path of a file on the share, by the components of its key."""
    return "\\".join(map(stored_name, names))


def _without_end(name: str, mapped: dict[str, str]) -> str:
    return name[:-1] + mapped[name[-1]] if name[-1] in mapped else name
