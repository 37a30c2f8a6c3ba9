"""Who asks: the principal that credentials stand for, whatever the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.errors import NotAuthorized


class Scope(StrEnum):
    """What an API key may do."""

    UPLOAD = "upload"  #: create uploads, and manage those it created
    METRICS = "metrics"  #: read /metrics
    ADMIN = "admin"  #: everything, on everybody's uploads


#: Owner of uploads made with the key of the settings.
ADMIN_OWNER = "admin"

#: Owner of uploads made without credentials, by protocols that are open to all.
ANONYMOUS_OWNER = "anonymous"

#: Protocols that session tokens and ANONYMOUS_PROTOCOLS may name.
SESSION_PROTOCOLS = frozenset({"resumable", "tus", "pipe"})


@dataclass(frozen=True, slots=True)
class Principal:
    """``owner`` is the name uploads are created under.

    ``directory``: where they land, "" for the storage's root. ``max_bytes`` of
    an upload, None: the server's limit. ``protocols``: None for all.
    """

    owner: str
    scopes: frozenset[Scope]
    directory: str = ""
    max_bytes: int | None = None
    protocols: frozenset[str] | None = None

    def require_protocol(self, protocol: str) -> None:
        """Raise NotAuthorized unless this principal may use ``protocol``."""
        if self.protocols is not None and protocol not in self.protocols:
            raise NotAuthorized(f"These credentials are not for the protocol {protocol!r}")

    def require(self, scope: Scope) -> None:
        """Raise NotAuthorized unless this principal has ``scope``."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise NotAuthorized(f"These credentials lack the scope {scope.value!r}")

    @property
    def sees(self) -> str | None:
        """The owner whose uploads are visible; None: everybody's."""
        return None if Scope.ADMIN in self.scopes else self.owner
