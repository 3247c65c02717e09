"""Where the relay publishes: the seam. A publisher is a wire with a memory of where it stands, or without one.

It decides nothing about history. It says what it holds last (`look`), and it appends a batch if it still stands there,
else it changes nothing and says what it found (`publish`); the relay compares that with the log. So two relays, a stale
one, or a sink that lost everything can't make a duplicate, a gap or a disorder. All publishers pass
tests/contract/test_publishers.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

import msgspec

from eventstore.errors import EventStoreError
from eventstore.events import RecordedEvent
from eventstore.wire import encode_with_cursor

logger = logging.getLogger("headway.relay")

LoadSnapshots = Callable[[Sequence[str]], Mapping[str, bytes]]
"""Blocking: JSON snapshots of these jobs as they are now, each with its version and cursor; unknown jobs left out."""


class PublisherUnavailable(EventStoreError):
    """The sink can't be reached or refuses for now; what became of the last batch is unknown until the next `look`."""

    code = "publisher_unavailable"
    retryable = True


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event on its way out. `event` is its JSON (eventstore.wire)."""

    position: int
    job_id: str
    cursor: str
    event: bytes


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink holds last, of one epoch of one log.

    `cursor` is that of the last entry; None when there is none, or none of ours. `state` is the sink's own name for
    exactly this state, and what `publish` compares. `empty`: as if nothing had ever been published there. `unsure`: the
    sink can't tell what it holds, so the relay goes on from its checkpoint.
    """

    log: str
    epoch: int
    state: str
    cursor: str | None = None
    empty: bool = False
    unsure: bool = False


class Publisher(Protocol):
    """A sink for the events of logs. Used by one task at a time; a call raises `PublisherUnavailable` or succeeds."""

    name: ClassVar[str]
    """Names its checkpoint, `relay:NAME`."""
    keep: int
    """How many of the newest events a sink that lost its place is filled with again."""
    pace: float = 0.0
    """Seconds between batches while it is caught up; what changed meanwhile goes together."""

    async def look(self, log: str, epoch: int) -> Tail:
        """What the sink holds last; what it holds of older epochs is dropped or left to expire."""
        ...

    async def publish(self, tail: Tail, entries: Sequence[Entry], *, replace: bool = False) -> Tail:
        """Append the entries, in order, if the sink stands at `tail`; with `replace`, drop what it held before.

        Returns where the sink stands afterwards: at the last entry, or, if it stood elsewhere, what was found; then
        nothing was appended. If it was disturbed on the way, a first part of the entries was, and is followed by what
        was found. At most 4,000 entries.
        """
        ...

    def encode(self, events: Sequence[RecordedEvent], epoch: int) -> list[Entry]:
        """The events as entries. Pure; may run in any thread."""
        return entries(events, epoch)

    async def caught_up(self, log: str) -> None:
        """Called about once a second, only while everything that the log holds is published."""

    def snapshot_cache(self, load: LoadSnapshots) -> Publisher | None:
        """A publisher that keeps snapshots of jobs beside the stream, if this sink can."""
        del load
        return None

    async def aclose(self) -> None:
        """Give up connections; the next call makes new ones."""


def entries(events: Sequence[RecordedEvent], epoch: int) -> list[Entry]:
    """The events as entries with their JSON. One that can't be written as JSON becomes a placeholder; never raises."""
    made: list[Entry] = []
    for event in events:
        try:
            cursor, raw = encode_with_cursor(event, epoch)
        except Exception as error:
            logger.error(
                "position %d: no JSON can be made of it, a placeholder is published: %s", event.position, error
            )
            cursor, raw = encode_with_cursor(_placeholder(event), epoch)
        made.append(Entry(event.position, event.job_id, cursor, raw))
    return made


def _placeholder(event: RecordedEvent) -> RecordedEvent:
    return msgspec.structs.replace(event, data_json=b'{"unreadable":true}', occurred_us=None, recorded_us=2**62)
