"""A client that sends what resumable.js and flow.js send, and can also misbehave."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.harness.native import KIB, TIMEOUT_SECONDS
from tests.harness.server import API_KEY, Server

#: As small as servers allow by default: small chunks are quick.
CHUNK_BYTES = 64 * KIB

PATH = "/api/upload"

_counter = itertools.count()


@dataclass
class File:
    """A file as a browser hands it to the client."""

    content: bytes
    name: str = "movie.mp4"
    relative_path: str | None = None
    type: str = "video/mp4"
    chunk_size: int = CHUNK_BYTES
    forced: bool = False
    #: Other files of a test never meet this one by chance.
    identifier: str = field(default_factory=lambda: f"file-{next(_counter)}")

    @property
    def count(self) -> int:
        """How many chunks it has."""
        rounded = len(self.content) + (self.chunk_size - 1 if self.forced else 0)
        return max(rounded // self.chunk_size, 1)

    @property
    def numbers(self) -> range:
        """The numbers of its chunks."""
        return range(1, self.count + 1)

    def chunk(self, number: int) -> bytes:
        """The bytes of a chunk."""
        begin = (number - 1) * self.chunk_size
        return self.content[begin : None if number == self.count else begin + self.chunk_size]

    def fields(self, number: int, prefix: str = "resumable", **changed: object) -> dict[str, str]:
        """What the client says of a chunk; a changed field that is None is left out."""
        fields: dict[str, object] = {
            "ChunkNumber": number,
            "ChunkSize": self.chunk_size,
            "CurrentChunkSize": len(self.chunk(number)),
            "TotalSize": len(self.content),
            "Type": None if prefix == "flow" else self.type,
            "Identifier": self.identifier,
            "Filename": self.name,
            "RelativePath": self.relative_path or self.name,
            "TotalChunks": self.count,
        } | changed
        return {prefix + name: str(value) for name, value in fields.items() if value is not None}


class Resumable:
    """Talks to a server. Methods that end in ``_raw`` return the response, whatever it is."""

    def __init__(self, server: Server, headers: dict[str, str] | None = None) -> None:
        self.server = server
        self.session = requests.Session()
        self.headers = {"X-API-Key": API_KEY} if headers is None else headers
        self.base_url = server.url

    @property
    def url(self) -> str:
        """The target of the client."""
        return self.base_url + PATH

    def request(self, method: str, **options: Any) -> requests.Response:
        """Send a request to the target with this client's credentials."""
        options["headers"] = self.headers | options.get("headers", {})
        options.setdefault("timeout", TIMEOUT_SECONDS)
        return self.session.request(method, self.url, **options)

    def test_raw(self, file: File, number: int, **changed: object) -> requests.Response:
        """Ask whether a chunk is stored."""
        return self.request("GET", params=file.fields(number, **changed))

    def octet_raw(
        self, file: File, number: int, data: Any = None, **changed: object
    ) -> requests.Response:
        """Send a chunk as a raw body, which may be another one than the file's."""
        return self.request(
            "POST",
            params=file.fields(number, **changed),
            data=file.chunk(number) if data is None else data,
            headers={"Content-Type": "application/octet-stream"},
        )

    def form_raw(
        self, file: File, number: int, data: bytes | None = None, **changed: object
    ) -> requests.Response:
        """Send a chunk as resumable.js does by default: fields in query and form, then the file."""
        fields = file.fields(number, **changed)
        return self.parts_raw([*fields.items()], file, number, data, params=fields)

    def parts_raw(
        self,
        before: list[tuple[str, str]],
        file: File,
        number: int,
        data: bytes | None = None,
        *,
        after: list[tuple[str, str]] | None = None,
        **options: Any,
    ) -> requests.Response:
        """Send a form with any fields before and after the file."""
        blob = ("blob", file.chunk(number) if data is None else data, "application/octet-stream")
        parts: list[tuple[str, Any]] = [(name, (None, value)) for name, value in before]
        parts.append(("file", blob))
        parts += [(name, (None, value)) for name, value in after or []]
        return self.request("POST", files=parts, **options)

    def test(self, file: File, number: int) -> bool:
        """Tell whether a chunk is stored."""
        response = self.test_raw(file, number)
        assert response.status_code in (200, 204), response.text
        assert response.status_code == 200 or not response.content
        return response.status_code == 200

    def octet(self, file: File, number: int) -> dict[str, Any]:
        """Store a chunk, which must succeed; return the answer."""
        return answer_of(self.octet_raw(file, number))

    def send_all(self, file: File) -> dict[str, Any]:
        """Store all chunks of a file; return the last answer."""
        answers = [self.octet(file, number) for number in file.numbers]
        return answers[-1]


def answer_of(response: requests.Response) -> dict[str, Any]:
    """Return the JSON of a response that must be a success."""
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
