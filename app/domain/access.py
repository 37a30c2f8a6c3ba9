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


@dataclass(frozen=True, slots=True)
class Principal:
    """``owner`` is the name uploads are created under."""

    owner: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raise NotAuthorized unless this principal has ``scope``."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise NotAuthorized(f"This API key lacks the scope {scope.value!r}")

    @property
    def sees(self) -> str | None:
        """The owner whose uploads are visible; None: everybody's."""
        return None if Scope.ADMIN in self.scopes else self.owner
