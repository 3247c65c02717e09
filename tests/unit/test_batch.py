"""What a batch of calls becomes, without a database: the order of the rules, places, hashes, refusals."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest

from eventstore import chain
from eventstore.batch import Head, Known, Request, by_job, fold_batch, to_recorded
from eventstore.codec import Prepared, prepare
from eventstore.errors import EventIdConflict, EventStoreError, JobFull, WrongExpectedVersion
from eventstore.events import ANY, NO_JOB, NewEvent
from eventstore.inline import NoProjection
from projections.progress import Progress

HEAD = Head(1, "default", 3, 41, bytes(range(32)), 0, "s", "t", 0)
NOW = 1_767_225_600_000_000


def event(job: str = "a", ident: uuid.UUID | None = None, kind: str = "job.noted", **data: Any) -> Prepared:
    return prepare(job, NewEvent(type=kind, event_id=ident, data=data))


def fold(requests: list[Request], known: dict[bytes, Known] | None = None, versions: dict[str, int] | None = None,
         **options: Any) -> Any:  # fmt: skip
    projection = NoProjection()
    states = {job: projection.initial(job) for job in by_job(requests)}
    for job, version in (versions or {}).items():
        states[job] = projection.initial(job)
        states[job].version = version
    return fold_batch(HEAD, requests, known or {}, states, projection, recorded_us=NOW, **options)


def stored(event: Prepared, position: int = 7) -> Known:
    return Known(
        event.event_id, position, 2, event.job_id, event.type, event.step, event.attempt, event.seq, event.text,
        b"s" * 16, True, None, 5, b"h" * 32, event.occurred_us,
    )  # fmt: skip


def test_calls_get_their_places_in_order_after_the_head():
    batch = fold([Request([event("a"), event("b")]), Request([event("a")])], versions={"a": 4})
    assert [(e.job_id, e.position, e.version) for e in batch.fresh] == [("a", 42, 5), ("b", 43, 1), ("a", 44, 6)]
    assert (batch.head.position, batch.head.epoch, batch.head.log_id) == (44, 3, 1)
    assert [[a.position for a in answers] for answers in batch.outcomes] == [[42, 43], [44]]
    assert {e.recorded_us for e in batch.fresh} == {NOW}


def test_each_hash_is_linked_to_the_one_before():
    batch = fold([Request([event("a"), event("b")])])
    running = HEAD.hash
    for each in map(to_recorded, batch.fresh):
        prepared = batch.fresh[each.position - 42]
        leaf = chain.leaf(
            b"default", each.position, each.job_id, each.version, each.event_id_bytes, each.type, None, None, None,
            True, None, 0, None, None, NOW, prepared.digest,
        )  # fmt: skip
        running = chain.link(running, leaf)
        assert each.hash == running
    assert batch.head.hash == running


def test_a_batch_of_nothing_new_leaves_the_head_alone():
    known = event("a")
    batch = fold([Request([known])], {known.event_id: stored(known)})
    assert batch.head is HEAD
    assert batch.fresh == []
    (answer,) = batch.outcomes[0]
    assert (answer.position, answer.version, answer.ppm, answer.duplicate, answer.epoch) == (7, 2, 5, True, 3)


def test_a_refused_call_takes_no_place_and_moves_no_state():
    bad = Request([event("a"), event("a")], expected=9)
    batch = fold([Request([event("a")]), bad, Request([event("a")])])
    assert [(e.position, e.version) for e in batch.fresh] == [(42, 1), (43, 2)]
    first, refused, last = batch.outcomes
    assert (first[0].version, last[0].version) == (1, 2)
    assert isinstance(refused, WrongExpectedVersion)
    assert refused.actual == 1


def test_the_version_that_a_call_expects_may_come_from_a_call_before_it_in_the_batch():
    requests = [Request([event("a")], NO_JOB), Request([event("a")], 1), Request([event("a")], NO_JOB)]
    kinds = [isinstance(outcome, EventStoreError) for outcome in fold(requests).outcomes]
    assert kinds == [False, False, True]


def test_an_id_of_an_earlier_call_in_the_batch_is_known():
    ident = uuid.uuid4()
    batch = fold([Request([event("a", ident, x=x)]) for x in (1, 1, 2)])
    assert len(batch.fresh) == 1
    first, again, other = batch.outcomes
    assert (first[0].duplicate, again[0].duplicate, again[0].position) == (False, True, 42)
    assert isinstance(other, EventIdConflict)


def test_an_id_of_a_refused_call_is_still_free():
    ident = uuid.uuid4()
    batch = fold([Request([event("a", ident)], 9), Request([event("a", ident)])])
    assert isinstance(batch.outcomes[0], WrongExpectedVersion)
    assert batch.outcomes[1][0].duplicate is False


def test_the_very_call_that_was_written_by_a_lost_attempt_is_no_duplicate():
    """The salt tells: it was drawn for this call, so what stands there is this call's own event."""
    mine = event("a")
    own = msgspec.structs.replace(stored(mine), salt=mine.salt)
    assert fold([Request([mine])], {mine.event_id: own}).outcomes[0][0].duplicate is False
    assert fold([Request([mine])], {mine.event_id: stored(mine)}).outcomes[0][0].duplicate is True


