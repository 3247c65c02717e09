"""Time travel: what changed in a job between two moments. Moments are positions or cursors of the log, or times."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from api.answers import Asked, Body, answer, asked, packs
from api.parameters import Parameter, place_or_moment, read, switch
from api.problems import MalformedRequest, NotFound
from eventstore.cursor import NOW, START, Cursor, Where
from eventstore.store import EventStore
from projections.as_of import diff, job_as_of
from projections.snapshots import read_snapshot

DIFF_PARAMETERS: Final[tuple[Parameter, ...]] = (
    place_or_moment("from", "The earlier moment; left out: before the job's first event", example="-1"),
    place_or_moment("to", "The later moment; left out: now", example="now"),
    switch("occurred", "The times are the workers' own instead of the log's", False),
)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference: a field of a step (of the job: `step` is null), and its value at both moments."""

    step: str | None
    field: str
    before: Any
    after: Any


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """What changed, the job's own fields first. `versions` and `percents` are those of both moments, 0 before the first
    event."""

    job_id: str
    versions: tuple[int, int]
    percents: tuple[float, float]
    changes: list[Difference]


_encode: Final = msgspec.json.Encoder().encode


@get("/v1/jobs/{job:str}/diff")
async def show_diff(request: Asked) -> Response[bytes]:
    exchange, tenant = asked(request)
    given = read(exchange, DIFF_PARAMETERS)
    start, end = given["from"], given["to"]
    occurred: bool = given["occurred"]
    if occurred and not any(isinstance(moment, datetime) for moment in (start, end)):
        raise MalformedRequest("occurred: it is about times, give one in from or to", field="occurred")
    body = await tenant.reads.run(
        _diff, tenant.store, exchange.job_id or "", START if start is None else start, NOW if end is None else end,
        occurred, packs(exchange),
    )  # fmt: skip
    return answer(exchange, body)


Moment = Cursor | Where | datetime


def _diff(store: EventStore, job_id: str, start: Moment, end: Moment, occurred: bool, pack: bool) -> Body:
    first, last = at_of(store, start), at_of(store, end)
    before = job_as_of(store, job_id, first, occurred=occurred)
    after = job_as_of(store, job_id, last, occurred=occurred)
    if before is None and after is None and read_snapshot(store, job_id) is None:
        raise NotFound(f"there is no job {job_id!r}")
    changes = [
        Difference(step=change.step, field=change.field, before=_value(change.before), after=_value(change.after))
        for change in diff(before, after)
    ]
    both = (before, after)
    found = Diff(
        job_id=job_id,
        versions=tuple(0 if job is None else job.version for job in both),  # type: ignore[arg-type]
        percents=tuple(0.0 if job is None else job.percent for job in both),  # type: ignore[arg-type]
        changes=changes,
    )
    return Body(_encode(found), pack=pack)


def _value(value: Any) -> Any:
    return msgspec.Raw(value) if isinstance(value, bytes) else value


def at_of(store: EventStore, moment: Moment) -> int | datetime:
    """What time travel takes: a position, checked to be on the log's history, or a time. Raises `LogDiverged`."""
    return moment if isinstance(moment, datetime) else store.resolve(moment)[1]


HANDLERS: Final[list[HTTPRouteHandler]] = [show_diff]
