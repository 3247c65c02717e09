"""What a job looks like now: itself, its steps with their attempts, and the cursor that the picture reflects.

A snapshot is read in one REPEATABLE READ, READ ONLY transaction together with the log's head: what follows the cursor
is what the snapshot does not show yet, no more, no less. Percentages are percent here (0 to 100), times UTC datetimes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg

from eventstore import pgarray, statements
from eventstore.batch import Head
from eventstore.cursor import format_cursor
from eventstore.errors import NoSuchLog, StoreUnavailable
from eventstore.events import to_datetime
from eventstore.statements import Conn
from eventstore.store import EventStore

MAX_LIST: Final = 1_000


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a step."""

    attempt: int
    status: str
    percent: float
    worker: str | None
    started_at: datetime
    ended_at: datetime | None
    error: msgspec.Raw | None
    error_stack: str | None


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the plan, as it stands. `weight` is None for a step with a range, which then is `range`."""

    step: str
    parent: str | None
    label: str | None
    weight: float | None
    range: tuple[float, float] | None
    status: str
    percent: float
    done: int | None
    total: int | None
    unit: str | None
    attempt: int
    message: str | None
    reason: str | None
    metadata: msgspec.Raw | None
    error: msgspec.Raw | None
    error_stack: str | None
    started_at: datetime | None
    updated_at: datetime | None
    ended_at: datetime | None
    until: datetime | None
    rejected: int
    attempts: list[AttemptView]


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A job without its steps, as lists show it."""

    job_id: str
    title: str | None
    kind: str | None
    status: str
    percent: float
    message: str | None
    reason: str | None
    current_step: str | None
    continues: str | None
    metadata: msgspec.Raw | None
    error: msgspec.Raw | None
    error_stack: str | None
    plan_version: int
    steps_total: int
    steps_open: int
    steps_done: int
    steps_failed: int
    rejected: int
    version: int
    position: int
    first_position: int
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    ended_at: datetime | None
    until: datetime | None


class JobSnapshot(JobSummary, frozen=True, kw_only=True):
    """A job with its steps in plan order, and the cursor after which its news begin."""

    cursor: str
    steps: list[StepView]

    def step(self, name: str) -> StepView | None:
        return next((step for step in self.steps if step.step == name), None)


JOB_COLUMNS: Final = (
    "job_id, title, kind, status, percent, message, reason, current_step, continues, metadata, error, error_stack,"
    " plan_version, steps_total, steps_open, steps_done, steps_failed, rejected, version, position, first_position,"
    " created_at, started_at, updated_at, ended_at, until_at"
)
_JOBS: Final = f"SELECT {JOB_COLUMNS} FROM jobs WHERE log_id = %s AND job_id = ANY(%s)"  # noqa: S608
_STEPS: Final = (
    "SELECT job_id, step, parent, label, weight, span_start, status, percent,"
    " CASE WHEN state ->> 4 = '2' THEN done END, total, unit, attempt, message,"
    " reason, metadata, error, error_stack, started_at, updated_at, ended_at, until_at, rejected"
    " FROM steps WHERE log_id = %s AND job_id = ANY(%s) AND status <> 'removed' ORDER BY job_id, ordinal"
)
"""A step that reports percentages keeps the last one in `done` (its mode stands in `state`, see rows.py): not shown."""
_ATTEMPTS: Final = (
    "SELECT job_id, step, attempt, status, percent, worker, started_at, ended_at, error, error_stack"
    " FROM attempts WHERE log_id = %s AND job_id = ANY(%s) ORDER BY job_id, step, attempt"
)
_LIST: Final = (
    f"SELECT {JOB_COLUMNS} FROM jobs WHERE log_id = %(log_id)s AND first_position < %(before)s"  # noqa: S608
    " AND (%(status)s::text IS NULL OR status = %(status)s) AND (%(kind)s::text IS NULL OR kind = %(kind)s)"
    " AND (%(prefix)s::text IS NULL OR starts_with(job_id, %(prefix)s))"
    " ORDER BY first_position DESC LIMIT %(limit)s"
)
"""Served by jobs_first_position, read backwards."""

_encode: Final = msgspec.json.Encoder().encode


def read_snapshot(store: EventStore, job_id: str) -> JobSnapshot | None:
    """The job now; None if the log has no such job."""
    return read_snapshots(store, [job_id]).get(job_id)


def read_snapshots(store: EventStore, job_ids: Sequence[str]) -> dict[str, JobSnapshot]:
    """The jobs now, all of one moment; without those that the log does not have."""
    log_id = store.log_id()
    with store.database.session(snapshot=True) as conn:
        return _read(conn, log_id, job_ids)


def encode_snapshot(view: JobSnapshot | JobSummary) -> bytes:
    """The view as one line of JSON."""
    return _encode(view)


