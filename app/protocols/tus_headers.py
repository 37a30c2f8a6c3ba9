"""The header fields of tus 1.0.0, parsed without I/O.

Each function is headed by what the specification says of its field, in our
words, and where. All raise MalformedRequest on anything else.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.domain.checksums import ALGORITHMS, Checksum
from app.errors import MalformedRequest, UnknownContentType, UnknownVersion

#: What this server speaks, the most preferred first ("Tus-Version").
VERSIONS = ("1.0.0",)

CONTENT_TYPE = "application/offset+octet-stream"

#: Larger numbers fit neither a file system nor a BIGINT; more digits are no length at all.
MAX_BYTES = 2**63 - 1

_NUMBER = re.compile(r"[0-9]+")

#: A key is not empty and holds no space and no comma ("Upload-Metadata"); control
#: characters would only serve those who smuggle headers.
_KEY = re.compile(r"[^\s,\x00-\x20\x7f]+")
_BLANKS = " \t"

#: RFC 3986: where an URL's path ends.
_QUERY_OR_FRAGMENT = re.compile(r"[?#].*")


def require_version(header: str | None) -> None:
    """Every request but OPTIONS names the version it speaks; another one gets 412.

    Core Protocol, Headers, "Tus-Resumable". Raises UnknownVersion.
    """
    if header is None or header.strip(_BLANKS) not in VERSIONS:
        raise UnknownVersion(
            f"Tus-Resumable must be one of: {', '.join(VERSIONS)}; nothing was done"
        )


def parse_number(name: str, header: str) -> int:
    """Lengths and offsets are non-negative integers.

    Core Protocol, Headers, "Upload-Offset" and "Upload-Length". Numbers beyond
    MAX_BYTES come back as one more: larger than anything, and as wrong.
    """
    text = header.strip(_BLANKS)
    if not _NUMBER.fullmatch(text):
        raise MalformedRequest(f"{name} must be a decimal number of bytes")
    if len(text.lstrip("0")) > len(str(MAX_BYTES)):  # int() refuses more than 4,300 digits
        return MAX_BYTES + 1
    return min(int(text), MAX_BYTES + 1)


def parse_length(length: str | None, defer_length: str | None) -> int | None:
    """A new upload tells its length, or that it will tell it later by ``1``; one of the two.

    Creation, Requests, "POST", and Headers, "Upload-Defer-Length". Returns
    bytes, None where it is deferred.
    """
    if defer_length is not None:
        if defer_length.strip(_BLANKS) != "1":
            raise MalformedRequest("Upload-Defer-Length must be 1")
        if length is not None:
            raise MalformedRequest("Upload-Length and Upload-Defer-Length exclude each other")
        return None
    if length is None:
        raise MalformedRequest("Upload-Length or Upload-Defer-Length: 1 is required")
    return parse_number("Upload-Length", length)


def parse_metadata(header: str | None) -> dict[str, bytes]:
    """Pairs are separated by commas, key and base64 value by a space; a value may be empty.

    Creation, Headers, "Upload-Metadata": keys are unique, not empty, without
    spaces and commas. An empty field has no pairs (tuspy sends one).
    """
    found: dict[str, bytes] = {}
    text = (header or "").strip(_BLANKS)
    for pair in text.split(",") if text else ():
        key, _, encoded = pair.strip(_BLANKS).partition(" ")
        if not _KEY.fullmatch(key):
            raise MalformedRequest("Upload-Metadata has an empty or malformed key")
        if key in found:
            raise MalformedRequest(f"Upload-Metadata has the key {key!r} twice")
        try:
            found[key] = base64.b64decode(encoded.strip(_BLANKS), validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedRequest(
                f"Upload-Metadata: the value of {key!r} is not base64"
            ) from error
    return found


def metadata_text(metadata: Mapping[str, bytes], *keys: str) -> str | None:
    """Return the value of the first of ``keys`` that is there and not empty, as UTF-8 text."""
    for key in keys:
        if value := metadata.get(key):
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise MalformedRequest(f"Upload-Metadata: {key!r} is not UTF-8 text") from error
    return None


def metadata_json(metadata: Mapping[str, bytes]) -> dict[str, str]:
    """Return metadata as it can be kept in JSON: text, where it is none its base64."""
    return {key: _text_or_base64(value) for key, value in metadata.items()}


@dataclass(frozen=True, slots=True)
class Concat:
    """A part of another upload, or (``partial_ids``) one that is made of others, in order."""

    partial_ids: tuple[str, ...] | None


def parse_concat(header: str | None) -> Concat | None:
    """``partial``; or ``final``, a semicolon and URLs, absolute or relative, separated by spaces.

    Concatenation, Headers, "Upload-Concat". The same URL may come twice.
    """
    if header is None:
        return None
    text = header.strip(_BLANKS)
    if text == "partial":
        return Concat(None)
    kind, semicolon, urls = text.partition(";")
    if kind.rstrip(_BLANKS) != "final" or not semicolon or not urls.split():
        raise MalformedRequest("Upload-Concat must be partial, or final; and URLs of partials")
    return Concat(tuple(_upload_id(url) for url in urls.split()))


def parse_checksum(header: str) -> Checksum:
    """The algorithm's name, a space, and the digest in base64.

    Checksum, Headers, "Upload-Checksum". An algorithm this server does not have
    is malformed too: the specification has 400 for it.
    """
    algorithm, _, encoded = header.strip(_BLANKS).partition(" ")
    if algorithm not in ALGORITHMS:
        raise MalformedRequest(
            f"Upload-Checksum: the algorithm must be one of {', '.join(ALGORITHMS)}"
        )
    try:
        digest = base64.b64decode(encoded.strip(_BLANKS), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest("Upload-Checksum: the digest is not base64") from error
    if len(digest) != len(ALGORITHMS[algorithm]().digest()):
        raise MalformedRequest(f"Upload-Checksum: a digest by {algorithm} has another length")
    return Checksum(algorithm, digest)


def announces_checksum(trailer: str | None) -> bool:
    """A checksum may come behind the body, if the request announces it.

    Checksum; RFC 9110 section 6.6.2: ``Trailer`` lists the fields to come.
    """
    names = (name.strip(_BLANKS).lower() for name in (trailer or "").split(","))
    return "upload-checksum" in names


def require_content_type(header: str | None) -> None:
    """Bodies have the type ``application/offset+octet-stream``; others get 415.

    Core Protocol, Requests, "PATCH". Raises UnknownContentType.
    """
    media = (header or "").partition(";")[0].strip(_BLANKS).lower()
    if media != CONTENT_TYPE:
        raise UnknownContentType(f"Content-Type must be {CONTENT_TYPE}")


def _text_or_base64(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode("ascii")


def _upload_id(url: str) -> str:
    """Return the last segment of an URL's path: it names the upload, whatever host and prefix."""
    segment = _QUERY_OR_FRAGMENT.sub("", url).rstrip("/").rpartition("/")[2]
    if not segment:
        raise MalformedRequest("Upload-Concat names an URL that is none of an upload")
    return segment
