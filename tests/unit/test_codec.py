"""Canonical text after RFC 8785, ids of version 7, and cutting long stacks."""

from __future__ import annotations

import json
import math
import random
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore.codec import MAX_INT, canonical, cut_middle, es_number, prepare, uuid7
from eventstore.errors import InvalidEvent
from eventstore.events import NewEvent

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/canonical.json").read_text("utf-8"))


def double(bits: str) -> float:
    return float(struct.unpack(">d", bytes.fromhex(bits))[0])


def ecmascript(value: float) -> str:
    """Number::toString of ECMAScript, from its text: the digits s, their number k, the exponent n."""
    sign, digits, power = Decimal(repr(value)).as_tuple()
    s = "".join(map(str, digits)).lstrip("0")
    if not s:
        return "0"
    power += len(s) - len(s.rstrip("0"))
    s = s.rstrip("0")
    k, n = len(s), len(s) + int(power)
    if k <= n <= 21:
        text = s + "0" * (n - k)
    elif 0 < n <= 21:
        text = s[:n] + "." + s[n:]
    elif -6 < n <= 0:
        text = "0." + "0" * -n + s
    else:
        text = s[0] + ("." + s[1:] if k > 1 else "") + "e" + ("+" if n > 0 else "-") + str(abs(n - 1))
    return ("-" if sign else "") + text


@pytest.mark.parametrize("vector", VECTORS["numbers"], ids=lambda vector: vector["ieee754"])
def test_a_number_is_written_as_rfc_8785_writes_it(vector):
    value = double(vector["ieee754"])
    if vector["text"] is None:
        with pytest.raises(InvalidEvent):
            canonical({"x": value})
        return
    assert canonical({"x": value})[1].decode() == '{"x":' + vector["text"] + "}"
    assert es_number(value) == vector["text"] == ecmascript(value)


@pytest.mark.parametrize("vector", VECTORS["objects"], ids=lambda vector: vector["text"][:20])
def test_an_object_is_written_as_rfc_8785_writes_it(vector):
    plain, text = canonical(json.loads(vector["given"]))
    assert text.decode() == vector["text"]
    assert plain == json.loads(vector["given"])


def test_any_double_is_written_as_ecmascript_writes_it_and_reads_back_the_same():
    seeded = random.Random(8785)
    values = [double(seeded.randbytes(8).hex()) for _ in range(20_000)]
    values += [seeded.uniform(-1, 1) * 10.0 ** seeded.randint(-10, 25) for _ in range(20_000)]
    values += [float(seeded.randint(-(2**60), 2**60)) for _ in range(5_000)]
    for value in filter(math.isfinite, values):
        text = canonical({"x": value})[1].decode()[5:-1]
        assert text == ecmascript(value), value.hex()
        assert float(text) == value


def test_canonical_text_is_a_fixed_point():
    given = {"😀": 1e300, "\ufb33": [1.0, -0.0, {"b": (1, 2.5), "a": 5e-324}], "n": 123456.789, "z": None, "t": True}
    plain, text = canonical(given)
    assert canonical(plain) == (plain, text)


def test_what_is_folded_is_decoded_from_the_text_and_apart_from_the_callers_objects():
    inner = [1, 2]
    data = {"list": inner, "pair": (1, 2), "whole": 3.0, "big": 1e300}
    ready = prepare("a", NewEvent(type="job.noted", data=data))
    assert ready.data == msgspec.json.decode(ready.text) == {"list": [1, 2], "pair": [1, 2], "whole": 3, "big": 1e300}
    assert type(ready.data["whole"]) is int
    inner.append(3)
    data["list"] = None
    assert ready.data["list"] == [1, 2]


def test_the_callers_objects_are_never_changed():
    data = {"error": {"message": "m", "stack": "x" * 40_000}, "x": [1.0, (2.0,)]}
    canonical(data)
    assert data == {"error": {"message": "m", "stack": "x" * 40_000}, "x": [1.0, (2.0,)]}
    assert type(data["x"][0]) is float


def test_integers_are_kept_to_the_last_that_a_double_holds():
    assert canonical({"x": MAX_INT})[1] == b'{"x":9007199254740992}'
    for wrong in (MAX_INT + 1, -MAX_INT - 1):
        with pytest.raises(InvalidEvent):
            canonical({"x": wrong})


def test_ids_of_version_7_carry_their_millisecond_and_sort_by_it():
    ids = [uuid7(lambda ms=ms: ms * 1_000_000) for ms in (1, 2, 1_767_225_600_000, 2**48 - 1)]
    assert ids == sorted(ids)
    for value, ms in zip(ids, (1, 2, 1_767_225_600_000, 2**48 - 1), strict=True):
        assert int.from_bytes(value[:6], "big") == ms
        assert value[6] >> 4 == 7
        assert value[8] >> 6 == 0b10
        assert len(value) == 16
    assert len({uuid7(lambda: 0) for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("letter", ["x", "é", "正", "😀"])
@pytest.mark.parametrize("limit", range(100, 112))
def test_a_cut_text_fits_and_cuts_no_character(letter, limit):
    text = letter * 200
    cut = cut_middle(text, limit)
    assert limit - 8 <= len(cut.encode()) <= limit
    head, _, rest = cut.partition("\n… ")
    tail = rest.partition(" …\n")[2]
    assert head
    assert tail
    assert set(head + tail) == {letter}


def test_a_text_at_the_limit_is_not_cut():
    assert cut_middle("正" * 100, 300) == "正" * 100
    assert cut_middle("正" * 100, 299) != "正" * 100
