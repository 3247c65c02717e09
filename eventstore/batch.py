"""What a batch of calls becomes: duplicates, expected versions, verdicts, positions, hashes. Pure: no clock, no I/O.

Order of the rules for each call: known ids first, then the expected version, then the limit of the job, then the fold.
A call is all-or-nothing, and a refused call changes nothing for its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from eventstore import chain
from eventstore.codec import Prepared, canonical
from eventstore.errors import EventIdConflict, EventStoreError, JobFull, WrongExpectedVersion
from eventstore.events import ANY, ENDING_TYPES, LOG_JOB, NO_JOB, Appended, Expected, RecordedEvent
from eventstore.inline import InlineProjection, Verdict

MAX_JOB_EVENTS: Final = 50_000


class Head(msgspec.Struct, frozen=True):
    """Where a log stands. `now_us`: the database's clock when it was read."""

    log_id: int
    name: str
    epoch: int
    position: int
    hash: bytes
    fold_version: int
    system_id: str
    timeline: str
    now_us: int


class Known(msgspec.Struct, frozen=True):
    """An event that the log has already, as far as a retry is compared with it."""

    event_id: bytes
    position: int
    version: int
    job_id: str
    type: str
    step: str | None
    attempt: int | None
    seq: int | None
    text: bytes
    salt: bytes
    applied: bool
    reason: str | None
    ppm: int
    hash: bytes
    occurred_us: int | None


class Request:
    """One call: its events, in order, and the version that it expects of its job.

    Who asks with `summarize` finds in `summaries`, once the call is answered, what the projection says of each of its
    jobs right after the call: in the order in which the jobs first stand in it.
    """

    __slots__ = ("events", "expected", "summaries", "summarize")

    def __init__(self, events: Sequence[Prepared], expected: Expected | int = ANY, *, summarize: bool = False) -> None:
        self.events, self.expected, self.summarize = events, expected, summarize
        self.summaries: dict[str, Any] = {}


class Batch(msgspec.Struct):
    """The calls folded: `fresh` are to be written, `head` is the log's head after them, `outcomes` one per call."""

    head: Head
    fresh: list[Prepared]
    outcomes: list[list[Appended] | EventStoreError]


def by_job(requests: Sequence[Request]) -> dict[str, list[Prepared]]:
    """The events of the calls, by job, in order."""
    wanted: dict[str, list[Prepared]] = {}
    for request in requests:
        for event in request.events:
            wanted.setdefault(event.job_id, []).append(event)
    return wanted


def fold_batch(
    head: Head,
    requests: Sequence[Request],
    known: Mapping[bytes, Known],
    states: dict[str, Any],
    projection: InlineProjection,
    *,
    recorded_us: int,
    max_job_events: int = MAX_JOB_EVENTS,
) -> Batch:
    """Give every event its place, verdict and hash. Changes `states`: throw them away if the batch isn't written."""
    name = head.name.encode()
    position, link = head.position, head.hash
    evolve = projection.evolve
    fresh: list[Prepared] = []
    seen: dict[bytes, Prepared] = {}
    outcomes: list[list[Appended] | EventStoreError] = []
    for request in requests:
        try:
            new = _admit(request, known, seen, states, max_job_events)
        except EventStoreError as error:
            outcomes.append(error)
            continue
        for event in new:
            job_id = event.job_id
            state = states[job_id]
            position += 1
            event.position = position
            event.version = state.version + 1
            event.recorded_us = recorded_us
            if job_id == LOG_JOB:
                state.version, verdict = event.version, Verdict(True, None, 0)
            else:
                states[job_id], verdict = evolve(state, event)
            event.applied, event.reason, event.ppm = verdict
            event.hash = link = chain.link(
                link,
                chain.leaf(
                    name, position, job_id, event.version, event.event_id, event.type, event.step, event.attempt,
                    event.seq, event.applied, event.reason, event.ppm, event.actor, event.occurred_us, recorded_us,
                    event.digest,
                ),
            )  # fmt: skip
            seen[event.event_id] = event
        fresh += new
        outcomes.append([_answer(event, known, seen, head.epoch) for event in request.events])
        if request.summarize:
            request.summaries = {event.job_id: None for event in request.events}
            for job_id in request.summaries:
                request.summaries[job_id] = projection.summary(states[job_id])
    after = msgspec.structs.replace(head, position=position, hash=link) if fresh else head
    return Batch(after, fresh, outcomes)


