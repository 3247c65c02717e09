"""The asynchronous shell over a store. Appending awaits the committer's answer; reading borrows a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar, Unpack

import anyio
import anyio.to_thread

from eventstore.append_call import AppendCall
from eventstore.batch import Head
from eventstore.codec import Prepared
from eventstore.cursor import Cursor, Where
from eventstore.events import ANY, Appended, Expected, NewEvent, RecordedEvent
from eventstore.store import TIMEOUT, EventStore, make_call

if TYPE_CHECKING:
    from eventstore.consumer import Consumer
    from eventstore.filters import Following
    from eventstore.subscription import Subscription

P = ParamSpec("P")
R = TypeVar("R")


class AsyncEventStore:
    """`EventStore` for asyncio: the same promises, the same errors.

    An append holds no thread while it waits; a cancelled append that nobody took yet is withdrawn. Reads run in
    threads, at most as many at once as the pool has connections.
    """

    def __init__(self, store: EventStore) -> None:
        self.blocking = store
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def log(self) -> str:
        return self.blocking.log

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a blocking function of the store in a thread, under the limit of its pool."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self.blocking.database.pool_size)
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._limiter)

    async def append(
        self, job_id: str, events: Sequence[NewEvent], *, expected: Expected | int = ANY, timeout: float = TIMEOUT
    ) -> list[Appended]:
        """See `EventStore.append`."""
        return await (await self.submit(self.blocking.prepare(job_id, events), expected, timeout=timeout)).wait_async()

    async def append_many(self, events: Sequence[tuple[str, NewEvent]], *, timeout: float = TIMEOUT) -> list[Appended]:
        """See `EventStore.append_many`."""
        return await (await self.submit(self.blocking.prepare_many(events), timeout=timeout)).wait_async()

    async def submit(
        self,
        events: Sequence[Prepared],
        expected: Expected | int = ANY,
        *,
        timeout: float = TIMEOUT,
        summarize: bool = False,
    ) -> AppendCall:
        """See `EventStore.submit`; await the call's `wait_async`. `summarize` fills its `summaries`."""
        call = make_call(events, expected, timeout, summarize=summarize)
        call.attach(asyncio.get_running_loop())
        known = self.blocking.log_is_known()
        committer = self.blocking.committer() if known else await self.run(self.blocking.committer)
        committer.submit(call)
        return call

    async def head(self) -> Head:
        return await self.run(self.blocking.head)

    async def resolve(self, cursor: str | int | Cursor | Where | None) -> tuple[Head, int]:
        """See `EventStore.resolve`."""
        return await self.run(self.blocking.resolve, cursor)

    async def read_log(self, after: int = 0, *, upto: int = 2**62, limit: int = 1_000) -> list[RecordedEvent]:
        return await self.run(self.blocking.read_log, after, upto=upto, limit=limit)

    async def read_job(
        self, job_id: str, after: int = 0, *, upto: int = 2**62, limit: int = 1_000
    ) -> list[RecordedEvent]:
        return await self.run(self.blocking.read_job, job_id, after, upto=upto, limit=limit)

    def subscribe(self, **following: Unpack[Following]) -> Subscription:
        """See `eventstore.subscription.subscribe`."""
        from eventstore.subscription import subscribe

        return subscribe(self, **following)

    def consume(self, name: str, *, save_every: float = 1.0, **following: Unpack[Following]) -> Consumer:
        """Follow the log under a name, from where that name came to; see `eventstore.consumer.Consumer`."""
        from eventstore.consumer import consume

        return consume(self, name, save_every=save_every, **following)
