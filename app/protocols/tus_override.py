"""X-HTTP-Method-Override: what a POST below /files really asks for.

For clients and networks that know only GET and POST (tus 1.0.0, Core Protocol,
Headers). Read before routing, so that views, answers and figures see one method.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST"})

#: Routed nowhere: it is answered 405, as any method that is not there.
_NONE_OF_THEM = "OTHER"


class MethodOverride:
    """Gives a POST to ``prefix`` and below the method that its header names, as a WSGI layer."""

    def __init__(self, application: Any, prefix: str) -> None:
        self._application = application
        self._segment = prefix.strip("/")

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method = environ.get("HTTP_X_HTTP_METHOD_OVERRIDE", "").strip(" \t")
        if method and environ["REQUEST_METHOD"] == "POST" and self._is_below(environ):
            environ["REQUEST_METHOD"] = method if method in _METHODS else _NONE_OF_THEM
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer

    def _is_below(self, environ: dict[str, Any]) -> bool:
        """Tell whether the path is below the prefix, however many slashes it begins with."""
        segment: str = environ.get("PATH_INFO", "").lstrip("/").partition("/")[0]
        return segment == self._segment
