"""Absolute URLs: as clients reach the server, through proxies or not; no client invents them."""

from __future__ import annotations

import pytest
from flask import Flask, request
from pydantic import SecretStr

from app.protocols.urls import absolute_url
from app.settings import Settings

PROXY = "10.1.2.3"
PATH = "/download/1"


def settings(**changed: str) -> Settings:
    secrets = {"api_key": SecretStr("key"), "jwt_secret": SecretStr("secret")}
    return Settings(**{"trusted_proxies": "10.0.0.0/8,::1", **secrets, **changed})  # type: ignore[arg-type]


def url(peer: str = PROXY, *, path: str = PATH, base_url: str = "", **headers: str) -> str:
    """Return the URL of a path as a request with these headers from a peer is answered."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Host", "inside:3000")
    with Flask("test").test_request_context(headers=named, environ_base={"REMOTE_ADDR": peer}):
        return absolute_url(request, settings(base_url=base_url), path)


def test_without_proxies_it_is_what_the_client_has_called() -> None:
    assert url("192.0.2.1", Host="files.example.com") == "http://files.example.com/download/1"
    assert url("192.0.2.1", Host="[2001:db8::1]:3000") == "http://[2001:db8::1]:3000/download/1"


def test_a_host_of_a_container_network_may_have_underscores() -> None:
    assert url("192.0.2.1", Host="my_app:3000") == "http://my_app:3000/download/1"


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "a@b", "a?b", "a\\b", '"><script>', "[::1", "ü"]
)
def test_what_is_no_host_leaves_the_path(host: str) -> None:
    """Clients resolve it against what they have called; ``http:///download/1`` leads nowhere."""
    assert url("192.0.2.1", Host=host) == PATH
    assert url(Host=host, X_Forwarded_Prefix="/up") == f"/up{PATH}"
    assert url(Host=host, X_Forwarded_Host="a.example.com") == f"http://a.example.com{PATH}"


def test_the_setting_wins() -> None:
    told = {"X_Forwarded_Host": "other.example.com", "X_Forwarded_Proto": "http"}
    got = url(base_url="https://files.example.com/up/", **told)
    assert got == "https://files.example.com/up/download/1"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X_Forwarded_Proto": "https"}, "https://inside:3000"),
        ({"X_Forwarded_Host": "a.example.com"}, "http://a.example.com"),
        (
            {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "a.example.com:8443"},
            "https://a.example.com:8443",
        ),
        (
            {"X_Forwarded_Proto": "HTTPS", "X_Forwarded_Host": "a.com", "X_Forwarded_Port": "8443"},
            "https://a.com:8443",
        ),
        (
            {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "a.com", "X_Forwarded_Port": "443"},
            "https://a.com",
        ),
        ({"X_Forwarded_Host": "a.com", "X_Forwarded_Port": "80"}, "http://a.com"),
        ({"X_Forwarded_Host": "a.com:81", "X_Forwarded_Port": "82"}, "http://a.com:81"),
        (
            {"X_Forwarded_Host": "[2001:db8::1]", "X_Forwarded_Port": "82"},
            "http://[2001:db8::1]:82",
        ),
        ({"X_Forwarded_Prefix": "/uploads"}, "http://inside:3000/uploads"),
        ({"X_Forwarded_Prefix": "/a/b/"}, "http://inside:3000/a/b"),
        ({"Forwarded": "for=1.2.3.4;proto=https;host=a.example.com"}, "https://a.example.com"),
        (
            {"Forwarded": 'proto=https; host="[2001:db8::1]:8443"; by=x'},
            "https://[2001:db8::1]:8443",
        ),
        ({"Forwarded": "Host=a.com;Proto=https"}, "https://a.com"),
        ({"Forwarded": "proto=https;host=a.com:8443"}, "https://a.com:8443"),
        ({"Forwarded": "for=1.2.3.4"}, "http://inside:3000"),
        # The standard one wins.
        ({"Forwarded": "host=a.com", "X_Forwarded_Host": "b.com"}, "http://a.com"),
    ],
    ids=str,
)
def test_a_trusted_proxy_is_believed(headers: dict[str, str], expected: str) -> None:
    assert url(**headers) == expected + PATH


@pytest.mark.parametrize("peer", ["192.0.2.1", "2001:db8::9", "", "unix:"])
@pytest.mark.parametrize(
    "headers",
    [
        {"X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "https"},
        {"X_Forwarded_Prefix": "/evil"},
        {"Forwarded": "host=evil.example;proto=https"},
    ],
    ids=str,
)
def test_nobody_else_is_believed(peer: str, headers: dict[str, str]) -> None:
    assert url(peer, **headers) == "http://inside:3000/download/1"


@pytest.mark.parametrize("peer", [PROXY, "::ffff:10.1.2.3", "::1"])
def test_a_proxy_is_known_by_its_address_however_it_is_written(peer: str) -> None:
    assert url(peer, X_Forwarded_Host="a.com") == "http://a.com/download/1"


def test_of_several_entries_the_last_one_counts_which_our_proxy_has_written() -> None:
    told = {"X_Forwarded_Host": "evil.example, a.com", "X_Forwarded_Proto": "http, https"}
    assert url(**told) == "https://a.com/download/1"
    assert url(Forwarded="host=evil.example, for=1.2.3.4;host=a.com") == "http://a.com/download/1"


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Forwarded_Host": "a.com/evil"},
        {"X_Forwarded_Host": "user@evil.example"},
        {"X_Forwarded_Host": "evil example"},
        {"X_Forwarded_Host": "[::1"},
        {"X_Forwarded_Host": ""},
        {"X_Forwarded_Proto": "javascript"},
        {"X_Forwarded_Prefix": "//evil.example"},
        {"X_Forwarded_Prefix": "/a?b"},
        {"X_Forwarded_Prefix": "a"},
        {"X_Forwarded_Port": "22"},
        {"Forwarded": "host=a.com/evil;proto=gopher"},
        {"Forwarded": ";;;===,,"},
    ],
    ids=str,
)
def test_what_cannot_be_part_of_an_url_is_left_out(headers: dict[str, str]) -> None:
    assert url(**headers) == "http://inside:3000/download/1"
