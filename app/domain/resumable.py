"""What Resumable.js and flow.js say of a chunk, and how they cut files.

Clients: resumable.js 1.1 (npm ``resumablejs``) and flow.js 2 (npm
``@flowjs/flow.js``). Chunk numbers are as on the wire here, counted from 1;
``protocols/resumable.py`` turns them into part indexes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from app.domain.media_types import media_type
from app.domain.parts import Geometry
from app.errors import InvalidField, MalformedRequest

#: SQL's BIGINT and every file system's offsets end here.
_MAX_INTEGER = 2**63 - 1
_INTEGER = re.compile(r"[0-9]{1,19}")

#: Browsers' default is size and name; an application's own may be a long path.
MAX_IDENTIFIER_BYTES = 4096

#: Longer keys are hashed: PostgreSQL cannot index more than 2,704 bytes a row.
_MAX_PLAIN_KEY_BYTES = 512


class Field(StrEnum):
    """What a request may say of its chunk; the wire's names without their prefix."""

    CHUNK_NUMBER = "ChunkNumber"
    CHUNK_SIZE = "ChunkSize"
    CURRENT_CHUNK_SIZE = "CurrentChunkSize"
    TOTAL_SIZE = "TotalSize"
    TYPE = "Type"
    IDENTIFIER = "Identifier"
    FILENAME = "Filename"
    RELATIVE_PATH = "RelativePath"
    TOTAL_CHUNKS = "TotalChunks"


#: resumable.js's options that rename a field.
_RENAMING_OPTIONS = {
    "chunkNumberParameterName": Field.CHUNK_NUMBER,
    "chunkSizeParameterName": Field.CHUNK_SIZE,
    "currentChunkSizeParameterName": Field.CURRENT_CHUNK_SIZE,
    "totalSizeParameterName": Field.TOTAL_SIZE,
    "typeParameterName": Field.TYPE,
    "identifierParameterName": Field.IDENTIFIER,
    "fileNameParameterName": Field.FILENAME,
    "relativePathParameterName": Field.RELATIVE_PATH,
    "totalChunksParameterName": Field.TOTAL_CHUNKS,
}
_NAMESPACE_OPTION = "parameterNamespace"
_FILE_OPTION = "fileParameterName"

#: What both clients call the part of a form that holds the bytes.
_DEFAULT_FILE_NAME = "file"

#: All options of the client that ``FieldNames.of`` understands.
OPTIONS = frozenset({*_RENAMING_OPTIONS, _NAMESPACE_OPTION, _FILE_OPTION})


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What fields are called on the wire: name → field, and the names of the file's part."""

    fields: Mapping[str, Field]
    files: frozenset[str]

    @classmethod
    def of(cls, options: Mapping[str, str]) -> FieldNames:
        """Return the names that a client with these ``options`` uses, and flow.js's.

        Raises ValueError for an unknown option, and where two fields would have one name.
        """
        if unknown := set(options) - OPTIONS:
            raise ValueError(f"unknown options: {', '.join(sorted(unknown))}")
        namespace = options.get(_NAMESPACE_OPTION, "")
        names = {
            namespace + options.get(option, f"resumable{field}"): field
            for option, field in _RENAMING_OPTIONS.items()
        }
        files = {namespace + options.get(_FILE_OPTION, _DEFAULT_FILE_NAME), _DEFAULT_FILE_NAME}
        if len(names) < len(Field) or files & names.keys():
            raise ValueError("two fields of one name")
        return cls({f"flow{field}": field for field in Field} | names, frozenset(files))


@dataclass(frozen=True, slots=True)
class ChunkFields:
    """The fields of one request, checked one by one. Sizes in bytes; None: not given."""

    chunk_number: int
    chunk_size: int
    total_size: int
    identifier: str
    filename: str
    relative_path: str | None
    content_type: str | None
    current_chunk_size: int | None
    total_chunks: int | None


