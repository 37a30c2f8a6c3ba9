"""Geometry: the parts of a file tile it, and each has a bit of its own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.parts import (
    BITS_PER_WORD,
    MAX_PARTS,
    Geometry,
    Span,
    pending_parts,
    received_parts,
    word_and_mask,
    words_without,
)

#: A busy machine is no failure.
UNTIMED = settings(deadline=None)

MIB = 1 << 20
GIB = 1 << 30

part_counts = st.integers(0, 200)
indexes = st.integers(0, MAX_PARTS - 1)


def words_of(parts):
    """Return the bitmap in which just these parts are set."""
    words = {}
    for index in parts:
        word, mask = word_and_mask(index)
        words[word] = words.get(word, 0) | mask
    return words


@pytest.mark.parametrize(
    ("length", "part_size", "part_count", "last"),
    [
        (3 * MIB, MIB, 3, MIB),
        (3 * MIB + 1, MIB, 4, 1),
        (3 * MIB - 1, MIB, 3, MIB - 1),
        (1, MIB, 1, 1),
        (10 * GIB, 50 * MIB, 205, 40 * MIB),
        (1 << 40, 50 * MIB, 20_972, 26 * MIB),
    ],
)
def test_the_last_part_is_the_rest(length, part_size, part_count, last):
    geometry = Geometry.of(length, part_size)
    assert geometry.part_count == part_count
    assert geometry.span(0) == Span(0, min(part_size, length))
    assert geometry.span(part_count - 1) == Span((part_count - 1) * part_size, last)


def test_an_empty_file_has_no_parts():
    geometry = Geometry.of(0, MIB)
    assert geometry.part_count == 0
    with pytest.raises(IndexError):
        geometry.span(0)


@pytest.mark.parametrize(("length", "part_size"), [(-1, 1), (1, 0), (1, -1)])
def test_impossible_sizes_are_refused(length, part_size):
    with pytest.raises(ValueError, match="must be"):
        Geometry.of(length, part_size)


def test_the_last_part_of_resumable_uploads_may_be_the_longest():
    geometry = Geometry(length=5 * MIB - 1, part_size=2 * MIB, part_count=2)
    assert geometry.span(0) == Span(0, 2 * MIB)
    assert geometry.span(1) == Span(2 * MIB, 3 * MIB - 1)


@pytest.mark.parametrize("index", [-1, 3, 1000])
def test_there_is_no_part_outside(index):
    with pytest.raises(IndexError):
        Geometry.of(3, 1).span(index)


@UNTIMED
@given(st.integers(0, 1 << 45), st.integers(1, 1 << 40))
def test_the_number_of_parts_is_the_quotient_rounded_up(length, part_size):
    count = Geometry.of(length, part_size).part_count
    assert (count - 1) * part_size < length <= count * part_size or length == count == 0


@UNTIMED
@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_parts_tile_the_file_without_gap_or_overlap(length, part_size):
    geometry = Geometry.of(length, part_size)
    end = 0
    for index in range(geometry.part_count):
        span = geometry.span(index)
        assert span.offset == end
        assert 1 <= span.length <= part_size
        end += span.length
    assert end == length


@UNTIMED
@given(indexes, indexes)
def test_each_part_has_a_bit_of_its_own(first, second):
    assert (word_and_mask(first) == word_and_mask(second)) == (first == second)
    word, mask = word_and_mask(first)
    assert mask.bit_count() == 1
    assert mask < 1 << BITS_PER_WORD
    assert word * BITS_PER_WORD + mask.bit_length() - 1 == first


@UNTIMED
@given(st.sets(indexes, max_size=100))
def test_received_parts_are_those_whose_bit_is_set_in_order(parts):
    assert list(received_parts(words_of(parts))) == sorted(parts)


def test_nothing_received_means_everything_pending():
    assert list(received_parts({})) == []
    assert list(received_parts({0: 0, 7: 0})) == []
    assert list(pending_parts({}, 3)) == [0, 1, 2]


@UNTIMED
@given(part_counts.flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(0, n - 1))))))
def test_every_part_is_either_received_or_pending(case):
    count, parts = case
    parts = {index for index in parts if index < count}
    words = words_of(parts)
    received, pending = list(received_parts(words)), list(pending_parts(words, count))
    assert sorted(received + pending) == list(range(count))
    assert set(received) == parts
    assert pending == sorted(pending)


@UNTIMED
@given(st.sets(indexes, max_size=60), st.sets(indexes, max_size=60))
def test_lost_parts_lose_their_bit_and_no_others_do(received, lost):
    words = words_of(received)
    before = dict(words)
    assert set(received_parts(words_without(words, lost))) == received - lost
    assert words == before