def cached_snapshots(store: EventStore) -> Any:
    """What a relay writes into Redis: a function from job ids to their snapshots as JSON."""

    def read(job_ids: Sequence[str]) -> Mapping[str, bytes]:
        return {job_id: _encode(view) for job_id, view in read_snapshots(store, job_ids).items()}

    return read


def list_jobs(
    store: EventStore,
    *,
    status: str | None = None,
    kind: str | None = None,
    prefix: str | None = None,
    limit: int = 50,
    before: int | None = None,
) -> list[JobSummary]:
    """Jobs, newest first. For the next page give the last one's `first_position` as `before`."""
    log_id = store.log_id()
    with store.database.session() as conn:
        found = conn.execute(
            _LIST,
            {
                "log_id": log_id,
                "before": 2**62 if before is None else before,
                "status": status,
                "kind": kind,
                "prefix": prefix,
                "limit": max(1, min(limit, MAX_LIST)),
            },
            binary=True,
        )
        return [JobSummary(**job_fields(row)) for row in found.fetchall()]


def _read(conn: Conn, log_id: int, job_ids: Sequence[str]) -> dict[str, JobSnapshot]:
    wanted = (log_id, pgarray.text(job_ids))
    try:
        # A rebuild renames the tables. Blocked by that after our snapshot was taken, we would read the new tables as
        # they were before their last rows came. LOCK takes no snapshot, so ours comes after it
        # (tests/races/test_rebuild_races.py).
        conn.execute("LOCK TABLE jobs, steps, attempts IN ACCESS SHARE MODE")
        jobs = conn.execute(_JOBS, wanted, binary=True)
        steps = conn.execute(_STEPS, wanted, binary=True)
        attempts = conn.execute(_ATTEMPTS, wanted, binary=True)
        row = conn.execute(statements.HEAD_BY_ID, (log_id,), binary=True).fetchone()
    except psycopg.errors.UndefinedTable as error:
        raise StoreUnavailable("the database has no tables for jobs: run `headway migrate`") from error
    if row is None:
        raise NoSuchLog(str(log_id))
    head = Head(*row)
    cursor = format_cursor(head.epoch, head.position, head.hash[:4].hex())
    tries: dict[tuple[str, str], list[AttemptView]] = defaultdict(list)
    for found in attempts.fetchall():
        tries[found[0], found[1]].append(_attempt(found))
    views: dict[str, list[StepView]] = defaultdict(list)
    for found in steps.fetchall():
        views[found[0]].append(_step(found, tries[found[0], found[1]]))
    return {
        found[0]: JobSnapshot(**job_fields(found), cursor=cursor, steps=views[found[0]]) for found in jobs.fetchall()
    }


def job_fields(row: Sequence[Any]) -> dict[str, Any]:
    """The fields of a `JobSummary` from a row of `JOB_COLUMNS`, read in binary."""
    fields = dict(zip(JobSummary.__struct_fields__, row, strict=True))
    fields["percent"] /= 10_000
    for name in ("metadata", "error"):
        fields[name] = _raw(fields[name])
    for name in ("created_at", "started_at", "updated_at", "ended_at", "until"):
        fields[name] = _time(fields[name])
    return fields


def _step(row: Sequence[Any], attempts: list[AttemptView]) -> StepView:
    (_, step, parent, label, weight, start, status, percent, done, total, unit, attempt, message, reason, metadata,
     error, stack, started, updated, ended, until, rejected) = row  # fmt: skip
    return StepView(
        step=step,
        parent=parent,
        label=label,
        weight=weight / 1_000_000 if start is None else None,
        range=None if start is None else (start / 1_000_000, (start + weight) / 1_000_000),
        status=status,
        percent=percent / 10_000,
        done=done,
        total=total,
        unit=unit,
        attempt=attempt,
        message=message,
        reason=reason,
        metadata=_raw(metadata),
        error=_raw(error),
        error_stack=stack,
        started_at=_time(started),
        updated_at=_time(updated),
        ended_at=_time(ended),
        until=_time(until),
        rejected=rejected,
        attempts=attempts,
    )


def _attempt(row: Sequence[Any]) -> AttemptView:
    _, _, attempt, status, percent, worker, started, ended, error, stack = row
    return AttemptView(
        attempt=attempt,
        status=status,
        percent=percent / 10_000,
        worker=worker,
        started_at=to_datetime(started),
        ended_at=_time(ended),
        error=_raw(error),
        error_stack=stack,
    )


def _raw(value: bytes | None) -> msgspec.Raw | None:
    return None if value is None else msgspec.Raw(value)


def _time(us: int | None) -> datetime | None:
    return None if us is None else to_datetime(us)
