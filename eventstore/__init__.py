"""The log: append, read, replay, subscribe, relay. It knows no read model and no HTTP.

A *log* is a sequence of events with positions 1, 2, 3 …, without a hole, in commit order. A *job* is what its events
say of one run of some work; a *version* is an event's place in its job. An event is never changed and never deleted.

    store = EventStore("postgresql://…", projection=Progress())     # projections.Progress folds the step table inline
    store.create_log("default")

    answers = store.append("import:42", [
        NewEvent(type="job.planned", data={"steps": [{"step": "fetch"}, {"step": "store", "weight": 3}]}),
        NewEvent(type="step.progressed", step="fetch", data={"done": 5, "total": 20}),
    ])
    answers[1].position, answers[1].applied, answers[1].percent      # 2, True, 6.25

An append returns when it is on disk, and says of each event whether it counted. One that must not count (a regression,
a late report, one after the end) is kept with `applied=False` and a reason. An `event_id` sent again changes nothing:

    again = store.append("import:42", [NewEvent(type="job.noted", event_id=known, data=…)])
    again[0].duplicate                                               # True, with the first position

    store.append("import:42", [...], expected=NO_JOB)                # or a version; else WrongExpectedVersion

Reading is by position in the log or by version in the job; `replay` streams everything at full speed:

    store.read_log(after=100, limit=50)
    store.read_job("import:42", after=0)
    for page in store.replay(after=0): ...

A *cursor* (`0001_0000000000000042_9f8e7d6c`: epoch, position, piece of the hash) is what a consumer keeps. From any
cursor it gets what follows, each event once, in the same order as everybody; history first, then live, without a seam:

    async for event in store.subscribe(after=cursor, jobs=["import:*"]): ...

If the database lost acknowledged history (failover, restore), the log's *epoch* goes up, and a consumer that saw more
than what is left gets `LogDiverged` with the last common cursor: never a silent gap.

    await Relay(store, [RedisStreams(redis_url)]).run()              # publish every event to Redis Streams
    verify(store)                                                    # recompute the hash chain

The promises I1-I9 and how each is kept are in eventstore/DESIGN.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventstore.aio import AsyncEventStore
    from eventstore.cursor import NOW, START, Cursor
    from eventstore.errors import (
        EventIdConflict,
        EventStoreError,
        InvalidCursor,
        InvalidEvent,
        JobFull,
        LogDiverged,
        NoSuchLog,
        OutcomeUnknown,
        StoreBusy,
        StoreUnavailable,
        WrongExpectedVersion,
    )
    from eventstore.events import ANY, NO_JOB, Appended, NewEvent, RecordedEvent
    from eventstore.memory import InMemoryEventStore
    from eventstore.publishers.redis_streams import RedisStreams
    from eventstore.relay import Relay, start_relay
    from eventstore.store import EventStore

__all__ = [
    "ANY",
    "NOW",
    "NO_JOB",
    "START",
    "Appended",
    "AsyncEventStore",
    "Cursor",
    "EventIdConflict",
    "EventStore",
    "EventStoreError",
    "InMemoryEventStore",
    "InvalidCursor",
    "InvalidEvent",
    "JobFull",
    "LogDiverged",
    "NewEvent",
    "NoSuchLog",
    "OutcomeUnknown",
    "RecordedEvent",
    "RedisStreams",
    "Relay",
    "StoreBusy",
    "StoreUnavailable",
    "WrongExpectedVersion",
    "start_relay",
]

_HOMES = {
    "aio": ("AsyncEventStore",),
    "cursor": ("NOW", "START", "Cursor"),
    "events": ("ANY", "NO_JOB", "Appended", "NewEvent", "RecordedEvent"),
    "memory": ("InMemoryEventStore",),
    "publishers.redis_streams": ("RedisStreams",),
    "relay": ("Relay", "start_relay"),
    "store": ("EventStore",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: a command that prints help needs no database driver (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'eventstore' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"eventstore.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
