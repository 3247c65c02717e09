"""Cursors: what is one, what is none, and that they sort as the log does."""

from __future__ import annotations

import random

import pytest

from eventstore.cursor import MAX_POSITION, NOW, START, Cursor, format_cursor, parse_cursor
from eventstore.errors import InvalidCursor


@pytest.mark.parametrize("start", [None, "", "-1", -1, START])
def test_nothing_and_minus_one_are_the_start(start):
    assert parse_cursor(start) is START


def test_now_is_the_end():
    assert parse_cursor("now") is NOW
    assert parse_cursor(NOW) is NOW


@pytest.mark.parametrize("position", [0, 1, 42, MAX_POSITION])
def test_a_bare_position_is_a_cursor_without_a_hash(position):
    assert parse_cursor(position) == parse_cursor(str(position)) == Cursor(position)
    assert str(Cursor(position)) == str(position)


@pytest.mark.parametrize("epoch", [1, 9_999, 10_000, 999_999_999])
def test_a_full_cursor_reads_back_as_it_was_written(epoch):
    text = format_cursor(epoch, 42, "9f8e7d6c")
    assert parse_cursor(text) == Cursor(42, epoch, "9f8e7d6c")
    assert str(parse_cursor(text)) == text
    assert set(text) <= set("0123456789abcdef_")


def test_cursors_of_an_epoch_sort_as_text():
    seeded = random.Random(1)
    places = [(seeded.randint(1, 9_999), seeded.randint(0, MAX_POSITION)) for _ in range(1_000)]
    texts = [format_cursor(epoch, position, f"{seeded.getrandbits(32):08x}") for epoch, position in sorted(places)]
    assert texts == sorted(texts)


@pytest.mark.parametrize(
    "bad",
    ["abc", "1e3", str(2**63), 2**63, MAX_POSITION + 1, str(MAX_POSITION + 1), "+5", " 5", "5 ", "-2", -2, "05", "00",
     "5\n", "٣", "５", "1.0", 1.0, -1.0, True, False, b"1", [], {}, object(), "\0", "-0", "0x1", "1_000", "9" * 5_000,
     "1_0000000000000004_9f8e7d6c", "0001_0000000000000004_9f8e7d6", "0001_0000000000000004_9f8e7d6cc",
     "0001_9007199254740993_9f8e7d6c", "0001_0000000000000004_9F8E7D6C", " 0001_0000000000000004_9f8e7d6c",
     "0001_0000000000000004_9f8e7d6c\n", "0000000001_0000000000000004_9f8e7d6c", "0001_000000000000000٣_9f8e7d6c"],
)  # fmt: skip
def test_anything_else_is_refused_in_a_short_printable_text(bad):
    with pytest.raises(InvalidCursor) as caught:
        parse_cursor(bad)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()