@pytest.mark.parametrize(("limit", "kinds"), [(3, []), (2, [JobFull]), (1, [JobFull]), (0, [JobFull])])
def test_the_limit_of_a_job_counts_what_it_has_and_what_the_call_brings(limit, kinds):
    requests = [Request([event("a"), event("a")])]
    outcome = fold(requests, versions={"a": 1}, max_job_events=limit).outcomes[0]
    assert [type(outcome)] == (kinds or [list])


def test_an_ending_event_passes_the_limit_and_what_follows_it_does_not():
    end = event("a", kind="job.completed")
    assert len(fold([Request([end])], versions={"a": 5}, max_job_events=5).fresh) == 1
    assert isinstance(fold([Request([end, event("a")])], versions={"a": 5}, max_job_events=5).outcomes[0], JobFull)


def test_duplicates_come_before_the_expected_version_and_that_before_the_limit():
    known = event("a")
    requests = [Request([known], expected=9), Request([known, event("a")], expected=9), Request([event("a")], ANY)]
    outcomes = fold(requests, {known.event_id: stored(known)}, {"a": 2}, max_job_events=2).outcomes
    assert [type(outcome) for outcome in outcomes] == [list, WrongExpectedVersion, JobFull]


@pytest.mark.parametrize("job", ["a", "b"])
def test_a_retry_may_carry_another_traceparent_and_nothing_else_of_other_content(job):
    ident = uuid.uuid4()
    first = event("a", ident, traceparent="00-1", x=1)
    for data in ({"traceparent": "00-2", "x": 1}, {"x": 1}):
        outcome = fold([Request([event(job, ident, **data)])], {ident.bytes: stored(first)}).outcomes[0]
        assert isinstance(outcome, EventIdConflict) if job == "b" else outcome[0].duplicate
    for data in ({"traceparent": "00-1", "x": True}, {"traceparent": "00-1", "x": {"traceparent": 1}}, {"y": 1}):
        outcome = fold([Request([event("a", ident, **data)])], {ident.bytes: stored(first)}).outcomes[0]
        assert isinstance(outcome, EventIdConflict)


def test_an_event_without_a_trace_is_the_same_when_it_is_sent_again_with_one():
    ident = uuid.uuid4()
    again = event("a", ident, traceparent="00-2", x=1)
    assert fold([Request([again])], {ident.bytes: stored(event("a", ident, x=1))}).outcomes[0][0].duplicate


def test_who_asks_is_told_of_each_job_as_it_is_right_after_the_call():
    projection = Progress()
    asking = [Request([step("b", 10), step("a", 20), step("b", 30)], summarize=True) for _ in range(2)]
    silent = Request([step("a", 50)])
    requests = [asking[0], silent, asking[1]]
    states = {job: projection.initial(job) for job in by_job(requests)}
    fold_batch(HEAD, requests, {}, states, projection, recorded_us=NOW)
    assert [[(job, told.version) for job, told in each.summaries.items()] for each in asking] == [
        [("b", 2), ("a", 1)],
        [("b", 4), ("a", 3)],
    ]
    assert not silent.summaries


def test_who_sends_only_what_is_known_is_told_of_the_job_as_it_stands():
    mine = event("a")
    projection = Progress()
    states = {"a": projection.initial("a")}
    states["a"].version = 9
    request = Request([mine], summarize=True)
    fold_batch(HEAD, [request], {mine.event_id: stored(mine)}, states, projection, recorded_us=NOW)
    assert request.summaries["a"].version == 9


def test_a_refused_call_is_told_nothing():
    request = Request([event("a")], 9, summarize=True)
    fold([request])
    assert not request.summaries


def step(job: str, percent: float) -> Prepared:
    return prepare(job, NewEvent(type="step.progressed", step="s", data={"percent": percent}))
