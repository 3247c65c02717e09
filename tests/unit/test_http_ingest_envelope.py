"""The bodies of appends, without a server: strict JSON, the envelope, and that both ways of decoding agree."""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import envelope
from api.auth import Principal, Scope, everybody
from api.envelope import Reader, decode
from api.problems import DuplicateKey, MalformedRequest, NotFound, TooLarge
from api.protocol import CONNECTION
from api.requests import ClientGone, Exchange
from eventstore.errors import InvalidEvent

ANYBODY = everybody("default")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.sampled_from(
    ['"', "\\", ":", '\\"', "{", "]"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(value=_JSON, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_json_is_decoded_as_it_was_meant(value: Any, ascii_only: bool, indent: int | None) -> None:
    assert decode(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == value


@given(
    value=st.dictionaries(_TEXT, _JSON, min_size=1, max_size=4),
    data=st.data(),
    wrap=st.sampled_from(["%s", "[%s]", '{"a":%s}']),
)
def test_a_name_that_stands_twice_is_found_wherever_it_stands(value: dict[str, Any], data: Any, wrap: str) -> None:
    name = data.draw(st.sampled_from(sorted(value)))
    body = json.dumps(value)[:-1] + f", {json.dumps(name, ensure_ascii=False)} : null}}"
    with pytest.raises(DuplicateKey):
        decode((wrap % body).encode())


@given(body=st.binary(max_size=60) | st.text('[]{}":,\\u0019deEn.- NaInfity', max_size=30).map(str.encode))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    """No other exception: each of these is a 4xx. What is read is what Python's own decoder reads."""
    try:
        value = decode(body)
    except (MalformedRequest, InvalidEvent):
        return
    told = json.loads(body)
    assert value == told or not _is_finite(told)


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list) or all(map(_is_finite, value))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth_is_found_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch, opening: str) -> None:
    monkeypatch.setattr(envelope, "_decode", lambda _: pytest.fail("decoded"))
    with pytest.raises(InvalidEvent) as raised:
        decode((opening * 35).encode())
    assert raised.value.rule_code == "too_deep"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("body", [b'"' + b'\\"' * 500_000, b'{"a":"' + b'\\\\\\"' * 250_000, b'"\\' * 330_000])
def test_a_text_that_does_not_end_is_looked_at_once(body: bytes) -> None:
    """A megabyte that is tried anew from each of its quotes takes the better part of an hour."""
    with pytest.raises(MalformedRequest, match="no JSON"):
        decode(body)


def test_brackets_in_texts_are_no_depth() -> None:
    assert decode(b'["' + b"[" * 1_000 + b'","\\"' + b"{" * 1_000 + b'"]')[0] == "[" * 1_000


def test_ids_are_made_for_events_that_have_none() -> None:
    mine, drawn = uuid.uuid4(), [uuid.uuid4(), uuid.uuid4()]
    body = json.dumps([{"type": "job.started"}, {"type": "job.started", "event_id": str(mine)}]).encode()
    events = Reader(ANYBODY, "a", identify=drawn.__getitem__).read_json(body).events
    assert [event.event_id for _, event in events] == [drawn[0], mine]


@pytest.mark.parametrize("field", ["event_id", "occurred_at"])
def test_I9_half_a_surrogate_pair_is_neither_an_id_nor_a_time(field: str) -> None:
    body = json.dumps({"type": "job.started", field: "\ud800"}).encode()
    with pytest.raises(InvalidEvent) as raised:
        Reader(ANYBODY, "a").read_json(body)
    assert (raised.value.field, raised.value.rule_code) == (field, "not_unicode")


def test_an_array_of_one_is_answered_with_an_index_and_one_event_is_not() -> None:
    error = InvalidEvent("events[0].data.percent", 7, "less")
    body = b'{"type":"job.started"}'
    assert Reader(ANYBODY, "a").read_json(body).where(error).field == "data.percent"
    assert Reader(ANYBODY, "a").read_json(b"[" + body + b"]").where(error).field == "events[0].data.percent"


def test_what_was_added_as_a_trace_can_be_taken_out_again() -> None:
    body = json.dumps([{"type": "job.started"}, {"type": "job.started", "data": {"traceparent": TRACE}}]).encode()
    given = Reader(ANYBODY, "a", traceparent=TRACE[:]).read_json(body)
    assert [event.data for _, event in given.without(TRACE).events] == [{}, {"traceparent": TRACE}]


def test_the_actor_is_the_key_unless_the_key_may_act_as_others() -> None:
    body = b'{"type":"job.started","actor":"alice"}'
    plain = Principal(key_id="k1", log="default", log_id=1, scopes=frozenset((Scope.APPEND,)))
    trusted = Principal(key_id="k1", log="default", log_id=1, scopes=frozenset((Scope.APPEND, Scope.ACT_AS)))
    with pytest.raises(InvalidEvent):
        Reader(plain, "a").read_json(body)
    assert Reader(trusted, "a").read_json(body).events[0][1].actor == "alice"
    assert Reader(plain, "a").read_json(b'{"type":"job.started"}').events[0][1].actor == "k1"
    assert Reader(ANYBODY, "a").read_json(b'{"type":"job.started"}').events[0][1].actor is None


def test_a_job_that_the_key_does_not_see_is_not_there() -> None:
    narrow = Principal(key_id="k", log="default", log_id=1, scopes=frozenset(Scope), prefix="ci:")
    with pytest.raises(NotFound, match="this key's jobs begin with 'ci:'"):
        Reader(narrow, None).read_json(b'{"job_id":"deploy:1","type":"job.started"}')


class _Connection:
    """A connection whose body is still on its way."""

    def arrived(self, scope: object) -> None:
        del scope


@pytest.mark.anyio
async def test_I6_no_more_of_a_body_is_taken_than_a_byte_past_the_limit() -> None:
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"x", "more_body": True}

    exchange = Exchange({"headers": [], CONNECTION: _Connection()}, receive, _nowhere, "r")
    with pytest.raises(TooLarge):
        await exchange.body(1_000)
    assert taken == 1_001


@pytest.mark.anyio
async def test_a_length_that_is_too_large_is_believed() -> None:
    async def receive() -> dict[str, Any]:
        pytest.fail("read")

    headers = [(b"content-length", b"1001")]
    exchange = Exchange({"headers": headers, CONNECTION: _Connection()}, receive, _nowhere, "r")
    with pytest.raises(TooLarge):
        await exchange.body(1_000)


@pytest.mark.anyio
async def test_a_body_that_never_ends_is_given_up_and_one_whose_sender_left_too() -> None:
    async def never() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"headers": [], CONNECTION: _Connection()}
    with pytest.raises(MalformedRequest):
        await Exchange(scope, never, _nowhere, "r").body(patience=0.01)
    with pytest.raises(ClientGone):
        await Exchange(scope, gone, _nowhere, "r").body()


async def _nowhere(_: Any) -> None:
    pass
