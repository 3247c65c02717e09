"""The inline projection: jobs, steps and attempts, folded and written in the transaction of the append."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg

from eventstore import pgarray
from eventstore.events import NewEvent
from eventstore.hot import HotStatement, Param, int8, rows_of_text
from eventstore.inline import FoldEvent, Verdict
from eventstore.pgarray import PgArray
from projections import fold
from projections.check import check
from projections.rows import read_states, write_params
from projections.standing import JobStanding, standing
from projections.state import JobState

SMALL: Final = 256
"""Jobs of at most this many steps are always held whole."""

_SQL: Final = Path(__file__).with_name("sql")
_WRITE: Final = (_SQL / "write_ctes.sql").read_text("utf-8")
_LOAD: Final = (_SQL / "load_states.sql").read_text("utf-8")
_WHOLE: Final = frozenset(("job.planned", "job.completed", "job.failed", "job.cancelled", "job.reopened", "step.added"))
"""Events that may touch any step."""
_BELOW: Final = frozenset("step." + verb for verb in "completed failed skipped cancelled reset removed".split())
"""Events that, on a group, touch what is below it."""


class Progress:
    """An `eventstore.inline.InlineProjection`.

    A state holds the whole job up to 256 steps; of larger ones the steps that events named, with the groups above them,
    unless an event may touch any step. Attempts are written when they begin and end, and then let go.
    `keep_attempts=True` keeps them in the state, for who never reads the tables.
    """

    fold_version: int = fold.FOLD_VERSION
    write_ctes: str = _WRITE
    load_sql: str = _LOAD

    def __init__(self, *, keep_attempts: bool = False) -> None:
        self._keep_attempts = keep_attempts
        self._load = HotStatement(self.load_sql)

    def check(self, event: NewEvent) -> None:
        check(event)

    def initial(self, job_id: str) -> JobState:
        return fold.initial(job_id)

    def holds(self, state: JobState, events: Sequence[FoldEvent]) -> bool:
        if state.complete:
            return True
        for event in events:
            if event.type in _WHOLE:
                return False
            if event.step is not None:
                step = state.steps.get(event.step)
                if step is None or (step.group is not None and event.type in _BELOW):
                    return False
        return True

    def load(
        self, conn: psycopg.Connection[Any], log_id: int, wanted: Mapping[str, Sequence[FoldEvent]]
    ) -> dict[str, JobState]:
        """Each job in one snapshot, so a state is never of two versions; a second look where all steps are needed."""
        whole = [job_id for job_id, events in wanted.items() if any(event.type in _WHOLE for event in events)]
        states = self._read(conn, log_id, wanted, whole)
        partial = {job_id: wanted[job_id] for job_id in states if not self.holds(states[job_id], wanted[job_id])}
        if partial:
            states |= self._read(conn, log_id, partial, list(partial))
        return {job_id: states.get(job_id) or fold.initial(job_id) for job_id in wanted}

    def evolve(self, state: JobState, event: FoldEvent) -> tuple[JobState, Verdict]:
        return fold.evolve(state, event)

    def rows(self, log_id: int, states: Collection[JobState]) -> dict[str, PgArray]:
        del log_id
        params = write_params(states)
        for state in states:
            state.touched.clear()
            state.touched_attempts.clear()
            if not self._keep_attempts:
                state.attempts.clear()
        return params

    def summary(self, state: JobState) -> JobStanding:
        return standing(state)

    def size(self, state: JobState) -> int:
        return 1_500 + 700 * len(state.steps) + 300 * len(state.attempts) + 2 * max(state.text_size, 0)

    def _read(
        self,
        conn: psycopg.Connection[Any],
        log_id: int,
        wanted: Mapping[str, Sequence[FoldEvent]],
        whole: list[str],
    ) -> dict[str, JobState]:
        named = {
            (job_id, event.step) for job_id, events in wanted.items() for event in events if event.step is not None
        }
        params: dict[str, Param | PgArray] = {
            "log_id": int8(log_id),
            "small": int8(SMALL),
            "jobs": pgarray.text(list(wanted)),
            "whole": pgarray.text(whole),
            "named_jobs": pgarray.text([job_id for job_id, _ in named]),
            "named_steps": pgarray.text([step for _, step in named]),
        }
        return read_states(rows_of_text(self._load.execute(conn, params)))
