"""The header fields of tus 1.0.0: everything the specification allows, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.checksums import ALGORITHMS, Checksum
from app.errors import MalformedRequest, UnknownContentType, UnknownVersion
from app.protocols.tus_headers import (
    CONTENT_TYPE,
    MAX_BYTES,
    Concat,
    announces_checksum,
    metadata_json,
    metadata_text,
    parse_checksum,
    parse_concat,
    parse_length,
    parse_metadata,
    parse_number,
    require_content_type,
    require_version,
)

#: What gunicorn lets through in a field's value: Latin-1 without control characters.
FIELD_TEXT = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60
)

KEYS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","),
    min_size=1,
    max_size=12,
)


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


# ---- Tus-Resumable ----------------------------------------------------------


@pytest.mark.parametrize("header", ["1.0.0", " 1.0.0 "])
def test_the_version_spoken_here_is_accepted(header: str) -> None:
    require_version(header)


@pytest.mark.parametrize("header", [None, "", "1", "1.0", "0.2.2", "1.0.00", "1.0.0,0.2.2", "v1"])
def test_any_other_version_is_refused(header: str | None) -> None:
    with pytest.raises(UnknownVersion):
        require_version(header)


# ---- Upload-Offset, Upload-Length -------------------------------------------


@given(st.integers(min_value=0, max_value=MAX_BYTES))
def test_every_non_negative_integer_is_a_number(number: int) -> None:
    assert parse_number("Upload-Offset", str(number)) == number
    assert parse_number("Upload-Offset", f" 00{number} ") == number


@given(FIELD_TEXT)
def test_anything_but_digits_is_no_number(text: str) -> None:
    stripped = text.strip(" \t")
    if stripped and set(stripped) <= set(string.digits):
        assert parse_number("Upload-Length", text) == min(int(stripped), MAX_BYTES + 1)
    else:
        with pytest.raises(MalformedRequest):
            parse_number("Upload-Length", text)


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1.0", "1e3", "0x10", "1 0", "1_0", "\u0661", "²"]
)
def test_what_python_would_take_for_a_number_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        parse_number("Upload-Length", text)


@pytest.mark.parametrize("text", [str(MAX_BYTES + 1), "9" * 30, "9" * 8000])
def test_a_number_beyond_every_file_system_is_larger_than_any_that_is_not(text: str) -> None:
    assert parse_number("Upload-Length", text) == MAX_BYTES + 1


# ---- Upload-Length, Upload-Defer-Length -------------------------------------


def test_a_length_is_told_or_deferred() -> None:
    assert parse_length("0", None) == 0
    assert parse_length("100", None) == 100
    assert parse_length(None, "1") is None


@pytest.mark.parametrize(
    ("length", "defer"),
    [(None, None), ("1", "1"), (None, "0"), (None, "2"), (None, ""), (None, "true"), ("1", "0")],
)
def test_neither_or_both_or_another_deferral_is_refused(
    length: str | None, defer: str | None
) -> None:
    with pytest.raises(MalformedRequest):
        parse_length(length, defer)


# ---- Upload-Metadata --------------------------------------------------------


@given(st.dictionaries(KEYS, st.binary(max_size=40), max_size=8), st.sampled_from(["", " ", "  "]))
def test_metadata_comes_out_as_it_went_in(pairs: dict[str, bytes], blanks: str) -> None:
    header = f"{blanks},{blanks}".join(
        f"{key} {blanks}{encoded(value)}" for key, value in pairs.items()
    )
    assert parse_metadata(f"{blanks}{header}{blanks}") == pairs


@given(FIELD_TEXT)
def test_any_header_is_metadata_or_refused(text: str) -> None:
    try:
        found = parse_metadata(text)
    except MalformedRequest:
        return
    for key in found:
        assert key
        assert not set(key) & set(" ,\t\r\n\0")


@pytest.mark.parametrize("header", [None, "", "  "])
def test_an_empty_header_is_no_metadata(header: str | None) -> None:
    assert parse_metadata(header) == {}


def test_a_value_may_be_left_out() -> None:
    assert parse_metadata("is_confidential,filename YQ==,empty ") == {
        "is_confidential": b"",
        "filename": b"a",
        "empty": b"",
    }


@pytest.mark.parametrize(
    "header",
    [
        "filename YQ",  # no padding
        "filename Y",
        "filename Y Q==",
        "filename YQ== YQ==",
        "filename !!!!",
        "filename YQ==\u00e9",
        "filename YQ==,filename Yg==",
        "a,a",
        ",",
        "filename YQ==,",
        ",filename YQ==",
        "a,,b",
        "filename\tYQ==",
        "name\x01 YQ==",
    ],
)
def test_malformed_metadata_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequest):
        parse_metadata(header)


def test_the_first_key_that_is_there_and_not_empty_wins() -> None:
    found = {"filename": b"", "name": "gr\u00f6\u00dfe".encode()}
    assert metadata_text(found, "filename", "name") == "gr\u00f6\u00dfe"
    assert metadata_text(found, "filetype") is None


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(MalformedRequest):
        metadata_text({"filename": b"\xff"}, "filename")


def test_metadata_is_kept_as_text_or_as_base64() -> None:
    assert metadata_json({"a": "\u00e4".encode(), "b": b"\xff"}) == {"a": "\u00e4", "b": "/w=="}


# ---- Upload-Concat ----------------------------------------------------------


def test_a_partial_upload_says_so() -> None:
    assert parse_concat("partial") == Concat(None)
    assert parse_concat(None) is None


@pytest.mark.parametrize(
    "header",
    [
        "final;/files/a /files/b",
        "final; /files/a  /files/b",
        "final ;/files/a/ /files/b/",
        "final;https://tus.example.org/files/a http://other/prefix/files/b?x=1#y",
        "final;a b",
    ],
)
def test_a_final_upload_names_its_partials_in_order(header: str) -> None:
    assert parse_concat(header) == Concat(("a", "b"))


def test_a_partial_may_be_named_twice() -> None:
    assert parse_concat("final;/files/a /files/b /files/a") == Concat(("a", "b", "a"))


@pytest.mark.parametrize(
    "header",
    ["", "final", "final;", "final; ", "Final;/files/a", "partial;", "partial;/files/a", "x",
     "finally;/files/a", "final /files/a", "final;/", "final;?a"],
)  # fmt: skip
def test_malformed_concatenation_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequest):
        parse_concat(header)


@given(FIELD_TEXT)
def test_any_header_is_a_concatenation_or_refused(text: str) -> None:
    try:
        concat = parse_concat(text)
    except MalformedRequest:
        return
    assert concat is not None
    for upload_id in concat.partial_ids or ():
        assert upload_id
        assert not set(upload_id) & set(" /?#")


# ---- Upload-Checksum, Trailer -----------------------------------------------


@given(st.sampled_from(sorted(ALGORITHMS)), st.binary(max_size=100))
def test_a_checksum_is_read_and_compared(algorithm: str, data: bytes) -> None:
    hasher = ALGORITHMS[algorithm]()
    hasher.update(memoryview(data))
    checksum = parse_checksum(f"{algorithm} {encoded(hasher.digest())}")
    assert checksum == Checksum(algorithm, hasher.digest())
    assert checksum.is_of(hasher)
    hasher.update(memoryview(b"more"))
    assert not checksum.is_of(hasher)


def test_crc32_is_four_bytes_in_network_order() -> None:
    data = b"123456789"
    assert zlib.crc32(data) == 0xCBF43926  # the check value of every list of CRCs
    hasher = ALGORITHMS["crc32"]()
    hasher.update(memoryview(data))
    assert hasher.digest() == bytes.fromhex("cbf43926")
    assert parse_checksum("crc32 y/Q5Jg==").is_of(hasher)


def test_the_example_of_the_specification_is_the_sha1_of_hello_world() -> None:
    checksum = parse_checksum("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")
    assert checksum.is_of(hashlib.sha1(b"hello world", usedforsecurity=False))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "sha1",
        "sha1 ",
        "sha1 !",
        "sha1 YQ==",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0",
        "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha512 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "md5 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=, md5 YQ==",
    ],
)
def test_a_malformed_checksum_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequest):
        parse_checksum(header)


@given(FIELD_TEXT)
def test_any_header_is_a_checksum_or_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        parse_checksum(text)


def test_algorithms_have_lower_case_ascii_names_and_sha1_is_among_them() -> None:
    assert "sha1" in ALGORITHMS
    for name in ALGORITHMS:
        assert set(name) <= set(string.ascii_lowercase + string.digits)


@pytest.mark.parametrize(
    "trailer", ["Upload-Checksum", "x, upload-checksum", " UPLOAD-CHECKSUM ,y"]
)
def test_a_trailer_announces_a_checksum(trailer: str) -> None:
    assert announces_checksum(trailer)


@pytest.mark.parametrize("trailer", [None, "", "X-Upload-Checksum", "Upload Checksum"])
def test_other_trailers_do_not(trailer: str | None) -> None:
    assert not announces_checksum(trailer)


# ---- Content-Type -----------------------------------------------------------


@pytest.mark.parametrize(
    "header", [CONTENT_TYPE, "Application/Offset+Octet-Stream", f"{CONTENT_TYPE}; charset=utf-8"]
)
def test_the_content_type_may_have_parameters(header: str) -> None:
    require_content_type(header)


@pytest.mark.parametrize("header", [None, "", "application/octet-stream", f"x {CONTENT_TYPE}"])
def test_any_other_content_type_is_refused(header: str | None) -> None:
    with pytest.raises(UnknownContentType):
        require_content_type(header)
