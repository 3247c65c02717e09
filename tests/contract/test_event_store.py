"""What every store promises: order, idempotence, expected versions, all-or-nothing, reading back."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from eventstore.chain import GENESIS
from eventstore.errors import (
    EventIdConflict,
    EventStoreError,
    InvalidCursor,
    InvalidEvent,
    JobFull,
    LogDiverged,
    NoSuchLog,
    WrongExpectedVersion,
)
from eventstore.events import ANY, EVENT_TYPES, NO_JOB, NewEvent


def noted(message: str = "x", **fields: Any) -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message}, **fields)


def unmoved(store: Any, action: Any, error: type[EventStoreError]) -> Any:
    """Run what must be refused; nothing may be written by it. Returns the error."""
    before = store.head()
    with pytest.raises(error) as caught:
        action()
    after = store.head()
    assert (after.position, after.hash) == (before.position, before.hash)
    return caught.value


# -- positions and versions -------------------------------------------------------------------------------------------


def test_a_new_log_is_empty_and_starts_with_the_genesis_hash(store):
    head = store.head()
    assert (head.epoch, head.position, head.hash) == (1, 0, GENESIS)
    assert store.read_log() == []
    assert list(store.replay()) == []


def test_positions_are_dense_over_all_jobs_and_versions_within_each(store):
    for turn in range(3):
        for job in ("a", "b"):
            store.append(job, [noted(f"{turn}"), noted(f"{turn}+")])
    events = store.read_log()
    assert [e.position for e in events] == list(range(1, 13))
    for job in ("a", "b"):
        assert [e.version for e in events if e.job_id == job] == [1, 2, 3, 4, 5, 6]
    assert store.head().position == 12
    assert store.head().hash == events[-1].hash


def test_the_answer_names_the_place_and_the_cursor_of_each_event(store):
    first, second = store.append("a", [noted(), noted()])
    assert (first.position, first.version, second.position, second.version) == (1, 1, 2, 2)
    assert not first.duplicate
    assert first.applied
    assert first.reason is None
    assert second.cursor == f"0001_0000000000000002_{store.head().hash[:4].hex()}"
    assert store.resolve(first.cursor)[1] == 1


def test_an_event_reads_back_as_it_was_sent(store):
    ident = uuid.uuid4()
    claimed = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=8)))
    event = NewEvent(
        type="step.progressed", step="推送 模板", attempt=2, seq=7, occurred_at=claimed, event_id=ident,
        data={"percent": 42.5, "message": "正在推送 👩‍💻"}, actor="worker-7",
    )  # fmt: skip
    answer = store.append("build:42", [event])[0]
    recorded = store.read_log()[0]
    assert recorded.job_id == "build:42"
    assert recorded.event_id == ident == answer.event_id
    assert (recorded.type, recorded.step, recorded.attempt, recorded.seq) == ("step.progressed", "推送 模板", 2, 7)
    assert recorded.occurred_at == claimed
    assert recorded.actor == "worker-7"
    assert recorded.data == event.data
    assert recorded.hash == answer.hash
    assert recorded.recorded_at.tzinfo is UTC
    assert store.read_job("build:42") == [recorded]


def test_what_was_not_given_reads_back_as_none(store):
    store.append("a", [NewEvent(type="job.started")])
    event = store.read_log()[0]
    assert (event.step, event.attempt, event.seq, event.actor, event.occurred_at) == (None,) * 5
    assert event.data_json == b"{}"


def test_text_of_any_language_is_kept_byte_for_byte(store):
    texts = [
        "正在推送代码",
        "e\u0301 is not é",
        "\u202eمرحبا",
        "😀\U0001f468\u200d\U0001f469",
        "a\nb\tc\x1b[2J",
        "\u2028\u2029",
        '\\u0000 \\ " /',
    ]
    store.append("a", [noted(text) for text in texts])
    assert [e.data["message"] for e in store.read_log()] == texts
    assert "正在推送代码".encode() in store.read_log()[0].data_json


def test_every_event_type_of_version_1_is_accepted(store):
    events = [NewEvent(type=kind, step="s" if kind.startswith("step.") else None) for kind in sorted(EVENT_TYPES)]
    store.append("a", events)
    assert [e.type for e in store.read_log()] == sorted(EVENT_TYPES)


def test_a_call_over_many_jobs_is_appended_in_its_order(store):
    answers = store.append_many([("a", noted()), ("b", noted()), ("a", noted())])
    assert [(a.position, a.version) for a in answers] == [(1, 1), (2, 1), (3, 2)]
    assert [e.job_id for e in store.read_log()] == ["a", "b", "a"]


def test_an_event_without_an_id_gets_a_new_one_of_version_7(store):
    store.append("a", [noted(), noted()])
    ids = [e.event_id for e in store.read_log()]
    assert len(set(ids)) == 2
    assert {i.version for i in ids} == {7}


def test_the_event_stores_what_was_said_when_it_was_appended(store):
    data = {"level": "info", "message": "before", "tags": ["a"]}
    event = NewEvent(type="job.noted", data=data)
    store.append("a", [event])
    data["message"] = "after"
    data["tags"].append("b")
    assert store.read_log()[0].data == {"level": "info", "message": "before", "tags": ["a"]}


# -- idempotence (C1-C4) ----------------------------------------------------------------------------------------------


def test_the_same_id_again_is_a_duplicate_with_the_first_answer(store):
    event = noted(event_id=uuid.uuid4())
    first = store.append("a", [event])[0]
    store.append("a", [noted("other")])
    again = store.append("a", [event])[0]
    assert again.duplicate
    assert (again.position, again.version, again.hash, again.ppm) == (first.position, first.version, first.hash, 0)
    assert store.head().position == 2


def test_the_same_content_in_another_key_order_and_number_spelling_is_a_duplicate(store):
    ident = uuid.uuid4()
    store.append("a", [NewEvent(type="job.noted", event_id=ident, data={"b": 1.0, "a": {"y": 2, "x": [1e2]}})])
    again = store.append("a", [NewEvent(type="job.noted", event_id=ident, data={"a": {"x": [100], "y": 2.0}, "b": 1})])
    assert again[0].duplicate
    assert store.head().position == 1


def test_a_retry_that_no_longer_claims_a_time_is_still_a_duplicate(store):
    ident, claimed = uuid.uuid4(), datetime(2026, 1, 1, tzinfo=UTC)
    store.append("a", [noted(event_id=ident, occurred_at=claimed)])
    assert store.append("a", [noted(event_id=ident)])[0].duplicate
    assert store.append("a", [noted(event_id=ident, occurred_at=claimed)])[0].duplicate


@pytest.mark.parametrize(
    ("differs", "change"),
    [
        ("type", {"type": "step.started"}),
        ("step", {"step": "other"}),
        ("attempt", {"attempt": 2}),
        ("seq", {"seq": 1}),
        ("data", {"data": {"message": "y"}}),
        ("occurred_at", {"occurred_at": datetime(2026, 1, 2, tzinfo=UTC)}),
    ],
)
def test_the_same_id_with_other_content_is_refused_and_says_what_differs(store, differs, change):
    said = {"type": "step.noted", "step": "s", "attempt": 1, "seq": 0, "data": {"message": "x"}}
    said["occurred_at"] = datetime(2026, 1, 1, tzinfo=UTC)
    ident = uuid.uuid4()
    store.append("a", [NewEvent(**said, event_id=ident)])
    other = NewEvent(**{**said, **change}, event_id=ident)
    error = unmoved(store, lambda: store.append("a", [noted(), other]), EventIdConflict)
    assert (error.event_id, error.position, error.differs) == (str(ident), 1, differs)


def test_an_id_of_another_job_is_refused_without_facts_about_it(store):
    event = noted(event_id=uuid.uuid4())
    store.append("a", [event])
    error = unmoved(store, lambda: store.append("b", [event]), EventIdConflict)
    assert (error.position, error.differs) == (None, None)
    assert "'a'" not in str(error)
    other = unmoved(store, lambda: store.append("b", [noted("y", event_id=event.event_id)]), EventIdConflict)
    assert str(other) == str(error)


def test_an_id_twice_in_a_call_with_equal_content_is_one_event(store):
    event = noted(event_id=uuid.uuid4())
    answers = store.append("a", [event, noted("between"), event])
    assert [(a.position, a.duplicate) for a in answers] == [(1, False), (2, False), (1, True)]
    assert store.head().position == 2


def test_an_id_twice_in_a_call_with_other_content_refuses_the_call(store):
    ident = uuid.uuid4()
    error = unmoved(
        store, lambda: store.append("a", [noted("x", event_id=ident), noted("y", event_id=ident)]), EventIdConflict
    )
    assert (error.position, error.differs) == (None, "data")


def test_an_id_twice_in_a_call_under_two_jobs_refuses_the_call(store):
    event = noted(event_id=uuid.uuid4())
    unmoved(store, lambda: store.append_many([("a", event), ("b", event)]), EventIdConflict)


def test_of_known_and_new_ids_in_one_call_only_the_new_ones_are_appended(store):
    known = [noted(str(n), event_id=uuid.uuid4()) for n in range(2)]
    store.append("a", known)
    answers = store.append("a", [known[1], noted("new"), known[0]])
    assert [(a.position, a.duplicate) for a in answers] == [(2, True), (3, False), (1, True)]
    assert [e.position for e in store.read_log()] == [1, 2, 3]


def test_the_same_id_in_another_log_is_another_event(store):
    other = store.for_log(f"{store.log}-b")
    other.create_log()
    event = noted(event_id=uuid.uuid4())
    assert not store.append("a", [event])[0].duplicate
    assert not other.append("b", [event])[0].duplicate
    assert (store.head().position, other.head().position) == (1, 1)
    assert store.head().hash != other.head().hash


def test_fifty_concurrent_sends_of_one_id_append_one_event(store):
    event = noted(event_id=uuid.uuid4())
    answers: list[Any] = []
    gate = threading.Barrier(50)

    def send() -> None:
        gate.wait()
        answers.append(store.append("a", [event])[0])

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 50
    assert sum(not a.duplicate for a in answers) == 1
    assert len({(a.position, a.version, a.hash) for a in answers}) == 1
    assert store.head().position == 1


def test_threads_that_append_at_once_leave_no_gap(store):
    def work(name: str) -> None:
        for n in range(10):
            store.append(name, [noted(str(n))])

    threads = [threading.Thread(target=work, args=(f"job-{n % 4}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = store.read_log()
    assert [e.position for e in events] == list(range(1, 81))
    for job in range(4):
        assert [e.version for e in events if e.job_id == f"job-{job}"] == list(range(1, 21))


# -- expected versions ------------------------------------------------------------------------------------------------


def test_no_job_is_expected_only_once(store):
    store.append("a", [noted()], expected=NO_JOB)
    error = unmoved(store, lambda: store.append("a", [noted()], expected=NO_JOB), WrongExpectedVersion)
    assert (error.job_id, error.expected, error.actual) == ("a", NO_JOB, 1)


@pytest.mark.parametrize("wrong", [0, 1, 3, 2**40])
def test_another_version_than_expected_is_refused(store, wrong):
    store.append("a", [noted(), noted()])
    store.append("b", [noted()])
    error = unmoved(store, lambda: store.append("a", [noted()], expected=wrong), WrongExpectedVersion)
    assert (error.expected, error.actual) == (wrong, 2)
    assert store.append("a", [noted()], expected=2)[0].version == 3


def test_expecting_version_zero_means_a_new_job(store):
    assert store.append("a", [noted()], expected=0)[0].version == 1


def test_a_whole_retry_is_answered_whatever_version_it_expects(store):
    events = [noted(str(n), event_id=uuid.uuid4()) for n in range(2)]
    first = store.append("a", events, expected=NO_JOB)
    store.append("a", [noted()])
    again = store.append("a", events, expected=NO_JOB)
    assert [a.position for a in again] == [a.position for a in first]
    assert all(a.duplicate for a in again)


def test_a_call_that_is_known_in_part_must_still_meet_the_expected_version(store):
    known = noted(event_id=uuid.uuid4())
    store.append("a", [known])
    unmoved(store, lambda: store.append("a", [known, noted()], expected=NO_JOB), WrongExpectedVersion)
    assert [a.duplicate for a in store.append("a", [known, noted()], expected=1)] == [True, False]


def test_a_conflict_is_told_before_a_wrong_version(store):
    event = noted(event_id=uuid.uuid4())
    store.append("a", [event])
    clash = noted("other", event_id=event.event_id)
    unmoved(store, lambda: store.append("a", [clash], expected=7), EventIdConflict)


@pytest.mark.parametrize("wrong", [-1, True, 1.0, "1", None])
def test_an_expectation_that_means_nothing_is_invalid(store, wrong):
    error = unmoved(store, lambda: store.append("a", [noted()], expected=wrong), InvalidEvent)
    assert error.field == "expected"


@pytest.mark.parametrize("expected", [NO_JOB, 0, 3])
def test_a_call_over_many_jobs_can_expect_no_version(store, expected):
    events = store.prepare_many([("a", noted()), ("b", noted())])
    error = unmoved(store, lambda: store.submit(events, expected).wait(), InvalidEvent)
    assert error.field == "expected"
    assert store.submit(events, ANY).wait()[1].position == 2


# -- all or nothing ---------------------------------------------------------------------------------------------------


def test_one_bad_event_of_500_refuses_the_call_and_is_named(store):
    events = [noted(str(n)) for n in range(500)]
    events[250] = NewEvent(type="job.noted", data={"message": "bad", "at": {"x": [0, float("nan")]}})
    error = unmoved(store, lambda: store.append("a", events), InvalidEvent)
    assert error.field == "events[250].data.at.x[1]"
    assert error.given == "nan"
    assert error.rule == "a finite number"
    assert error.rule_code == "not_finite"


def test_a_bad_job_id_in_a_call_over_many_is_named(store):
    error = unmoved(store, lambda: store.append_many([("a", noted()), ("a/b", noted())]), InvalidEvent)
    assert error.field == "events[1].job_id"


@pytest.mark.parametrize("append", ["append", "append_many"])
def test_an_empty_call_is_a_value_error_and_moves_nothing(store, append):
    args = ("a", []) if append == "append" else ([],)
    error = unmoved(store, lambda: getattr(store, append)(*args), InvalidEvent)
    assert isinstance(error, ValueError)
    assert error.field == "events"


def test_a_call_takes_1000_events_and_not_one_more(store):
    events = [noted(str(n)) for n in range(1_001)]
    error = unmoved(store, lambda: store.append("a", events), InvalidEvent)
    assert error.field == "events"
    assert "1,000" in error.rule
    answers = store.append("a", events[:1_000])
    assert (answers[-1].position, answers[-1].version) == (1_000, 1_000)


def test_a_conflict_in_the_middle_of_a_call_leaves_no_part_of_it(store):
    event = noted(event_id=uuid.uuid4())
    store.append("a", [event])
    clash = noted("other", event_id=event.event_id)
    unmoved(store, lambda: store.append("a", [noted(), clash, noted()]), EventIdConflict)
    assert [e.event_id for e in store.read_job("a")] == [event.event_id]


# -- the limit of a job -----------------------------------------------------------------------------------------------


def test_a_full_job_accepts_only_what_ends_it(open_store):
    store = open_store(max_job_events=3)
    store.append("a", [noted() for _ in range(3)])
    error = unmoved(store, lambda: store.append("a", [noted()]), JobFull)
    assert (error.job_id, error.limit) == ("a", 3)
    for version, kind in enumerate(("job.failed", "job.cancelled", "job.completed"), start=4):
        assert store.append("a", [NewEvent(type=kind)])[0].version == version
    store.append("b", [noted()])


def test_a_call_that_would_pass_the_limit_of_a_job_is_refused_as_a_whole(open_store):
    store = open_store(max_job_events=3)
    store.append("a", [noted(), noted()])
    unmoved(store, lambda: store.append("a", [noted(), noted()]), JobFull)
    unmoved(store, lambda: store.append_many([("b", noted()), ("a", noted()), ("a", noted())]), JobFull)
    store.append("a", [noted(), NewEvent(type="job.completed")])
    assert store.read_job("a")[-1].version == 4


def test_a_retry_is_answered_by_a_full_job_too(open_store):
    store = open_store(max_job_events=1)
    event = noted(event_id=uuid.uuid4())
    store.append("a", [event])
    assert store.append("a", [event])[0].duplicate


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(store) -> Any:
    """Jobs a, b, a, b … at positions 1 to 10."""
    for n in range(10):
        store.append("ab"[n % 2], [noted(str(n))])
    return store


def positions(events: Any) -> list[int]:
    return [e.position for e in events]


def test_reading_the_log_is_exclusive_below_and_inclusive_above(filled):
    assert positions(filled.read_log(3)) == [4, 5, 6, 7, 8, 9, 10]
    assert positions(filled.read_log(3, upto=6)) == [4, 5, 6]
    assert positions(filled.read_log(3, upto=6, limit=2)) == [4, 5]
    assert positions(filled.read_log(limit=1)) == [1]
    assert filled.read_log(10) == filled.read_log(99) == filled.read_log(5, upto=5) == filled.read_log(0, upto=0) == []
    assert filled.read_log(7, upto=3) == []


def test_reading_a_job_is_by_version_and_up_to_a_position(filled):
    assert positions(filled.read_job("b")) == [2, 4, 6, 8, 10]
    assert positions(filled.read_job("b", 2)) == [6, 8, 10]
    assert positions(filled.read_job("b", 2, limit=2)) == [6, 8]
    assert positions(filled.read_job("b", 1, upto=7)) == [4, 6]
    assert positions(filled.read_job("b", 1, upto=8)) == [4, 6, 8]
    assert filled.read_job("b", 5) == filled.read_job("nobody") == []


def test_reading_a_job_after_a_position_is_exclusive_below_and_inclusive_above(filled):
    assert positions(filled.read_job_after_position("a", 3, upto=9, limit=10)) == [5, 7, 9]
    assert positions(filled.read_job_after_position("a", 4, upto=8, limit=10)) == [5, 7]
    assert positions(filled.read_job_after_position("a", 0, upto=10, limit=2)) == [1, 3]
    assert filled.read_job_after_position("a", 9, upto=10, limit=10) == []
    assert filled.read_job_after_position("nobody", 0, upto=10, limit=10) == []


def test_replay_gives_what_reading_gives_page_by_page(filled):
    pages = list(filled.replay(page=3))
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    assert [e for page in pages for e in page] == filled.read_log()
    assert [positions(page) for page in filled.replay(4, upto=9, page=2)] == [[5, 6], [7, 8], [9]]
    assert list(filled.replay(10)) == list(filled.replay(99)) == list(filled.replay(5, upto=5)) == []
    with pytest.raises(ValueError, match="page: at least 1"):
        next(filled.replay(page=0))


def test_a_replay_that_is_left_early_disturbs_nothing(filled):
    for _ in range(5):
        replay = filled.replay(page=1)
        assert positions(next(replay)) == [1]
        replay.close()
    assert positions(filled.read_log()) == list(range(1, 11))


def test_a_replay_ends_at_the_head_of_its_start(filled):
    replay = filled.replay(page=5)
    next(replay)
    filled.append("a", [noted()])
    assert positions(next(replay)) == [6, 7, 8, 9, 10]
    with pytest.raises(StopIteration):
        next(replay)


# -- logs -------------------------------------------------------------------------------------------------------------


def test_a_log_that_nobody_created_is_named(store):
    other = store.for_log("never-made")
    for action in (
        other.head,
        other.read_log,
        lambda: other.read_job("a"),
        lambda: other.append("a", [noted()]),
        lambda: other.resolve(0),
        lambda: list(other.replay()),
    ):
        with pytest.raises(NoSuchLog) as caught:
            action()
        assert caught.value.log == "never-made"


def test_a_log_is_created_once(store):
    name = f"{store.log}-c"
    assert store.create_log(name) is True
    assert store.create_log(name) is False
    assert [head.name for head in store.logs()].count(name) == 1
    assert store.for_log(name).head().position == 0


@pytest.mark.parametrize("bad", ["", "A", "-a", "_a", "a/b", "a b", "日志", "a" * 64, "a\n", None, 7])
def test_a_bad_name_of_a_log_is_refused(store, bad):
    with pytest.raises(InvalidEvent) as caught:
        store.for_log(bad)
    assert caught.value.field == "log"


def test_logs_have_positions_of_their_own(store):
    other = store.for_log(f"{store.log}-d")
    other.create_log()
    store.append("a", [noted(), noted()])
    assert other.append("a", [noted()])[0].position == 1
    assert [len(s.read_job("a")) for s in (store, other)] == [2, 1]


# -- cursors ----------------------------------------------------------------------------------------------------------


def test_a_cursor_of_each_kind_is_resolved(filled):
    for given, position in [
        (None, 0), ("", 0), ("-1", 0), (-1, 0), ("0", 0), (0, 0), ("7", 7), (7, 7), ("now", 10), ("10", 10),
        ("0001_0000000000000000_00000000", 0),
    ]:  # fmt: skip
        head, found = filled.resolve(given)
        assert (found, head.position) == (position, 10)


@pytest.mark.parametrize("ahead", ["11", 2**53, "0001_0000000000000011_00000000"])
def test_a_cursor_ahead_of_the_log_is_told_with_the_last_common_one(filled, ahead):
    with pytest.raises(LogDiverged) as caught:
        filled.resolve(ahead)
    assert caught.value.reason == "ahead"
    assert filled.resolve(caught.value.common)[1] == 10


def test_a_cursor_with_a_foreign_hash_is_told(filled):
    for position in (4, 10):
        with pytest.raises(LogDiverged) as caught:
            filled.resolve(f"0001_{position:016d}_deadbeef")
        assert caught.value.reason == "hash"
        assert filled.resolve(caught.value.common)[1] == 0


def test_a_cursor_of_an_epoch_that_never_was_is_told(filled):
    good = filled.read_log()[3].hash[:4].hex()
    with pytest.raises(LogDiverged) as caught:
        filled.resolve(f"0007_0000000000000004_{good}")
    assert caught.value.reason == "epoch"


@pytest.mark.parametrize(
    "bad",
    ["abc", "1e3", str(2**63), 2**63, str(2**53 + 1), "+5", " 5", "5 ", "-2", -2, "05", "5\n", "٣", "1.0", 1.5, True,
     b"5", "0001_0000000000000004", "0001_0000000000000004_XYZ", "0001_0000000000000004_DEADBEEF", "0001_4_deadbeef",
     "0001_9999999999999999_deadbeef", "0001_0000000000000004_deadbeef\n", "now ", "NOW", "x" * 1_000_000],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(filled, bad):
    with pytest.raises(InvalidCursor) as caught:
        filled.resolve(bad)
    assert len(str(caught.value)) < 300


# -- the listeners ----------------------------------------------------------------------------------------------------


def test_listeners_get_each_batch_once_in_order_with_the_head(store):
    seen: list[Any] = []
    store.on_append(lambda head, events: seen.append((head.position, events)))
    store.append("a", [noted("1"), noted("2")])
    event = noted("3", event_id=uuid.uuid4())
    store.append("b", [event])
    store.append("b", [event])
    stored = store.read_log()
    store.close()
    assert [position for position, _ in seen] == [2, 3]
    assert [e for _, events in seen for e in events] == stored
