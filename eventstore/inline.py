"""The seam between the log and the one projection that is folded inside the append's transaction.

The log knows no read model: it hands each event to `evolve`, stores the verdict with the event, and puts
`write_ctes` into its own statement, so that events and read model commit together or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import psycopg

from eventstore.events import NewEvent
from eventstore.pgarray import PgArray


class Verdict(NamedTuple):
    """What the fold says of an event. `ppm`: the job's overall percentage after it; `reason` is None iff applied."""

    applied: bool
    reason: str | None
    ppm: int


class FoldEvent(Protocol):
    """What a fold may look at. Times: microseconds since 1970; `occurred_us` is None if none was claimed."""

    @property
    def job_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def step(self) -> str | None: ...
    @property
    def attempt(self) -> int | None: ...
    @property
    def seq(self) -> int | None: ...
    @property
    def data(self) -> dict[str, Any]: ...
    @property
    def actor(self) -> str | None: ...
    @property
    def occurred_us(self) -> int | None: ...
    @property
    def recorded_us(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def version(self) -> int: ...


class FoldState(Protocol):
    """The state of one job as the log sees it: nothing but its version (number of events so far, 0 for a new job)."""

    job_id: str
    version: int


class InlineProjection(Protocol):
    """Folded and written in the append's transaction. Built in only; users' projections are asynchronous.

    A state is used linearly: `evolve` may change the state it is given and return the same object; when the database
    refuses the batch, the log throws the states away and loads them again.
    """

    fold_version: int
    write_ctes: str
    """Named CTEs, joined by commas, without leading WITH or trailing comma. They may select from `won(log_id)`
    (one row if the append won, none if it lost) and use the parameters that `rows` gives. Empty: nothing to write."""

    def check(self, event: NewEvent) -> None:
        """Raise `InvalidEvent` if `data` breaks the rules of its type. Runs in the caller, before the queue."""
        ...

    def initial(self, job_id: str) -> Any:
        """The state of a job without events (version 0)."""
        ...

    def holds(self, state: Any, events: Sequence[FoldEvent]) -> bool:
        """Whether `state` has all that folding these events in this order needs (steps, ancestors)."""
        ...

    def load(
        self, conn: psycopg.Connection[Any], log_id: int, wanted: Mapping[str, Sequence[FoldEvent]]
    ) -> dict[str, Any]:
        """The states of these jobs with all that their events need; `initial` for jobs that are not there."""
        ...

    def evolve(self, state: Any, event: FoldEvent) -> tuple[Any, Verdict]:
        """Fold one event. Deterministic; no clock, no I/O; never raises on an event that `check` passed.

        Sets `state.version` and `state.position` to the event's."""
        ...

    def rows(self, log_id: int, states: Collection[Any]) -> dict[str, PgArray]:
        """The parameters of `write_ctes`: what was touched since the last call, each row once, sorted by key.

        Forgets what was touched."""
        ...

    def summary(self, state: Any) -> Any:
        """What an appender may be told of the job as it stands: a value that does not change with the state, or None.

        Must not ask the database: it is called in the committer, between folding and writing."""
        ...

    def size(self, state: Any) -> int:
        """About how many bytes the state holds, for the cache's limit."""
        ...


class _Bare:
    __slots__ = ("job_id", "version")

    def __init__(self, job_id: str, version: int) -> None:
        self.job_id, self.version = job_id, version


class NoProjection:
    """Keeps versions only; every event is applied, every percentage 0. For the log on its own, and to measure it."""

    fold_version: int = 0
    write_ctes: str = ""

    def check(self, event: NewEvent) -> None:
        del event

    def initial(self, job_id: str) -> _Bare:
        return _Bare(job_id, 0)

    def holds(self, state: _Bare, events: Sequence[FoldEvent]) -> bool:
        del state, events
        return True

    def load(
        self, conn: psycopg.Connection[Any], log_id: int, wanted: Mapping[str, Sequence[FoldEvent]]
    ) -> dict[str, _Bare]:
        found = conn.execute(
            "SELECT w.job_id, coalesce((SELECT e.version FROM events e WHERE e.log_id = %s AND e.job_id = w.job_id"
            " ORDER BY e.version DESC LIMIT 1), 0) FROM unnest(%s::text[]) AS w(job_id)",
            (log_id, list(wanted)),
        ).fetchall()
        return {job_id: _Bare(job_id, version) for job_id, version in found}

    def evolve(self, state: _Bare, event: FoldEvent) -> tuple[_Bare, Verdict]:
        state.version = event.version
        return state, Verdict(True, None, 0)

    def rows(self, log_id: int, states: Iterable[_Bare]) -> dict[str, PgArray]:
        del log_id, states
        return {}

    def summary(self, state: _Bare) -> None:
        del state

    def size(self, state: _Bare) -> int:
        return 100 + len(state.job_id)
