"""JSON documents in requests: read whole, within bounds, and strictly."""

from __future__ import annotations

import json
import math
from typing import Any

from app.errors import MalformedRequest
from app.protocols.context import small_body


def json_object() -> dict[str, Any]:
    """Return this request's body, a JSON object. Raises MalformedRequest."""
    try:
        value = json.loads(small_body(), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("The request body is not valid JSON") from error
    if not isinstance(value, dict):
        raise MalformedRequest("The request body must be a JSON object")
    return value


def _finite(text: str) -> float:
    """Return a number of a JSON document; NaN and Infinity are none (RFC 8259 section 6)."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a JSON number")
    return number
