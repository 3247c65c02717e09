"""Hand-packed arrays are what psycopg's own loaders read back."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.adapt import Transformer
from psycopg.pq import Format

from eventstore import pgarray
from eventstore.events import to_us

WHEN = datetime(2026, 1, 31, 12, 30, 15, 123456, tzinfo=UTC)
IDENT = uuid.UUID("018f4d2e-7c00-7abc-8def-0123456789ab")
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    (pgarray.int8, [0, 1, -1, 2**63 - 1, -(2**63), None], [0, 1, -1, 2**63 - 1, -(2**63), None]),
    (pgarray.int4, [0, None, 2**31 - 1, -(2**31)], [0, None, 2**31 - 1, -(2**31)]),
    (pgarray.text, ["", "正在", None, "NULL", "a,b{}\"'\\", "😀"], ["", "正在", None, "NULL", "a,b{}\"'\\", "😀"]),
    (pgarray.json, [b'{"a":[1,"\xe6\xad\xa3"]}', None, b"{}"], [{"a": [1, "正"]}, None, {}]),
    (pgarray.uuid, [IDENT.bytes, None], [IDENT, None]),
    (pgarray.bytea, [b"", b"\x00\xff", None], [b"", b"\x00\xff", None]),
    (pgarray.bools, [True, False, None], [True, False, None]),
    (pgarray.times, [to_us(WHEN), to_us(WHEN - timedelta(days=20_000)), None], [WHEN, WHEN - timedelta(20_000), None]),
]


def unpacked(array: pgarray.PgArray) -> Any:
    return Transformer().get_loader(type(array).oid or array.oid, Format.BINARY).load(array.packed)


@pytest.mark.parametrize(("pack", "given", "expected"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_an_array_reads_back(pack, given, expected):
    assert unpacked(pack(given)) == expected


@pytest.mark.parametrize(("pack", "given", "expected"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_an_array_of_nothing_and_an_array_of_nulls_read_back(pack, given, expected):
    assert unpacked(pack([])) == []
    assert unpacked(pack([None, None])) == [None, None]
    assert unpacked(pack([given[0]])) == [expected[0]]
    assert unpacked(pack([given[0]] * 3)) == [expected[0]] * 3
    assert unpacked(pack((given[0], None, given[0]))) == [expected[0], None, expected[0]]


def test_each_kind_has_one_type_whatever_its_values():
    assert len({pack(values).oid for pack in (pgarray.text,) for values in ([], [None], ["x"])}) == 1
    assert len({pack([]).oid for pack, _, _ in CASES}) == len(CASES)