class FieldCollector:
    """Gathers the fields of a request from its query and its form."""

    def __init__(self, names: FieldNames) -> None:
        self._names = names
        self._values: dict[Field, str] = {}

    def add(self, name: str, value: str) -> None:
        """Take note of a field; names that mean nothing here are ignored.

        Raises MalformedRequest where a field is given twice and differs.
        """
        field = self._names.fields.get(name)
        if field is not None and self._values.setdefault(field, value) != value:
            raise MalformedRequest(f"{field} is given twice, with different values")

    def add_all(self, fields: Iterable[tuple[str, str]]) -> None:
        """``add`` each of them."""
        for name, value in fields:
            self.add(name, value)

    @property
    def is_complete(self) -> bool:
        """True when nothing more is needed to know where the bytes go."""
        return _REQUIRED <= self._values.keys()

    def fields(self, body_type: str | None = None) -> ChunkFields:
        """Return what was gathered; ``body_type`` where no field has told the file's type.

        Raises InvalidField.
        """
        return ChunkFields(
            chunk_number=self._integer(Field.CHUNK_NUMBER, at_least=1),
            chunk_size=self._integer(Field.CHUNK_SIZE, at_least=1),
            total_size=self._integer(Field.TOTAL_SIZE),
            identifier=self._identifier(),
            filename=self._text(Field.FILENAME),
            relative_path=self._values.get(Field.RELATIVE_PATH) or None,
            content_type=media_type(self._values.get(Field.TYPE) or body_type),
            current_chunk_size=self._optional_integer(Field.CURRENT_CHUNK_SIZE),
            total_chunks=self._optional_integer(Field.TOTAL_CHUNKS),
        )

    def _text(self, field: Field) -> str:
        value = self._values.get(field)
        if not value:
            raise InvalidField(field, "is required")
        return value

    def _integer(self, field: Field, at_least: int = 0) -> int:
        text = self._text(field)
        value = int(text) if _INTEGER.fullmatch(text) else -1
        if not at_least <= value <= _MAX_INTEGER:
            raise InvalidField(field, f"must be a decimal integer >= {at_least}")
        return value

    def _optional_integer(self, field: Field) -> int | None:
        return self._integer(field) if field in self._values else None

    def _identifier(self) -> str:
        identifier = self._text(Field.IDENTIFIER)
        if "\0" in identifier or len(identifier.encode()) > MAX_IDENTIFIER_BYTES:
            raise InvalidField(
                Field.IDENTIFIER, f"must be at most {MAX_IDENTIFIER_BYTES} bytes, without NUL"
            )
        return identifier


_REQUIRED = frozenset(
    {
        Field.CHUNK_NUMBER,
        Field.CHUNK_SIZE,
        Field.TOTAL_SIZE,
        Field.IDENTIFIER,
        Field.FILENAME,
    }
)


def chunk_counts(total_size: int, chunk_size: int) -> tuple[int, int]:
    """Return into how many chunks a file may be cut: unforced, and with ``forceChunkSize``.

    Both clients round down, so that the last chunk has the rest as well and is
    up to twice a chunk, or with ``forceChunkSize`` up, so that it is the rest;
    a file has one chunk at least, be it empty.
    """
    return max(total_size // chunk_size, 1), max(-(-total_size // chunk_size), 1)


def told_chunk_count(fields: ChunkFields, length: int | None) -> int | None:
    """Return into how many chunks the client has cut the file, None if nothing tells.

    TotalChunks decides. Without it a chunk tells that only one of the ways to
    cut has, or has with this ``length`` in bytes (None: not known, then
    CurrentChunkSize tells). Raises InvalidField where neither way fits.
    """
    unforced, forced = chunk_counts(fields.total_size, fields.chunk_size)
    if fields.total_chunks is not None:
        if fields.total_chunks not in (unforced, forced):
            raise InvalidField(
                Field.TOTAL_CHUNKS,
                f"must be {unforced}, or {forced} with forceChunkSize, for this size",
            )
        return fields.total_chunks
    if fields.chunk_number > forced:
        raise InvalidField(Field.CHUNK_NUMBER, f"must be at most {forced}")
    if unforced == forced or fields.chunk_number == forced:
        return forced
    length = fields.current_chunk_size if fields.current_chunk_size is not None else length
    if fields.chunk_number == unforced and length is not None:
        return forced if length == fields.chunk_size else unforced
    return None


def geometry(fields: ChunkFields, chunk_count: int) -> Geometry:
    """Return how the file is cut into ``chunk_count`` chunks.

    Chunk i begins at (i - 1) * ChunkSize and has ChunkSize bytes, the last one
    the rest. Raises InvalidField for a chunk that this file does not have.
    """
    if fields.chunk_number > chunk_count:
        raise InvalidField(Field.CHUNK_NUMBER, f"must be at most {chunk_count}")
    return Geometry(fields.total_size, fields.chunk_size, chunk_count)


def possible_lengths(fields: ChunkFields) -> frozenset[int]:
    """Return what lengths a chunk may have, whichever way the file is cut."""
    counts = {told_chunk_count(fields, None)} - {None} or {
        count
        for count in chunk_counts(fields.total_size, fields.chunk_size)
        if fields.chunk_number <= count
    }
    return frozenset(
        geometry(fields, count).span(fields.chunk_number - 1).length
        for count in counts
        if count is not None
    )


def client_key(fields: ChunkFields, directory: str) -> str:
    """Return under which key the ledger knows the upload that a request means.

    Sizes are part of it: clients with different chunk sizes must not touch each
    other's bytes. So is the directory of the session: a file sent to two places
    is two files. Long keys are hashed; none equals another one's hash, which
    has no slash.
    """
    key = f"{fields.total_size}/{fields.chunk_size}/{len(directory)}/{directory}{fields.identifier}"
    if len(key.encode()) <= _MAX_PLAIN_KEY_BYTES:
        return key
    return f"sha256:{sha256(key.encode()).hexdigest()}"
