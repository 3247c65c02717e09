"""Compares what writers were told with what the log holds: every difference is a broken promise, whatever the fault."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from eventstore.events import LOG_JOB
from tests.support.writers import Note


class Call(msgspec.Struct):
    """One call: when it was sent, when it was first answered, and every answer that it got."""

    ids: list[str]
    jobs: list[str]
    sent: float
    answered: float | None = None
    answers: list[list[int]] = []
    tries: int = 0


def calls_of(notes: Iterable[Note]) -> list[Call]:
    found: dict[str, Call] = {}
    for note in notes:
        if note.ids:
            found[note.call] = Call(ids=note.ids, jobs=note.jobs, sent=note.at)
        call = found[note.call]
        call.tries = max(call.tries, note.tries)
        if note.positions is not None:
            call.answers.append(note.positions)
            call.answered = note.at if call.answered is None else min(call.answered, note.at)
    return list(found.values())


def violations(calls: Sequence[Call], events: Sequence[Any]) -> list[str]:
    """Every promise that the history breaks; empty if it keeps them all. `events`: the whole log, as read.

    lost: an answered event stands at its position · duplicate, phantom: each id once, only ids that were sent ·
    whole: of a call all events or none, in its order · dense: positions and versions · real time: what was answered
    before another call was sent stands before it.
    """
    wrong: list[str] = []
    wrong += [
        f"dense: position {event.position} is number {number}"
        for number, event in enumerate(events, start=1)
        if event.position != number
    ]
    versions: Counter[str] = Counter()
    for event in events:
        versions[event.job_id] += 1
        if event.version != versions[event.job_id]:
            wrong.append(f"dense: {event.job_id} has version {event.version} as number {versions[event.job_id]}")
    held = Counter(str(event.event_id) for event in events if event.job_id != LOG_JOB)
    wrong += [f"duplicate: {ident} stands {number} times" for ident, number in held.items() if number > 1]
    sent = {ident for call in calls for ident in call.ids}
    wrong += [f"phantom: nobody sent {ident}" for ident in held.keys() - sent]
    where = {str(event.event_id): event for event in events}
    for call in calls:
        for answer in call.answers:
            for ident, position in zip(call.ids, answer, strict=True):
                if ident not in where:
                    wrong.append(f"lost: {ident} was answered with position {position}")
                elif where[ident].position != position:
                    wrong.append(f"lost: {ident} stands at {where[ident].position}, was answered with {position}")
        there = [where[ident] for ident in call.ids if ident in where]
        if len(there) not in (0, len(call.ids)):
            wrong.append(f"whole: {len(there)} of the {len(call.ids)} events of a call are there")
        wrong += [
            f"whole: {event.event_id} stands under {event.job_id}, was sent to {job}"
            for event, job in zip(there, call.jobs, strict=False)
            if event.job_id != job
        ]
        if any(after.position <= before.position for before, after in pairwise(there)):
            wrong.append("whole: the events of a call stand in another order")
    return wrong + _out_of_time(calls, where)


def _out_of_time(calls: Sequence[Call], where: dict[str, Any]) -> list[str]:
    done = sorted((c.answered, max(c.answers[0])) for c in calls if c.answered is not None)
    times = [answered for answered, _ in done]
    highest: list[int] = []
    for _, position in done:
        highest.append(max(position, highest[-1]) if highest else position)
    wrong = []
    for call in calls:
        there = [where[ident].position for ident in call.ids if ident in where]
        before = bisect.bisect_left(times, call.sent)
        if there and before and min(there) < highest[before - 1]:
            wrong.append(
                f"real time: a call sent after position {highest[before - 1]} was answered stands at {min(there)}"
            )
    return wrong
