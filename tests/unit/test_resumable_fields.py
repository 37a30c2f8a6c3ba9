"""What Resumable.js and flow.js say of a chunk: fields, geometry, and the key of its upload."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.domain.resumable import (
    MAX_IDENTIFIER_BYTES,
    ChunkFields,
    Field,
    FieldCollector,
    FieldNames,
    chunk_counts,
    client_key,
    geometry,
    possible_lengths,
    told_chunk_count,
)
from app.errors import InvalidField, MalformedRequest

GIVEN = {
    "ChunkNumber": "3",
    "ChunkSize": "1048576",
    "CurrentChunkSize": "1048576",
    "TotalSize": "5242880",
    "Type": "image/png",
    "Identifier": "5242880-apng",
    "Filename": "a.png",
    "RelativePath": "photos/a.png",
    "TotalChunks": "5",
}
READ = ChunkFields(
    chunk_number=3,
    chunk_size=1048576,
    total_size=5242880,
    identifier="5242880-apng",
    filename="a.png",
    relative_path="photos/a.png",
    content_type="image/png",
    current_chunk_size=1048576,
    total_chunks=5,
)
REQUIRED = ["ChunkNumber", "ChunkSize", "TotalSize", "Identifier", "Filename"]
OPTIONAL = sorted(GIVEN.keys() - set(REQUIRED))

sizes = st.integers(0, 10**13)
chunk_sizes = st.integers(1, 10**9)


def collected(names: FieldNames | None = None, **fields: str) -> FieldCollector:
    """Gather fields, named as resumable.js does."""
    collector = FieldCollector(names or FieldNames.of({}))
    collector.add_all((f"resumable{name}", value) for name, value in fields.items())
    return collector


def read(**changed: str | None) -> ChunkFields:
    """Return the fields of a usual request, some of them changed or (None) left out."""
    fields = {name: value for name, value in (GIVEN | changed).items() if value is not None}
    return collected(**fields).fields()


def asked(total_size: int, chunk_size: int, number: int, **told: int | None) -> ChunkFields:
    """Return fields of which only the sizes matter."""
    fields = dict.fromkeys(("relative_path", "content_type", "current_chunk_size", "total_chunks"))
    sizes = {"chunk_number": number, "chunk_size": chunk_size, "total_size": total_size}
    return ChunkFields(**{**fields, **sizes, "identifier": "i", "filename": "f", **told})  # type: ignore[arg-type]


# Fields


@pytest.mark.parametrize("prefix", ["resumable", "flow"])
def test_both_clients_names_are_known(prefix: str) -> None:
    collector = FieldCollector(FieldNames.of({}))
    collector.add_all((prefix + name, value) for name, value in GIVEN.items())
    assert collector.fields() == READ


def test_names_that_a_client_has_changed_are_known_and_its_own_are_not() -> None:
    names = FieldNames.of(
        {
            "parameterNamespace": "up_",
            "chunkNumberParameterName": "n",
            "fileParameterName": "data",
        }
    )
    collector = FieldCollector(names)
    collector.add("up_n", "3")
    collector.add("resumableChunkNumber", "9")
    collector.add("chunkNumber", "9")
    others = (pair for pair in GIVEN.items() if pair[0] != "ChunkNumber")
    collector.add_all((f"up_resumable{name}", value) for name, value in others)
    assert collector.fields() == READ
    assert names.files == {"up_data", "file"}
    assert names.fields["flowChunkNumber"] is Field.CHUNK_NUMBER


@pytest.mark.parametrize(
    "options",
    [
        {"chunkSize": "1"},
        {"chunkNumberParameterName": "x", "chunkSizeParameterName": "x"},
        {"chunkNumberParameterName": "file"},
        {"fileParameterName": "resumableType"},
    ],
)
def test_names_that_would_not_do_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"option|name"):
        FieldNames.of(options)


@pytest.mark.parametrize("name", GIVEN)
def test_a_field_given_twice_must_not_differ(name: str) -> None:
    collector = collected(**GIVEN)
    collector.add(f"resumable{name}", GIVEN[name])
    collector.add(f"flow{name}", GIVEN[name])
    with pytest.raises(MalformedRequest, match=name):
        collector.add(f"resumable{name}", GIVEN[name] + "0")


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", ["", None])
def test_a_field_that_is_needed_is_missed(name: str, value: str | None) -> None:
    with pytest.raises(InvalidField, match=name):
        read(**{name: value})


def test_type_path_count_and_length_may_be_missing() -> None:
    fields = read(**dict.fromkeys(OPTIONAL))
    told = (fields.content_type, fields.relative_path, fields.total_chunks)
    assert (*told, fields.current_chunk_size) == (None, None, None, None)
    assert read(Type="", RelativePath="").relative_path is None


def test_the_type_of_the_body_counts_where_no_field_has_it() -> None:
    collector = collected(**{name: GIVEN[name] for name in REQUIRED})
    assert collector.fields("image/gif").content_type == "image/gif"
    collector.add("resumableType", "image/png")
    assert collector.fields("image/gif").content_type == "image/png"


def test_what_is_no_type_is_ignored() -> None:
    assert read(Type="no type at\0all").content_type is None


@pytest.mark.parametrize("name", ["ChunkNumber", "ChunkSize", "TotalSize", "CurrentChunkSize"])
@pytest.mark.parametrize(
    "value",
    ["-1", "+1", " 1", "1 ", "1.0", "1e6", "0x10", "NaN", "undefined", "١", "9" * 19, "1\n"],
)
def test_numbers_are_decimal_integers_in_ascii(name: str, value: str) -> None:
    with pytest.raises(InvalidField, match=name):
        read(**{name: value})


@pytest.mark.parametrize("name", ["ChunkNumber", "ChunkSize"])
def test_chunks_count_from_1_and_have_bytes(name: str) -> None:
    with pytest.raises(InvalidField, match=name):
        read(**{name: "0"})


@pytest.mark.parametrize("identifier", ["a\0b", "x" * (MAX_IDENTIFIER_BYTES + 1), "ü" * 2049])
def test_an_identifier_that_no_ledger_could_hold_is_refused(identifier: str) -> None:
    with pytest.raises(InvalidField, match="Identifier"):
        read(Identifier=identifier)
    assert read(Identifier="x" * MAX_IDENTIFIER_BYTES)


@given(st.dictionaries(st.sampled_from([f"resumable{name}" for name in GIVEN]), st.text()))
def test_whatever_fields_say_is_read_or_refused(fields: dict[str, str]) -> None:
    collector = FieldCollector(FieldNames.of({}))
    collector.add_all(fields.items())
    try:
        read = collector.fields()
    except InvalidField:
        return
    assert collector.is_complete
    assert 1 <= read.chunk_number < 2**63
    assert 1 <= read.chunk_size < 2**63
    assert "\0" not in client_key(read, "")


# Geometry


@given(total_size=sizes, chunk_size=chunk_sizes, forced=st.booleans())
def test_chunks_cover_the_file_without_gaps(total_size: int, chunk_size: int, forced: bool) -> None:
    count = chunk_counts(total_size, chunk_size)[forced]
    cut = geometry(asked(total_size, chunk_size, 1), count)
    last = cut.span(count - 1)
    assert last.offset + last.length == total_size
    assert last.offset == (count - 1) * chunk_size
    if count > 1:
        assert cut.span(0).length == chunk_size
        assert cut.span(count - 2).offset == (count - 2) * chunk_size
        limit = chunk_size if forced else 2 * chunk_size - 1
        assert (1 if forced else chunk_size) <= last.length <= limit


@given(total_size=sizes, chunk_size=chunk_sizes, forced=st.booleans(), data=st.data())
def test_the_clients_own_arithmetic_is_followed(
    total_size: int, chunk_size: int, forced: bool, data: st.DataObject
) -> None:
    """What resumable.js 1.1 and flow.js 2 compute for a chunk, taken from their sources."""
    rounded = -(-total_size // chunk_size) if forced else total_size // chunk_size
    count = max(rounded, 1)
    offset = data.draw(st.integers(0, count - 1))
    begin, end = offset * chunk_size, min(total_size, (offset + 1) * chunk_size)
    if total_size - end < chunk_size and not forced:
        end = total_size
    fields = asked(
        total_size, chunk_size, offset + 1, current_chunk_size=end - begin, total_chunks=count
    )
    told = told_chunk_count(fields, None)
    assert told == count
    span = geometry(fields, count).span(offset)
    assert (span.offset, span.length) == (begin, end - begin)
    assert possible_lengths(fields) == {end - begin}


@given(total_size=sizes, chunk_size=chunk_sizes, forced=st.booleans(), data=st.data())
def test_without_a_count_number_and_length_tell_as_soon_as_they_can(
    total_size: int, chunk_size: int, forced: bool, data: st.DataObject
) -> None:
    count = chunk_counts(total_size, chunk_size)[forced]
    number = data.draw(st.integers(max(1, count - 2), count))
    length = geometry(asked(total_size, chunk_size, number), count).span(number - 1).length
    by_field = told_chunk_count(
        asked(total_size, chunk_size, number, current_chunk_size=length), None
    )
    by_body = told_chunk_count(asked(total_size, chunk_size, number), length)
    assert by_field == by_body
    if by_body is None:
        assert number < count
        assert length == chunk_size
    else:
        assert by_body == count
    assert length in possible_lengths(asked(total_size, chunk_size, number))


@given(total_size=sizes, chunk_size=chunk_sizes)
def test_another_count_than_those_two_is_refused(total_size: int, chunk_size: int) -> None:
    counts = chunk_counts(total_size, chunk_size)
    for wrong in {min(counts) - 1, max(counts) + 1, 0}:
        with pytest.raises(InvalidField, match="TotalChunks"):
            told_chunk_count(asked(total_size, chunk_size, 1, total_chunks=wrong), None)


@given(total_size=sizes, chunk_size=chunk_sizes)
def test_a_chunk_behind_the_last_one_is_refused(total_size: int, chunk_size: int) -> None:
    unforced, forced = chunk_counts(total_size, chunk_size)
    with pytest.raises(InvalidField, match="ChunkNumber"):
        told_chunk_count(asked(total_size, chunk_size, forced + 1), None)
    with pytest.raises(InvalidField, match="ChunkNumber"):
        geometry(asked(total_size, chunk_size, unforced + 1), unforced)


def test_an_empty_file_has_one_empty_chunk() -> None:
    fields = asked(0, 1024, 1)
    assert told_chunk_count(fields, 0) == 1
    assert geometry(fields, 1).span(0).length == 0


# Keys


@given(
    one=st.tuples(sizes, chunk_sizes, st.text(max_size=600), st.text(max_size=600)),
    other=st.tuples(sizes, chunk_sizes, st.text(max_size=600), st.text(max_size=600)),
)
def test_no_two_uploads_have_one_key(
    one: tuple[int, int, str, str], other: tuple[int, int, str, str]
) -> None:
    assume(one != other)

    def key(total_size: int, chunk_size: int, directory: str, identifier: str) -> str:
        fields = asked(total_size, chunk_size, 1, identifier=identifier)  # type: ignore[arg-type]
        return client_key(fields, directory)

    assert key(*one) != key(*other)
    assert len(key(*one).encode()) <= 512


def test_a_directory_and_an_identifier_do_not_run_together() -> None:
    def key(directory: str, identifier: str) -> str:
        return client_key(asked(1, 1, 1, identifier=identifier), directory)  # type: ignore[arg-type]

    assert key("a", "b/c") != key("a/b", "c") != key("", "a/b/c")
