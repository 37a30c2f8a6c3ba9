"""What a tus request promises of its body, in front of it or behind it."""

from __future__ import annotations

from collections.abc import Mapping

from werkzeug.datastructures import Headers

from app.domain.checksums import ALGORITHMS, Checksum
from app.errors import DigestMismatch, MalformedRequest
from app.protocols.tus_headers import announces_checksum, parse_checksum
from app.uploads.growing import Verification

_HEADER = "Upload-Checksum"


class _Promised:
    """A checksum that came before the body."""

    def __init__(self, checksum: Checksum) -> None:
        self._checksum = checksum
        self._hasher = ALGORITHMS[checksum.algorithm]()
        self.update = self._hasher.update

    def require_match(self, _trailers: Mapping[str, str]) -> None:
        if not self._checksum.is_of(self._hasher):
            raise DigestMismatch(_HEADER)


class _Announced:
    """A checksum that will come behind the body, by an algorithm nobody knows yet."""

    def __init__(self) -> None:
        self._hashers = {name: make() for name, make in ALGORITHMS.items()}

    def update(self, data: memoryview, /) -> None:
        for hasher in self._hashers.values():
            hasher.update(data)

    def require_match(self, trailers: Mapping[str, str]) -> None:
        header = trailers.get(_HEADER.lower())
        if header is None:
            raise MalformedRequest(f"{_HEADER} was announced as a trailer and did not come")
        checksum = parse_checksum(header)
        if not checksum.is_of(self._hashers[checksum.algorithm]):
            raise DigestMismatch(_HEADER)


def verification(headers: Headers) -> Verification | None:
    """Return what a request's body is to be compared with, None if nothing was promised.

    Raises MalformedRequest.
    """
    header, announced = headers.get(_HEADER), announces_checksum(headers.get("Trailer"))
    if header is not None and announced:
        raise MalformedRequest(f"{_HEADER} comes as a header or as a trailer, not as both")
    if announced:
        return _Announced()
    return None if header is None else _Promised(parse_checksum(header))
