"""Parameters of the query: how each kind is read, and that its schema says the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.parameters import Parameter, choice, matching, moment, place, place_or_moment, switch, text, whole
from eventstore.cursor import NOW, START, Cursor

KINDS: dict[str, Parameter] = {
    "whole": whole("n", "", 1, 1_000),
    "choice": choice("c", "", ("a", "b")),
    "switch": switch("s", ""),
    "text": text("t", "", 5),
    "matching": matching("m", "", "^[0-9a-f]{2}$", "two digits"),
    "place": place("p", ""),
    "moment": moment("w", ""),
    "place_or_moment": place_or_moment("at", ""),
}
GOOD: list[tuple[str, str, Any]] = [
    ("whole", "1", 1), ("whole", "1000", 1000), ("choice", "b", "b"), ("switch", "true", True),
    ("switch", "false", False), ("text", "ab'c", "ab'c"), ("text", "推送推送推", "推送推送推"),
    ("matching", "0f", "0f"),
    ("place", "", START), ("place", "-1", START), ("place", "now", NOW), ("place", "41", Cursor(41)),
    ("place", "0001_0000000000000041_00ff00ff", Cursor(41, 1, "00ff00ff")),
    ("moment", "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    ("moment", "2026-01-31T13:00:00.5+01:00", datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
    ("place_or_moment", "41", Cursor(41)),
    ("place_or_moment", "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
]  # fmt: skip
BAD = [
    ("whole", "0"), ("whole", "1001"), ("whole", "01"), ("whole", "+1"), ("whole", " 1"), ("whole", "1 "),
    ("whole", "1.0"), ("whole", "1e2"), ("whole", "1_0"), ("whole", "١"), ("whole", ""), ("whole", "9" * 5_000),
    ("choice", "A"), ("choice", ""), ("switch", "True"), ("switch", "1"), ("text", ""), ("text", "abcdef"),
    ("text", "a\0"), ("matching", "0F"), ("matching", "0f\n"), ("place", "-2"), ("place", "1e3"), ("place", "+5"),
    ("place", " 5"), ("place", str(2**63)), ("place", "٣"), ("place", "41\n"), ("moment", "2026-01-31"),
    ("moment", "2026-01-31T12:00:00"), ("moment", "2026-02-30T12:00:00Z"), ("moment", "2026-01-31T12:00:00Z\n"),
    ("moment", "20260131T120000Z"), ("place_or_moment", "yesterday"), ("place_or_moment", "2026-01-31T12:00:00"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given", "value"), GOOD)
def test_what_follows_the_rule_is_read_and_fits_the_schema(kind: str, given: str, value: Any) -> None:
    assert KINDS[kind].parse(given) == value
    assert fits(kind, given)


@pytest.mark.parametrize(("kind", "given"), BAD)
def test_what_breaks_the_rule_is_refused_with_it(kind: str, given: str) -> None:
    with pytest.raises(ValueError):
        KINDS[kind].parse(given)


def fits(kind: str, given: str) -> bool:
    schema = KINDS[kind].schema
    value: Any = given
    if schema["type"] == "integer":
        value = int(given) if given.isascii() and given.isdecimal() and str(int(given)) == given else None
    elif schema["type"] == "boolean":
        value = {"true": True, "false": False}.get(given)
    return jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(value)


@given(st.sampled_from(sorted(KINDS)), st.text(max_size=30))
def test_the_schema_allows_nothing_that_is_refused(kind: str, given: str) -> None:
    try:
        KINDS[kind].parse(given)
    except ValueError:
        assert not fits(kind, given)
    else:
        assert fits(kind, given)