def _admit(
    request: Request,
    known: Mapping[bytes, Known],
    seen: Mapping[bytes, Prepared],
    states: Mapping[str, Any],
    max_job_events: int,
) -> list[Prepared]:
    """The events of a call that the log does not have yet; raises if the call must be refused as a whole."""
    new: list[Prepared] = []
    own: dict[bytes, Prepared] = {}
    for event in request.events:
        first = known.get(event.event_id) or seen.get(event.event_id) or own.get(event.event_id)
        if first is None:
            own[event.event_id] = event
            new.append(event)
        else:
            compare(event, first)
    if not new:
        return new
    if request.expected is not ANY:
        actual = states[new[0].job_id].version
        wanted = 0 if request.expected is NO_JOB else request.expected
        if wanted != actual:
            raise WrongExpectedVersion(new[0].job_id, request.expected, actual)
    if len(new) == 1 and states[new[0].job_id].version < max_job_events:
        return new
    counts: dict[str, int] = {}
    for event in new:
        count = counts.get(event.job_id, states[event.job_id].version)
        if count >= max_job_events and event.type not in ENDING_TYPES:
            raise JobFull(event.job_id, max_job_events)
        counts[event.job_id] = count + 1
    return new


def compare(event: Prepared, first: Known | Prepared) -> None:
    """Raise `EventIdConflict` unless `event` says what the event with its id says already.

    `data.traceparent` may differ: it names the request, and a retry is another request.
    """
    if event.job_id != first.job_id:
        raise EventIdConflict(_show(event.event_id))
    differs = next((name for name in ("type", "step", "attempt", "seq", "text") if _differ(event, first, name)), None)
    if differs is None and event.occurred_us is not None and event.occurred_us != first.occurred_us:
        differs = "occurred_at"
    if differs is not None:
        raise EventIdConflict(
            _show(event.event_id), getattr(first, "position", None), "data" if differs == "text" else differs
        )


def _differ(event: Prepared, first: Known | Prepared, name: str) -> bool:
    mine, theirs = getattr(event, name), getattr(first, name)
    if mine == theirs:
        return False
    return name != "text" or _untraced(mine) != _untraced(theirs)


def _untraced(text: bytes) -> bytes:
    data = msgspec.json.decode(text)
    if "traceparent" not in data:
        return text
    del data["traceparent"]
    return canonical(data)[1]


def _show(event_id: bytes) -> str:
    hexed = event_id.hex()
    return "-".join((hexed[:8], hexed[8:12], hexed[12:16], hexed[16:20], hexed[20:]))


def _answer(event: Prepared, known: Mapping[bytes, Known], seen: Mapping[bytes, Prepared], epoch: int) -> Appended:
    first = known.get(event.event_id) or seen[event.event_id]
    return Appended(
        event_id_bytes=event.event_id,
        epoch=epoch,
        position=first.position,
        version=first.version,
        applied=first.applied,
        reason=first.reason,
        ppm=first.ppm,
        hash=first.hash,
        # The same salt: it is this very call, written by an attempt whose answer got lost.
        duplicate=first is not event and first.salt != event.salt,
    )


def to_recorded(event: Prepared) -> RecordedEvent:
    """A written event as its readers see it."""
    return RecordedEvent(
        event.position, event.job_id, event.version, event.event_id, event.type, event.step, event.attempt, event.seq,
        event.text, event.applied, event.reason, event.ppm, event.actor, event.occurred_us, event.recorded_us,
        event.hash,
    )  # fmt: skip
