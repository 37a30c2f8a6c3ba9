"""What values settings may hold: how each kind is read, and how its limits are told.

Every type carries an ``Allowed``: the words that complete "it must be …" in the
error message. Parsers raise ValueError; ``settings`` turns that into one line.
Nothing here reads the environment or touches a disk.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from app.domain.access import SESSION_PROTOCOLS
from app.domain.names import STAGING_DIRECTORY
from app.domain.resumable import FieldNames

_POSTGRESQL = re.compile(r"(?:postgres|postgresql|postgresql\+psycopg)://(?P<rest>.+)")

#: RFC 6454 section 6.2: scheme, host and port, nothing behind them.
_ORIGIN = re.compile(r"\*|null|[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a setting may hold, in the words of the error message."""

    text: str


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; an IPv6 host comes in brackets and leaves without.

    Raises ValueError on anything else, a missing host included.
    """
    host, _, port = address.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise ValueError("no host")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("no port")
    return host, int(port)


def local_url(address: str) -> str:
    """Return the URL by which somebody on this machine reaches a server on ``host:port``."""
    host, port = split_address(address)
    if host in {"0.0.0.0", "::"}:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def database_uri(value: str) -> str:
    """Return SQLAlchemy's URI of a DATABASE_URL.

    A value without a scheme is the path of a SQLite file, made absolute because
    Flask-SQLAlchemy resolves relative ones against the instance folder. In-memory
    databases are refused: each worker would have its own, lost at the end.
    """
    value = value.strip()
    if postgresql := _POSTGRESQL.fullmatch(value):
        return f"postgresql+psycopg://{postgresql['rest']}"
    path = value.removeprefix("sqlite:///")
    # In the URI a question mark would begin options, a percent sign an escape.
    if path in {"", ":memory:"} or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|.*[?%\0]", path, re.DOTALL):
        raise ValueError("not a database")
    return f"sqlite:///{Path(path).expanduser().absolute()}"


def lowered(value: object) -> object:
    """Return text in lower case and without blanks around it, anything else as it is."""
    return value.strip().lower() if isinstance(value, str) else value


def stripped(value: object) -> object:
    """Return text without blanks around it, anything else as it is."""
    return value.strip() if isinstance(value, str) else value


def _level(value: object) -> object:
    return {"warn": "warning", "trace": "debug"}.get(str(lowered(value)), lowered(value))


def _size_bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]{1,19})([KMGT]?)", value.strip().upper())
    if match is None:
        raise ValueError("not a size")
    return int(match[1]) * 1024 ** " KMGT".index(match[2] or " ")


def _file_mode(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"(?:0o)?[0-7]{3,4}", value.strip()):
        value = int(value.strip().removeprefix("0o"), 8)
    # The server itself must be able to write its files and to read them back.
    if type(value) is not int or value & ~0o777 or value & 0o600 != 0o600:
        raise ValueError("not a mode")
    return value


def _origins(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "none":
        return ()
    # Browsers send origins without the slash that people copy along.
    origins = tuple(part.strip().removesuffix("/") for part in value.split(",") if part.strip())
    if not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("not an origin")
    return origins


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(ipaddress.ip_network(word, strict=False) for word in _words(value))


def _protocols(value: object) -> object:
    names = frozenset(word.lower() for word in _words(value)) if isinstance(value, str) else value
    if isinstance(names, frozenset) and not names <= SESSION_PROTOCOLS:
        raise ValueError("not a protocol")
    return names


def _resumable_parameters(value: object) -> object:
    if isinstance(value, str):
        pairs = [word.partition("=") for word in _words(value)]
        options = {option.strip(): name.strip() for option, _, name in pairs}
        FieldNames.of(options)  # raises ValueError
        return tuple(options.items())
    return value


def _base_url(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^/?#\s@]+(?:/[^?#\s]*)?", value):
        raise ValueError("not a base URL")
    return value.rstrip("/")


def _share_path(value: str) -> str:
    """Return a path on a share with ``/`` between its folders, whichever slash was used."""
    folders = [folder for folder in re.split(r"[/\\]", value.strip()) if folder]
    for folder in folders:
        # What an SMB server refuses in a name, and what would leave the folder.
        if re.search(r'["*:<>?|\x00-\x1f]|[ .]$', folder) or folder.lower() == STAGING_DIRECTORY:
            raise ValueError("not a path on a share")
    return "/".join(folders)


def _address(value: str) -> str:
    split_address(value)
    return value.strip()


def _database_url(value: SecretStr) -> SecretStr:
    return SecretStr(database_uri(value.get_secret_value()))


def _database_path(value: str) -> str:
    return database_uri(f"sqlite:///{value}").removeprefix("sqlite:///")


def _directory(value: str) -> str:
    if "\0" in value:
        raise ValueError("NUL in a path")
    return os.path.expanduser(value).rstrip("/") or "/"


Secret = Annotated[
    SecretStr, BeforeValidator(stripped), Field(min_length=1), Allowed("at least 1 character")
]
Count = Annotated[int, Field(ge=1), Allowed("a whole number, at least 1")]
Seconds = Annotated[
    float, Field(gt=0, allow_inf_nan=False), Allowed("a number of seconds above 0, such as 10")
]
SecondsOrZero = Annotated[
    float, Field(ge=0, allow_inf_nan=False), Allowed("a number of seconds, 0 or more")
]
WholeSeconds = Annotated[int, Field(ge=1), Allowed("a whole number of seconds, at least 1")]
Hours = Annotated[
    float,
    # A hundred years: dates beyond the year 9999 cannot be computed.
    Field(gt=0, le=876_000, allow_inf_nan=False),
    Allowed("a number of hours above 0, such as 24 or 0.5"),
]
Size = Annotated[
    int,
    BeforeValidator(_size_bytes),
    Field(ge=0, lt=2**63),
    Allowed("a whole number of bytes, 0 or more; K, M, G or T behind it multiply by 1024"),
]
Switch = Annotated[bool, Allowed("on or off (true or false, 1 or 0)")]
Port = Annotated[int, Field(ge=1, le=65535), Allowed("a port from 1 to 65535")]
Address = Annotated[
    str,
    AfterValidator(_address),
    Allowed("host:port, such as 0.0.0.0:3000 or [::]:3000, with a port from 1 to 65535"),
]
Directory = Annotated[str, AfterValidator(_directory), Allowed("the path of a directory")]
DatabasePath = Annotated[
    str, AfterValidator(_database_path), Allowed("the path of a SQLite file, without ? and %")
]
DatabaseUrl = Annotated[
    SecretStr,
    AfterValidator(_database_url),
    Allowed("postgresql://user:password@host/name, sqlite:///path, or the path of a SQLite file"),
]
FileMode = Annotated[
    int,
    BeforeValidator(_file_mode),
    Allowed("an octal mode in which the owner can read and write, such as 0640"),
]
Origins = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_origins),
    Allowed("*, none, or origins such as https://app.example.com separated by commas"),
]
BaseUrl = Annotated[
    str,
    AfterValidator(_base_url),
    Allowed("an http or https URL without a query, such as https://uploads.example.com"),
]
Networks = Annotated[
    tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...],
    NoDecode,
    BeforeValidator(_networks),
    Allowed("addresses or networks such as 10.0.0.0/8 separated by commas"),
]
Protocols = Annotated[
    frozenset[str],
    NoDecode,
    BeforeValidator(_protocols),
    Allowed(f"names out of {', '.join(sorted(SESSION_PROTOCOLS))}, separated by commas"),
]
ResumableParameters = Annotated[
    tuple[tuple[str, str], ...],
    NoDecode,
    BeforeValidator(_resumable_parameters),
    Allowed(
        "options of resumable.js with their values, such as "
        "parameterNamespace=up_,fileParameterName=data"
    ),
]
Backend = Annotated[
    Literal["local", "smb", "s3"], BeforeValidator(lowered), Allowed("local, smb or s3")
]
Host = Annotated[
    str,
    BeforeValidator(stripped),
    Field(pattern=r"^[A-Za-z0-9._:-]+$"),
    Allowed("a host name or an address, without a port"),
]
Word = Annotated[
    str, BeforeValidator(stripped), Field(pattern=r"^\P{C}*$"), Allowed("text in one line")
]
Password = Annotated[SecretStr, Allowed("a password")]
ShareName = Annotated[
    str,
    BeforeValidator(stripped),
    Field(pattern=r"^[^/\\\p{C}]+$"),
    Allowed("the name of a share, without slashes; folders in it go to SMB_PATH"),
]
SharePath = Annotated[
    str,
    AfterValidator(_share_path),
    Allowed('a path of folders on the share, without " * : < > ? | and .. in it'),
]
Encryption = Annotated[
    Literal["auto", "required", "off"], BeforeValidator(lowered), Allowed("auto, required or off")
]
Durability = Annotated[
    Literal["strict", "relaxed"], BeforeValidator(lowered), Allowed("strict or relaxed")
]
LogLevel = Annotated[
    Literal["error", "warning", "info", "debug"],
    BeforeValidator(_level),
    Allowed("error, warn, info, debug or trace"),
]
LogFormat = Annotated[
    Literal["json", "console"], BeforeValidator(lowered), Allowed("json or console")
]
