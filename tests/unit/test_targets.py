"""Addresses to call: which URLs are taken, and which addresses are public."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from app.domain.targets import (
    MAX_URL_CHARACTERS,
    Target,
    is_public_address,
    parse_target,
    refuse_unless_public,
)
from app.errors import TargetRefused

# What Python calls unfit for the internet, asked as widely as it can answer.
# Its table of globally reachable blocks differs between releases; these do not.
CLOSED_NETWORKS = [
    *map(IPv4Network, ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8")),
    *map(IPv4Network, ("169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")),
    *map(IPv4Network, ("198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4")),
    *map(IPv6Network, ("::/96", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8")),
    *map(IPv6Network, ("2001::/32", "2001:db8::/32", "64:ff9b:1::/48", "100::/64")),
]

#: A busy machine is no failure of these functions.
UNTIMED = settings(deadline=None)

closed_addresses = st.sampled_from(CLOSED_NETWORKS).flatmap(
    lambda network: st.ip_addresses(network=network)
)
ipv4_addresses = st.ip_addresses(v=4)


def embeddings(address: IPv4Address) -> list[IPv6Address]:
    """Return the IPv6 addresses behind which ``address`` may be reached."""
    return [
        IPv6Address(f"::ffff:{address}"),
        IPv6Address(f"64:ff9b::{address}"),
        IPv6Address(int(IPv6Address("2002::")) | int(address) << 80),
    ]


@UNTIMED
@given(closed_addresses)
@example(IPv4Address("169.254.169.254"))
@example(IPv6Address("fd00:ec2::254"))
@example(IPv4Address("255.255.255.255"))
@example(IPv6Address("::"))
@example(IPv6Address("::1"))
def test_addresses_of_closed_networks_are_not_public(address: IPv4Address | IPv6Address) -> None:
    assert not is_public_address(address)
    assert not is_public_address(str(address))


@UNTIMED
@given(st.ip_addresses())
def test_what_python_calls_unfit_is_never_public(address: IPv4Address | IPv6Address) -> None:
    # Python calls all mapped addresses private, older ones those of 6to4, too; they
    # are judged by their IPv4 below.
    assume(address.version == 4 or address.ipv4_mapped is None)
    assume(address not in IPv6Network("64:ff9b::/96"))
    assume(address not in IPv6Network("2002::/16"))
    unfit = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )
    assert not (unfit and is_public_address(address))


@UNTIMED
@given(ipv4_addresses)
@example(IPv4Address("127.0.0.1"))
@example(IPv4Address("10.0.0.1"))
@example(IPv4Address("93.184.216.34"))
def test_an_embedded_ipv4_address_is_judged_as_itself(address: IPv4Address) -> None:
    for embedding in embeddings(address):
        assert is_public_address(embedding) == is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.216.34",
        "172.15.255.255",
        "172.32.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "2606:4700:4700::1111",
        "2a00:1450:4001::1",
        "::ffff:8.8.8.8",
    ],
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.88.99.1",
        "2001::1",
        "3fff::1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "::127.0.0.1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fd20:ce::254",
        "4000::1",
    ],
)
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public_address(address)


@UNTIMED
@given(st.text())
@example("localhost")
@example("127.1")
@example("")
def test_text_that_is_no_address_is_not_public(text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        assert not is_public_address(text)


def test_a_url_is_taken_apart() -> None:
    target = parse_target("HTTPS://Hooks.Example.com:8443/in%20box/../é?a=b%20c")
    assert target == Target("https", "hooks.example.com", 8443, "/in%20box/../%C3%A9?a=b%20c")
    assert target.authority == "hooks.example.com:8443"
    assert target.url == "https://hooks.example.com:8443/in%20box/../%C3%A9?a=b%20c"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://example.com", "http://example.com/"),
        ("http://example.com:80", "http://example.com/"),
        ("https://example.com:443/x", "https://example.com/x"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("https://example.com:/x", "https://example.com/x"),
        ("https://example.com?q=1", "https://example.com/?q=1"),
        ("https://example.com/x#fragment", "https://example.com/x"),
        ("https://example.com./x", "https://example.com/x"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://straße.example/", "https://xn--strae-oqa.example/"),
        ("https://my_app.example:8080/", "https://my_app.example:8080/"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
        ("http://[2606:4700:4700:0::1111]:8080/x", "http://[2606:4700:4700::1111]:8080/x"),
        ("https://example.com/%7Ea%zz<b>", "https://example.com/%7Ea%zz%3Cb%3E"),
        ("https://example.com/x@y:z", "https://example.com/x@y:z"),
    ],
)
def test_a_url_is_brought_to_one_form(url: str, normal: str) -> None:
    target = parse_target(url)
    assert target.url == normal
    assert parse_target(normal) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "/path",
        "//example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "unix:///var/run/docker.sock",
        "javascript:alert(1)",
        "http:example.com",
        "http:/example.com",
        "http://",
        "http:///path",
        "http://?q",
        "http://:80/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:99999999/",
        "http://example.com:-1/",
        "http://example.com:\uff18\uff10/",
        "http://example.com:80:80/",
        "http://example.com:http/",
        "http://.example.com/",
        "http://example..com/",
        "http://example.com../",
        "http://./",
        "http://-example.com/",
        "http://exam%70le.com/",
        "http://exam!ple.com/",
        "http://exam*ple.com/",
        "http://example.com%00/",
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 127}example/",
        "http://xn--\N{LATIN SMALL LETTER U WITH DIAERESIS}.example/",
        "http://\N{SOFT HYPHEN}/",
        "http://example.com\N{FULLWIDTH SOLIDUS}evil.example/",
        "http://[::1/",
        "http://::1/",
        "http://[]/",
        "http://[example.com]/",
        "http://[v1.fe80]/",
        "http://[fe80::1%25eth0]/",
        "http://[1.2.3.4]/",
        "http://[2606:4700::1]evil.example/",
    ],
)
def test_what_is_no_absolute_http_url_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused):
        parse_target(url, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@example.com/",
        "http://secret@example.com/",
        "http://@example.com/",
        "http://example.com@secret.example/",
        "http://example.com:80\\@secret.example/",
    ],
)
def test_credentials_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(TargetRefused) as refused:
        parse_target(url)
    assert "secret" not in refused.value.message


@pytest.mark.parametrize("character", "\0\t\n\r\x0b\x1b\x7f\x85 \u00a0\u2028\u3000\ud800\\")
@pytest.mark.parametrize("template", ["{}http://example.com/", "http://exa{}mple.com/"])
def test_spaces_controls_and_backslashes_are_refused(template: str, character: str) -> None:
    with pytest.raises(TargetRefused):
        parse_target(template.format(character), allow_private=True)


@pytest.mark.parametrize("character", "\0\n\r \u2029\udfff\\")
def test_a_path_cannot_smuggle_a_line_into_the_request(character: str) -> None:
    with pytest.raises(TargetRefused):
        parse_target(f"http://example.com/a{character}b", allow_private=True)


def test_over_long_urls_are_refused_before_and_after_encoding() -> None:
    base = "http://example.com/"
    longest = base + "a" * (MAX_URL_CHARACTERS - len(base))
    assert parse_target(longest).url == longest
    with pytest.raises(TargetRefused, match="longer than 2048"):
        parse_target(longest + "a")
    with pytest.raises(TargetRefused, match="longer than 2048"):
        parse_target(base + "é" * 1000)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "127.8.9.10",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "app.localhost",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
        "\u246b7.0.0.1",
        "\u24dbocalhost",
    ],
)
def test_private_hosts_are_refused_unless_allowed(host: str) -> None:
    with pytest.raises(TargetRefused, match="ALLOW_PRIVATE_TARGETS"):
        parse_target(f"http://{host}:8080/hook")
    assert parse_target(f"http://{host}:8080/hook", allow_private=True).port == 8080


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "127.0.1",
        "0x7f000001",
        "0X7F.0.0.1",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.0x1",
        "127.0.0.01",
        "0",
        "0x",
        "1.2.3.4.5",
        "256.1.1.1",
        "example.123",
        "127.1.",
        "\u0663.example.1",
        "99999999999",
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_odd_forms_of_ipv4_are_refused_whatever_they_mean(host: str, allow_private: bool) -> None:
    with pytest.raises(TargetRefused):
        parse_target(f"http://{host}/", allow_private=allow_private)


@UNTIMED
@given(closed_addresses)
def test_literal_addresses_of_closed_networks_are_refused(
    address: IPv4Address | IPv6Address,
) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    with pytest.raises(TargetRefused):
        parse_target(f"https://{host}/")
    assert ip_address(parse_target(f"https://{host}/", allow_private=True).host) == address


@UNTIMED
@given(st.text(max_size=60), st.text(alphabet="/:@?#[]\\.%\uff101x", max_size=30))
def test_a_url_is_either_refused_or_harmless_on_the_wire(text: str, odd: str) -> None:
    for url in (text, f"http://{text}", f"http://{odd}", f"http://example.com/{text}{odd}"):
        try:
            target = parse_target(url)
        except TargetRefused:
            continue
        assert target.url.isascii()
        assert target.url.isprintable()
        assert " " not in target.url
        assert target.target.startswith("/")
        assert parse_target(target.url) == target


@pytest.mark.parametrize("address", ["127.0.0.1", "fd00::1", "nonsense"])
def test_a_name_is_refused_for_its_addresses_without_telling_them(address: str) -> None:
    with pytest.raises(TargetRefused, match=r"hooks\.example\.com") as refused:
        refuse_unless_public("hooks.example.com", address)
    assert address not in refused.value.message
    refuse_unless_public("hooks.example.com", "8.8.8.8")
