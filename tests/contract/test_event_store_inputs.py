"""Bad inputs, row by row: each is refused with the field, what was given and the rule, and nothing is written."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from eventstore.codec import MAX_DATA, MAX_STACK
from eventstore.errors import InvalidEvent
from eventstore.events import LOG_JOB, NewEvent


def noted(**fields: Any) -> NewEvent:
    return NewEvent(type="job.noted", **fields)


def nested(levels: int, inner: Any = 1) -> dict[str, Any]:
    """An object with so many levels, objects and arrays in turn."""
    value = inner
    for level in range(levels - 1):
        value = {"x": value} if level % 2 else [value]
    return {"x": value}


def each_refused(store: Any, cases: Iterable[Any], field: str, rule_code: str, job_id: str = "a") -> list[InvalidEvent]:
    """Every case (an event, or a job id) is refused at `field` by the rule, in one printable line."""
    errors = []
    for case in cases:
        job, event = (job_id, case) if isinstance(case, NewEvent) else (case, noted())
        with pytest.raises(InvalidEvent) as caught:
            store.append(job, [event])
        error = caught.value
        assert (error.field, error.rule_code) == (field, rule_code), f"{str(case)[:100]}: {error}"
        assert error.rule
        assert str(error).isprintable(), repr(str(error))
        assert len(str(error)) < 500
        errors.append(error)
    assert store.head().position == 0
    return errors


def data(*values: Any) -> list[NewEvent]:
    return [noted(data={"value": value}) for value in values]


def kept(store: Any, *values: Any) -> list[Any]:
    for value in values:
        store.append("kept", [noted(data={"value": value})])
    return [event.data["value"] for event in store.read_job("kept")]


def test_i1_not_finite_numbers_are_refused(store):
    each_refused(store, data(float("nan"), float("inf"), -float("inf"), 1e999), "events[0].data.value", "not_finite")


def test_i2_minus_zero_is_stored_as_zero_and_the_smallest_numbers_as_they_are(store):
    assert kept(store, -0.0, 1e-320, 5e-324, 0.1, 1e300) == [0, 1e-320, 5e-324, 0.1, 1e300]
    assert store.read_log(limit=1)[0].data_json == b'{"value":0}'


def test_i3_bools_are_no_numbers_in_the_envelope(store):
    for field in ("attempt", "seq"):
        wrong = [noted(**{field: value}) for value in (True, False, 1.0, "1", [1], Decimal(1))]
        each_refused(store, wrong, f"events[0].{field}", "wrong_type")


def test_i3_a_bool_in_data_stays_a_bool(store):
    assert kept(store, True, 1) == [True, 1]
    assert [event.data_json for event in store.read_log()] == [b'{"value":true}', b'{"value":1}']


def test_attempt_and_seq_have_bounds(store):
    each_refused(store, [noted(attempt=n) for n in (0, -1, 2**31, 10**5000)], "events[0].attempt", "out_of_range")
    each_refused(store, [noted(seq=n) for n in (-1, 2**31)], "events[0].seq", "out_of_range")
    store.append("a", [noted(attempt=1, seq=0), noted(attempt=2**31 - 1, seq=2**31 - 1)])
    assert [(e.attempt, e.seq) for e in store.read_log()] == [(1, 0), (2**31 - 1, 2**31 - 1)]


def test_i5_integers_that_a_double_cannot_hold_are_refused(store):
    huge = (2**53 + 1, -(2**53) - 1, 2**63, 10**40, 10**5000)
    errors = each_refused(store, data(*huge), "events[0].data.value", "out_of_range")
    assert "bits" in errors[-1].given
    assert kept(store, 2**53, -(2**53)) == [2**53, -(2**53)]


def test_values_that_json_has_not_are_refused(store):
    strange = (object(), b"x", {1, 2}, Decimal("0.5"), 1j, datetime(2026, 1, 1, tzinfo=UTC), uuid.uuid4(), range(3))
    each_refused(store, data(*strange), "events[0].data.value", "wrong_type")
    each_refused(store, [noted(data={1: 2}), noted(data={None: 2})], "events[0].data", "wrong_type")
    each_refused(store, [noted(data=value) for value in ([], "x", None, 1)], "events[0].data", "wrong_type")


def test_what_cannot_even_be_shown_is_refused_by_name(store):
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    deep = nested(100_000)["x"]
    each_refused(store, data(Rude(), {1, (2, 10**5000)}), "events[0].data.value", "wrong_type")
    each_refused(
        store, [noted(data=value) for value in (deep, [10**5000], "\x1b[2J" * 999)], "events[0].data", "wrong_type"
    )
    each_refused(store, [noted(attempt=deep), noted(attempt=[10**5000])], "events[0].attempt", "wrong_type")
    each_refused(store, [deep, Rude()], "job_id", "wrong_type")


def test_i8_nul_is_refused_wherever_text_stands(store):
    each_refused(store, data("a\0b", "\0", "正\0"), "events[0].data.value", "nul_not_allowed")
    each_refused(store, data(["x", {"y": "a\0"}]), "events[0].data.value[1].y", "nul_not_allowed")
    each_refused(store, [noted(data={"x": {"a\0b": 1}})], "events[0].data.x", "nul_not_allowed")
    each_refused(store, [NewEvent(type="step.noted", step="a\0b")], "events[0].step", "nul_not_allowed")
    each_refused(store, [noted(actor="a\0b")], "events[0].actor", "nul_not_allowed")
    assert kept(store, "\\u0000", "\\\0"[:1]) == ["\\u0000", "\\"]


def test_i9_lone_surrogates_are_refused_wherever_text_stands(store):
    each_refused(store, data("\ud800", "a\udfffb", "正\ud83d"), "events[0].data.value", "not_unicode")
    each_refused(store, data([{"y": "\udc00"}]), "events[0].data.value[0].y", "not_unicode")
    each_refused(
        store, [noted(data={"\ud800": 1}), noted(data={"😀": 1, "\ud800": 2})], "events[0].data", "not_unicode"
    )
    each_refused(store, [NewEvent(type="step.noted", step="a\ud800")], "events[0].step", "not_unicode")
    each_refused(store, [noted(actor="\ud800")], "events[0].actor", "not_unicode")


def test_i10_32_levels_are_kept_and_33_refused_without_recursion(store):
    deep = (nested(33), nested(1_000), nested(100_000), nested(34, "text"))
    for value in deep:
        with pytest.raises(InvalidEvent) as caught:
            store.append("a", [noted(data=value)])
        assert caught.value.rule_code == "too_deep"
        assert len(caught.value.field) <= 250
    store.append("a", [noted(data=nested(32))])
    assert store.read_log()[0].data == nested(32)


def test_i10_data_that_holds_itself_is_refused(store):
    loop: dict[str, Any] = {}
    loop["x"] = [loop]
    with pytest.raises(InvalidEvent) as caught:
        store.append("a", [noted(data=loop)])
    assert caught.value.rule_code == "too_deep"


def test_i10_the_bound_holds_however_near_the_stack_is_to_its_end(store):
    limit = sys.getrecursionlimit()

    def deeper(levels: int) -> None:
        if levels:
            return deeper(levels - 1)
        with pytest.raises(InvalidEvent):
            store.prepare("a", [noted(data=nested(1_000))])
        return None

    deeper(limit - 300)


@pytest.mark.parametrize("name", ["\x1b[2Jred", "\u202egnp.exe", "k" * 1_000_000, "a.b\n", "\ud800"])
def test_the_path_of_a_field_is_safe_to_print_whatever_its_name_is(store, name):
    with pytest.raises(InvalidEvent) as caught:
        store.append("a", [noted(data={name: float("nan")})])
    assert str(caught.value).isprintable()
    assert caught.value.field.isprintable()
    assert caught.value.field.startswith("events[0].data")
    assert len(str(caught.value)) < 500
    str(caught.value).encode()


JOB_IDS = (
    "", "../..", "..", ".", "a/b", "%2e%2e", "*", "[a-z]", "{x}", "'; drop table events", "😀", "作业", "a\n",
    "\na", "abc\n",
    "-a", ".a", ":a", "_a", "@a", " a", "a ", "a\0", "a\u0661", "ﬁ", "a\u0301", "a" * 201, "a" * 9_616,
)  # fmt: skip


def test_i14_job_ids_outside_the_pattern_are_refused(store):
    each_refused(store, JOB_IDS, "job_id", "bad_job_id")
    each_refused(store, [None, 1, b"a", ["a"]], "job_id", "wrong_type")
    each_refused(store, [LOG_JOB], "job_id", "reserved")


def test_i14_job_ids_within_the_pattern_are_kept_apart_by_every_character(store):
    ids = ["a", "A", "a.", "a-", "a_", "a:", "a@b", "0", "a" * 200, "headway.log2", "Headway.log", "x..y"]
    for job_id in ids:
        assert store.append(job_id, [noted()])[0].version == 1
    assert [e.job_id for e in store.read_log()] == ids


def test_i14_step_names_are_free_text_that_round_trips(store):
    names = [
        "../..",
        "a/b",
        "*",
        "'; drop table",
        "推送 模板",
        "😀",
        "-x",
        "e\u0301",
        "\u00e9",
        "a" * 200,
        "正" * 200,
        "\u202ex",
    ]
    store.append("a", [NewEvent(type="step.started", step=name) for name in names])
    assert [e.step for e in store.read_log()] == names


def test_i14_step_names_with_controls_or_blank_ends_are_refused(store):
    def steps(*names: Any) -> list[NewEvent]:
        return [NewEvent(type="step.started", step=name) for name in names]

    controls = steps("a\n", "\ta", "a\x1b[2J", "a\x7f", "a\x85b", "a\x9bm")
    each_refused(store, controls, "events[0].step", "control_not_allowed")
    each_refused(store, steps(" a", "a ", "\u00a0a", "a\u3000", " "), "events[0].step", "blank_at_end")
    each_refused(store, steps(""), "events[0].step", "empty")
    each_refused(store, steps("a" * 201, "正" * 201), "events[0].step", "too_long")
    each_refused(store, steps(1, b"a", ["a"]), "events[0].step", "wrong_type")


def test_i16_event_ids_must_be_uuids_and_not_nil(store):
    wrong = [noted(event_id=value) for value in (uuid.UUID(int=0), "x", str(uuid.uuid4()), 7, b"0" * 16)]
    each_refused(store, wrong, "events[0].event_id", "wrong_type")


def test_i19_unknown_types_are_refused(store):
    kinds = ["", "job.exploded", "step", "JOB.STARTED", "job.started ", "log.erased", "log.epoch_started", "x" * 10_000]
    each_refused(store, [NewEvent(type=kind) for kind in kinds], "events[0].type", "unknown_type")
    each_refused(store, [NewEvent(type=kind) for kind in (None, 7, ["job.started"])], "events[0].type", "unknown_type")


def test_i22_times_need_a_zone_and_a_year_from_1_to_9999(store):
    each_refused(store, [noted(occurred_at=datetime(2026, 1, 1))], "events[0].occurred_at", "no_zone")
    each_refused(store, [noted(occurred_at=value) for value in ("2026", 1, 1.5)], "events[0].occurred_at", "wrong_type")
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    far = [datetime(1, 1, 1, tzinfo=east), datetime(9999, 12, 31, 23, tzinfo=west)]
    each_refused(store, [noted(occurred_at=value) for value in far], "events[0].occurred_at", "out_of_range")
    edges = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]
    store.append("a", [noted(occurred_at=value) for value in edges])
    assert [e.occurred_at for e in store.read_log()] == edges


def test_the_actor_is_one_line(store):
    each_refused(store, [noted(actor="")], "events[0].actor", "empty")
    each_refused(store, [noted(actor="a" * 201)], "events[0].actor", "too_long")
    each_refused(store, [noted(actor="a\nb")], "events[0].actor", "control_not_allowed")
    each_refused(store, [noted(actor=7)], "events[0].actor", "wrong_type")


def test_64_kib_of_data_are_kept_and_one_byte_more_refused(store):
    frame = len(b'{"message":""}')
    for letter in ("x", "正", "😀"):
        room, left = divmod(MAX_DATA - frame, len(letter.encode()))
        text = letter * room + "x" * left
        each_refused(
            store.for_log(empty_log(store)), [noted(data={"message": text + "x"})], "events[0].data", "too_long"
        )
        store.append("a", [noted(data={"message": text})])
        assert len(store.read_log()[-1].data_json) == MAX_DATA
        assert store.read_log()[-1].data["message"] == text


def empty_log(store: Any) -> str:
    name = f"{store.log}-{uuid.uuid4().hex[:6]}"
    store.create_log(name)
    return name


def test_a_long_stack_keeps_head_and_tail_within_32_kib_and_no_character_is_cut(store):
    for letter in ("x", "正", "😀", "é"):
        for shift in range(4):
            stack = "HEAD" + "a" * shift + letter * 20_000 + "TAIL" + letter * 20_000 + "END"
            store.append("a", [NewEvent(type="job.failed", data={"error": {"message": "m", "stack": stack}})])
            cut = store.read_log()[-1].data["error"]["stack"]
            assert MAX_STACK - 8 <= len(cut.encode()) <= MAX_STACK
            assert cut.startswith("HEAD" + "a" * shift + letter)
            assert cut.endswith(letter + "END")
            assert "\ufffd" not in cut
            assert set(cut) <= set(stack) | set("\n… bytes left out 0123456789")
            assert "bytes left out" in cut
        store = store.for_log(empty_log(store))


def test_a_stack_of_exactly_32_kib_is_kept_whole(store):
    for stack in ("x" * MAX_STACK, "正" * (MAX_STACK // 3) + "xx"):
        assert len(stack.encode()) == MAX_STACK
        store.append("a", [NewEvent(type="step.failed", step="s", data={"error": {"message": "m", "stack": stack}})])
        assert store.read_log()[-1].data["error"]["stack"] == stack


def test_a_stack_that_was_cut_is_still_a_duplicate_when_sent_again(store):
    event = NewEvent(type="job.failed", event_id=uuid.uuid4(), data={"error": {"message": "m", "stack": "x" * 50_000}})
    store.append("a", [event])
    assert store.append("a", [event])[0].duplicate


def test_secrets_are_taken_out_before_anything_is_stored_hashed_or_compared(open_store):
    def redact(given: dict[str, Any]) -> dict[str, Any]:
        return {key: value.replace("hunter2", "[redacted]") for key, value in given.items()}

    store = open_store(redact=redact)
    ident = uuid.uuid4()
    store.append("a", [noted(event_id=ident, data={"message": "password=hunter2"})])
    assert store.read_log()[0].data == {"message": "password=[redacted]"}
    assert store.append("a", [noted(event_id=ident, data={"message": "password=[redacted]"})])[0].duplicate
