"""The log: one line per event on stderr, JSON or for people, the same for every library.

structlog's loggers and the standard library's (gunicorn, Alembic, SQLAlchemy) share
their processors, so all lines have one form, carry the request's id and pass one
redaction: keys and tokens never reach a log, whoever wrote the line.

What is bound with ``structlog.contextvars`` belongs to the greenlet of the
request; a native thread does not see it and must not log, because handlers take
locks that gevent has replaced.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import sys
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "***"

#: Marks our handler, so that configuring again (a forked worker does) replaces it.
_HANDLER_NAME = "longhaul"

#: Loggers that say at INFO what nobody asked: each migration step, each outgoing
#: request with its URL, which may hold a secret of the receiver; where they found
#: S3's keys, and signatures made with them.
_QUIET_LOGGERS = ("alembic", "botocore", "httpx", "httpcore", "urllib3")

#: What one looks for first in a line, in this order.
_LEADING = ("timestamp", "level", "event", "request_id")

#: Names of fields, headers and parameters whose value is never shown. Not every
#: "key": staging keys and target keys are what one looks for in a log.
_SECRET_NAME = (
    r"(?:[a-z0-9]+[-_])*(?:token|secret|password|signature|credential|api[-_]?key)"
    r"|smb[-_]pass|(?:proxy[-_])?authorization|(?:set[-_])?cookie"
)
_IS_SECRET_NAME = re.compile(_SECRET_NAME, re.IGNORECASE)

#: All linear in the length of the text, which clients choose.
_SECRETS_IN_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    # A JWT: three base64url segments, the first one a JSON object ('{"' is eyJ).
    (re.compile(r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}"), REDACTED),
    # scheme://user:password@host
    (re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@"), rf"\1:{REDACTED}@"),
    # Bearer and a key; 16 characters, or "bearer token missing" would be cut too
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{16,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    # token=… in URLs, X-API-Key: … in headers, 'token': '…' in dumps
    (
        re.compile(
            rf"(?<![A-Za-z0-9_-])({_SECRET_NAME})(['\"]?\s*[=:]\s*['\"]?)[^\s&'\",;)\]}}]+",
            re.IGNORECASE,
        ),
        rf"\1\2{REDACTED}",
    ),
)

#: Each of the patterns above finds something only where this does: nearly all texts are
#: harmless, and to look four times took most of the time of a request's line.
_MAY_HOLD_SECRETS = re.compile(r"eyJ|[:=]|bearer\s|basic\s", re.IGNORECASE)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: Characters that move a terminal's cursor or end a line: a client's name in a
#: console line must not be able to forge another line. C0, DEL and C1.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def configure(level: str, fmt: str) -> None:
    """Send all logging to stderr, from ``level`` (error … debug) up, as ``json`` or ``console``.

    May be called again, in the same process or after a fork; the last call holds.
    """
    described: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[Processor] = [
        # Before the redaction, which has to see the exception's text.
        structlog.processors.format_exc_info,
        structlog.processors.StackInfoRenderer(),
        redact,
        *_renderer(fmt),
    ]
    structlog.configure(
        processors=[*described, *rendered],
        logger_factory=partial(_Writer, sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.name = _HANDLER_NAME
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=described,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.name == _HANDLER_NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class _Writer:
    """Writes rendered lines at once: the standard library's way takes as long again.

    As there, a line that cannot be written (a full disk, a reader that is gone) is
    lost, and nothing else: requests go on.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self.name = name

    def write(self, line: str) -> None:
        """Write a line."""
        with contextlib.suppress(OSError, ValueError):  # the latter where it is closed
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = critical = write


def request_id(header_value: str | None) -> str:
    """Return the request's id: the client's X-Request-ID if it is harmless, else a new one.

    Harmless is 1 to 64 letters, digits, dots, underscores and hyphens: it goes
    into the log and back to the client. A new one has 16 hex digits.
    """
    if header_value is not None and _REQUEST_ID.fullmatch(header_value):
        return header_value
    return secrets.token_hex(8)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blank out keys and tokens anywhere in ``event``: by the field's name, and in all text."""
    return {name: _redacted(value, name) for name, value in event.items()}


def redact_text(text: str) -> str:
    """Return ``text`` without JWTs, passwords in URLs, and values of secret parameters."""
    if _MAY_HOLD_SECRETS.search(text) is None:
        return text
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _redacted(value: Any, name: object = None) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(name, str) and _is_secret(name):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {str(key): _redacted(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        if len(items) == 2 and isinstance(items[0], str):  # a header: (name, value)
            return [items[0], _redacted(items[1], items[0])]
        return [_redacted(item) for item in items]
    # Anything else would be rendered by its repr: look into that.
    return redact_text(repr(value))


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _IS_SECRET_NAME.fullmatch(name) is not None


def _renderer(fmt: str) -> list[Processor]:
    if fmt == "json":
        return [_leading_first, structlog.processors.JSONRenderer()]
    return [
        _escape_controls,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The exception is text already: it had to be redacted.
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _leading_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**{name: event[name] for name in _LEADING if name in event}, **event}


def _escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    def escaped(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return _CONTROL.sub(lambda match: repr(match[0])[1:-1], value)

    multiline = {"exception", "stack"}
    return {name: value if name in multiline else escaped(value) for name, value in event.items()}
