"""The attempts of a step as the log tells them: who tried, how it ended, with which stack, and what did not count."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from eventstore.store import EventStore
from projections.as_of import At, position_at
from projections.past import fold_past, read_rules
from projections.snapshots import AttemptView
from projections.state import JobState
from projections.views import attempt_view

PAGE: Final = 1_000


class AttemptStory(AttemptView, frozen=True, kw_only=True):
    """One try at a step, and its reports: `reports` counts all of them, `rejected` by reason those that did not count.

    `actors` are who sent them, in the order of their first report. Positions are of the first and last report.
    """

    reports: int
    rejected: dict[str, int]
    actors: list[str]
    first_position: int | None
    last_position: int | None


class _Reports:
    def __init__(self) -> None:
        self.positions: list[int] = []
        self.rejected: Counter[str] = Counter()
        self.actors: dict[str, None] = {}


def attempts_of(store: EventStore, job_id: str, step: str, at: At | None = None) -> list[AttemptStory] | None:
    """The attempts of a step in order, up to a position or time of the log (None: now); None for a step that the job
    never had. A report that names no attempt is about the one that is current then.

    Raises what `projections.as_of` raises.
    """
    upto = store.head().position if at is None else position_at(store, at)
    with store.database.session() as conn:
        rules = read_rules(conn, store.log_id())
    states: dict[str, JobState] = {}
    told: dict[int, _Reports] = {}
    after = 0
    while page := store.read_job(job_id, after, upto=upto, limit=PAGE):
        for event in page:
            fold_past(states, (event,), rules)
            if event.step != step:
                continue
            known = states[job_id].steps.get(step)
            number = event.attempt or (known.attempt if known is not None else 0)
            reports = told.setdefault(number, _Reports())
            reports.positions.append(event.position)
            if event.reason is not None:
                reports.rejected[event.reason] += 1
            if event.actor is not None:
                reports.actors[event.actor] = None
        after = page[-1].version
    state = states.get(job_id)
    if state is None or step not in state.steps:
        return None
    attempts = state.attempts.get(step, {})
    return [_story(attempt_view(attempts[number]), told.get(number, _Reports())) for number in sorted(attempts)]


def _story(attempt: AttemptView, told: _Reports) -> AttemptStory:
    return AttemptStory(
        **msgspec.structs.asdict(attempt),
        reports=len(told.positions),
        rejected=dict(told.rejected),
        actors=list(told.actors),
        first_position=told.positions[0] if told.positions else None,
        last_position=told.positions[-1] if told.positions else None,
    )
