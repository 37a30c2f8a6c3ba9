"""Addresses this server is asked to call: webhooks and forwards.

Whoever may name such an address must not reach what only this server can reach:
its loopback, its private network, its cloud's metadata service. Here the URL is
taken apart and literal addresses are judged. Names are judged again, by their
addresses and by the same ``is_public_address``, each time they are called
(``jobs/outbound.py``), because DNS may answer differently by then.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, quote, urlsplit

import idna

from app.errors import TargetRefused

#: Longer than any receiver's address; what browsers and proxies still agree on.
MAX_URL_CHARACTERS = 2048

#: RFC 1035 section 2.3.4, without the final dot.
_MAX_HOST_CHARACTERS = 253

#: Control characters, unpaired surrogates, and white space of any script.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp", "Zs"})

_DEFAULT_PORTS = {"http": 80, "https": 443}

#: RFC 3986 section 3.2 without user information. A zone id (RFC 6874) names an
#: interface of this machine, so it is not part of the grammar.
_AUTHORITY = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[0-9]{0,5}))?"
)

#: RFC 1123 section 2.1, and the underscore, which container networks use.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")

#: A name that ends like this is taken for an IPv4 address by inet_aton and
#: browsers (WHATWG URL, "ends in a number checker"): 127.1, 0x7f000001.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: What a request target may hold unescaped, and % for what is escaped already.
_TARGET_SAFE = "%/:=&?~+!$,;'@()*[]"

#: IANA special-purpose registry for IPv4; a table of our own, because
#: ``ipaddress.is_global`` has changed its mind between Python releases.
_CLOSED_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host; Linux takes 0.0.0.0 for loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; metadata of Alibaba Cloud
        "127.0.0.0/8",
        "168.63.129.16/32",  # a public number, but Azure's host agent
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

#: Global unicast is this block only; loopback, unspecified, unique local
#: (fd00:ec2::254 is Amazon's metadata), link-local and multicast are outside.
_GLOBAL_IPV6 = IPv6Network("2000::/3")

_CLOSED_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)

#: Blocks whose addresses carry an IPv4 address, and how far right it begins in
#: the 128 bits: traffic to them may come out at that IPv4 address.
_EMBEDDINGS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped, RFC 4291 section 2.5.5.2
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052 section 2.1
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056 section 2
)
_IPV4_MASK = 0xFFFF_FFFF

_PRIVATE_ADVICE = "give a public address, or have the administrator set ALLOW_PRIVATE_TARGETS=true"


@dataclass(frozen=True, slots=True)
class Target:
    """A checked address to call.

    ``host`` is lower-case ASCII (IDNA A-labels) without a final dot, or an IP
    address in canonical form without brackets; ``target`` is path and query as
    they go on the wire, at least ``/``.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Value of the Host field: brackets around IPv6, no default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL in this form, at most MAX_URL_CHARACTERS of ASCII."""
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_target(url: str, allow_private: bool = False) -> Target:
    """Check an absolute http(s) URL and take it apart; a fragment is dropped.

    Unless ``allow_private``, literal addresses that are not public are refused
    here, and so are ``localhost`` and the names below it. IPv4 addresses are
    taken as four decimal numbers only: every other form (127.1, 0x7f000001,
    2130706433) is refused, since programs disagree on what they mean. Raises
    TargetRefused; its message never repeats the URL, which may hold a secret.
    """
    parts = _split(url)
    match = _AUTHORITY.fullmatch(parts.netloc)
    if match is None:
        raise TargetRefused("The target URL's host or port is malformed; write https://host:port/")
    port = _port(parts.scheme, match["port"])
    host = _ipv6(match["ipv6"]) if match["ipv6"] else _name_or_ipv4(match["name"])
    if not allow_private and _is_closed_literal(host):
        raise TargetRefused(f"The target URL's host {host} is not public; {_PRIVATE_ADVICE}")
    path = quote(parts.path, safe=_TARGET_SAFE) or "/"
    query = quote(parts.query, safe=_TARGET_SAFE)
    target = Target(parts.scheme, host, port, f"{path}?{query}" if query else path)
    _check_length(target.url)
    return target


def is_public_address(address: str | IPv4Address | IPv6Address) -> bool:
    """Say whether an IP address belongs to the public internet.

    False for private, loopback, link-local, shared, multicast, reserved and
    unspecified addresses, for metadata services, for IPv6 addresses that carry
    such an IPv4 address, and for text that is no IP address at all.
    """
    if isinstance(address, str):
        try:
            address = ip_address(address)
        except ValueError:
            return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_IPV4)
    if address.scope_id is not None:
        return False
    for network, shift_bits in _EMBEDDINGS:
        if address in network:
            return is_public_address(IPv4Address(int(address) >> shift_bits & _IPV4_MASK))
    return address in _GLOBAL_IPV6 and not any(address in closed for closed in _CLOSED_IPV6)


def refuse_unless_public(host: str, address: str) -> None:
    """Raise TargetRefused if ``address``, to which ``host`` resolves, is not public.

    The message leaves the address out: it may tell of a network that is not the
    reader's.
    """
    if not is_public_address(address):
        raise TargetRefused(f"{host} resolves to an address that is not public; {_PRIVATE_ADVICE}")


def _split(url: str) -> SplitResult:
    _check_length(url)
    # Before urlsplit, which drops tabs, line ends and leading spaces unasked.
    if any(unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in url):
        raise TargetRefused("The target URL holds a space or control character; percent-encode it")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise TargetRefused("The target URL is malformed; write https://host/path") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
        raise TargetRefused("The target URL must be absolute and begin with http:// or https://")
    if "@" in parts.netloc:
        raise TargetRefused("The target URL holds credentials; remove what precedes the @")
    # Browsers read a backslash as a slash, others do not: two different hosts.
    if "\\" in url:
        raise TargetRefused("The target URL holds a backslash; folders are separated by /")
    return parts


def _check_length(url: str) -> None:
    if len(url) > MAX_URL_CHARACTERS:
        raise TargetRefused(
            f"The target URL is longer than {MAX_URL_CHARACTERS} characters; shorten it"
        )


def _port(scheme: str, digits: str | None) -> int:
    port = int(digits) if digits else _DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65535:
        raise TargetRefused(f"The target URL's port {port} is not between 1 and 65535")
    return port


def _ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError as error:
        raise TargetRefused("The target URL's brackets hold no IPv6 address") from error


def _name_or_ipv4(text: str) -> str:
    """Return the host in the form the resolver and TLS get to see (UTS 46, RFC 5891)."""
    if len(text) > _MAX_HOST_CHARACTERS + 1:
        raise TargetRefused(f"The target URL's host is over {_MAX_HOST_CHARACTERS} characters")
    if not text.isascii():
        # Full-width digits and dots become 127.0.0.1 here, and are judged below.
        try:
            text = idna.encode(text, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise TargetRefused("The target URL's host is not a valid domain name") from error
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > _MAX_HOST_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        raise TargetRefused("The target URL's host is not a valid domain name")
    if not _NUMERIC_LABEL.fullmatch(labels[-1]):
        return host
    try:
        return str(IPv4Address(host))
    except ValueError as error:
        raise TargetRefused(
            "The target URL's host looks like an IPv4 address; write four decimal numbers"
        ) from error


def _is_closed_literal(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 section 6.3
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return not is_public_address(address)
