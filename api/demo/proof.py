"""What the demonstration claims, checked against what the servers hold. Each check says what it found, or raises."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec
import redis

from api.demo.work import Result, plan
from eventstore.events import RecordedEvent
from eventstore.store import EventStore
from eventstore.wire import cursor_of, encode_event, stream_key
from projections.snapshots import JobSnapshot, read_snapshot

PATIENCE: Final = 10.0  # seconds that the relay may need to publish the end
PAGE: Final = 1_000
EXPECTED_REASONS: Final = ["regression", "step_ended"]


class NotShown(Exception):
    """Something that the demonstration claims is not so."""

    code: ClassVar[str] = "demo_failed"
    retryable: ClassVar[bool] = False

    def __init__(self, text: str) -> None:
        super().__init__(f"the demo did not show what it claims: {text}")


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """The log read again from a cursor in the middle of the job: how much, and the digest that both ways agree on."""

    cursor: str
    upto: int
    events: int
    digest: str


def read_history(store: EventStore, job_id: str) -> list[RecordedEvent]:
    """All events of the job, in order."""
    events: list[RecordedEvent] = []
    while page := store.read_job(job_id, events[-1].version if events else 0, limit=PAGE):
        events += page
    return events


def check_work(result: Result) -> str:
    """The project is really there: commits, rows, manifests."""
    wanted = {"Say what shall run where", "Add notes", "Add texts in English and Chinese"}
    if not wanted <= set(result.commits):
        raise NotShown(f"the origin lacks commits: it has {', '.join(result.commits) or 'none'}")
    if not result.reported:
        raise NotShown("not every report reached the log in time")
    return (
        f"{len(result.commits)} commits at the origin, {result.files + result.manifests} files, {result.rows} rows"
        f" in PostgreSQL, {result.manifests} manifests"
    )


def check_snapshot(store: EventStore, job_id: str) -> JobSnapshot:
    """The job is complete, every step is, and the one that failed once has two attempts with error and stack."""
    job = read_snapshot(store, job_id)
    if job is None:
        raise NotShown(f"the log has no job {job_id}")
    if (job.status, job.percent) != ("completed", 100):
        raise NotShown(f"the job is {job.status} at {job.percent} %")
    for wanted in plan():
        step = job.step(wanted.step)
        if step is None or (step.status, step.percent) != ("completed", 100):
            raise NotShown(f"step {wanted.step} is {'missing' if step is None else step.status}")
    retried = job.step("setup_gitops")
    assert retried is not None
    if [attempt.status for attempt in retried.attempts] != ["failed", "completed"]:
        raise NotShown(f"setup_gitops has attempts {[attempt.status for attempt in retried.attempts]}")
    if "GitFailed" not in (retried.attempts[0].error_stack or ""):
        raise NotShown("the failed attempt of setup_gitops has no stack")
    return job


def check_bar(events: Sequence[RecordedEvent]) -> str:
    """The overall percentage never fell from one event to the next, and is 100 with the last one only."""
    shown = [event.ppm for event in events]
    for before, after, event in zip(shown, shown[1:], events[1:], strict=False):
        if after < before:
            raise NotShown(f"the bar fell from {before / 10_000} % to {after / 10_000} % at position {event.position}")
    if shown[-1] != 1_000_000 or max(shown[:-1]) > 990_000:
        raise NotShown("the bar was not at 100 % with the last event only")
    return f"over {len(events)} events the bar never went back, and reached 100 % with the last one"


def check_rejected(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """The reports that were kept and did not count: those that were sent on purpose, no others."""
    rejected = [event for event in events if not event.applied]
    if sorted(str(event.reason) for event in rejected) != EXPECTED_REASONS:
        raise NotShown(f"not applied are {[(e.position, e.type, e.reason) for e in rejected]}")
    return rejected


def check_replay(store: EventStore, events: Sequence[RecordedEvent], redis_url: str) -> Replay:
    """From a cursor in the middle of the job, Redis and PostgreSQL give the same events, byte for byte."""
    epoch = store.head().epoch
    start, upto = events[len(events) // 2], events[-1].position
    from_postgres = [encode_event(event, epoch) for event in _read(store, start.position, upto)]
    key = stream_key(store.log, epoch)
    with redis.Redis.from_url(redis_url) as client:
        wait_for_relay(client, key, upto)
        from_redis = read_stream(client, key, start.position, upto)
    if from_redis != from_postgres:
        raise NotShown(f"from cursor {cursor_of(start, epoch)} Redis and PostgreSQL give different events")
    digest = hashlib.sha256(b"\n".join(from_redis)).hexdigest()
    return Replay(cursor=cursor_of(start, epoch), upto=upto, events=len(from_redis), digest=digest)


def _read(store: EventStore, after: int, upto: int) -> list[RecordedEvent]:
    events: list[RecordedEvent] = []
    while after < upto:
        page = store.read_log(after, upto=upto, limit=PAGE)
        if not page:
            break
        events += page
        after = page[-1].position
    return events


def wait_for_relay(client: Any, key: str, upto: int) -> None:
    """Until the stream holds the position. Raises `NotShown` when it does not come."""
    deadline = time.monotonic() + PATIENCE
    while True:
        newest = client.xrevrange(key, count=1)
        if newest and int(newest[0][0].split(b"-")[0]) >= upto:
            return
        if time.monotonic() > deadline:
            raise NotShown(f"the relay did not publish position {upto} within {PATIENCE:.0f} s")
        time.sleep(0.02)


def read_stream(client: Any, key: str, after: int, upto: int) -> list[bytes]:
    """The events after a position up to another, read as any program would, with XREAD and the check for a gap."""
    found: list[bytes] = []
    last = after
    while last < upto:
        answer = client.xread({key: f"{last}-0"}, count=PAGE)
        entries = answer[0][1] if answer else []
        if not entries:
            raise NotShown(f"Redis has nothing after position {last}")
        for entry_id, fields in entries:
            position = int(entry_id.split(b"-")[0])
            if position != last + 1:
                raise NotShown(f"Redis has a gap after position {last}")
            if position <= upto:
                found.append(fields[b"event"])
            last = position
    return found
