"""Absolute URLs of this server, as its clients reach it.

From ``BASE_URL``; or from what a trusted proxy says of the request it passes on
(``Forwarded``, RFC 7239, or ``X-Forwarded-*``); or from the request's Host. Of
several entries in such a header the last one counts: our peer has written it,
the others may be the client's invention.
"""

from __future__ import annotations

import ipaddress
import re

from flask import Request

from app.settings import Settings

#: RFC 9110 section 7.2, without user names.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")


def absolute_url(request: Request, settings: Settings, path: str) -> str:
    """Return the URL of ``path``, which begins with a slash.

    Where a request does not tell the host, it is relative to what the client has
    called (RFC 3986 section 4.2).
    """
    if settings.base_url:
        return settings.base_url + path
    scheme, host, prefix = request.scheme, _host(request), ""
    if _is_trusted(request.remote_addr, settings):
        scheme, host, prefix = _forwarded(request, scheme, host)
    return f"{scheme}://{host}{prefix}{path}" if host else f"{prefix}{path}"


def _host(request: Request) -> str:
    """Return the Host of a request, "" where it names none.

    Werkzeug knows no underscores, which names in container networks may have.
    """
    told = request.headers.get("Host", "")
    return told if _HOST.fullmatch(told) else request.host


def _is_trusted(peer: str | None, settings: Settings) -> bool:
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:  # a Unix socket has no address
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in settings.trusted_proxies)


def _forwarded(request: Request, scheme: str, host: str) -> tuple[str, str, str]:
    """Return scheme, host and path prefix as the proxy tells them, ours where it does not."""
    if standard := request.headers.get("Forwarded"):
        options = _pairs(_last(standard))
        told_scheme, told_host, prefix = options.get("proto", ""), options.get("host", ""), ""
    else:
        told_scheme = _last(request.headers.get("X-Forwarded-Proto", ""))
        told_host = _last(request.headers.get("X-Forwarded-Host", ""))
        port = _last(request.headers.get("X-Forwarded-Port", ""))
        if told_host and port.isdigit() and not re.search(r":[0-9]+$", told_host):
            usual = {"http": "80", "https": "443"}.get(told_scheme or scheme)
            told_host += "" if port == usual else f":{port}"
        prefix = _last(request.headers.get("X-Forwarded-Prefix", ""))
    if told_scheme.lower() in {"http", "https"}:
        scheme = told_scheme.lower()
    if _HOST.fullmatch(told_host):
        host = told_host
    if not _PREFIX.fullmatch(prefix):
        prefix = ""
    return scheme, host, prefix.rstrip("/")


def _pairs(element: str) -> dict[str, str]:
    """Return the pairs of one element of a Forwarded header, names in lower case (section 4).

    A port belongs within quotes, but proxies' examples often do without them.
    """
    pairs = (pair.partition("=") for pair in element.split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _last(header: str) -> str:
    return header.rpartition(",")[2].strip()
