"""The client for tasks: the same calls as `Client`, with `await` and `async for`. Works on asyncio by anyio."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import httpx

from headway.client import calls
from headway.client.address import (
    LIMITS,
    MAX_ANSWER,
    MAX_REFUSAL,
    SILENCE,
    TIMEOUT,
    Address,
    AsyncRenewal,
    Outage,
    Token,
    Tries,
    Verify,
    failure,
    retried,
    timeouts,
)
from headway.client.calls import Answer, At, Call
from headway.client.errors import BadAnswer, ClientError, Unreachable
from headway.client.following import CaughtUp, Following, Item, stream
from headway.client.values import Appended, AppendedMany, Diff, Event, JobSnapshot, JobSummary, StreamToken

T = TypeVar("T")


class AsyncClient:
    """A server, seen with a key. Everything that `Client` says holds here; `token` may be a coroutine function too."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        token: Token | AsyncRenewal | None = None,
        timeout: float = TIMEOUT,
        verify: Verify = True,
    ) -> None:
        self._address = Address(url, key, token)
        self._timeout = timeout
        Tries(timeout)
        self._http = httpx.AsyncClient(verify=verify, limits=LIMITS, follow_redirects=False)

    def __repr__(self) -> str:
        return f"AsyncClient({self._address.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections, those of followers too."""
        with anyio.CancelScope(shield=True):
            await self._http.aclose()

    async def append(
        self, job_id: str, events: Any, *, expected: int | None = None, idempotency_key: str | None = None
    ) -> Appended:
        """See `Client.append`."""
        return await self._call(calls.append(job_id, events, expected=expected, idempotency_key=idempotency_key))

    async def append_many(self, events: Iterable[Any]) -> AppendedMany:
        """See `Client.append_many`."""
        return calls.joined([await self._call(call) for call in calls.append_many(events)])

    async def job(self, job_id: str, *, at: At | None = None, min_version: int | None = None) -> JobSnapshot:
        """See `Client.job`."""
        return await self._call(calls.job(job_id, at=at, min_version=min_version))

    def jobs(self, **filters: Any) -> AsyncIterator[JobSummary]:
        """See `Client.jobs`."""
        return self._pages(calls.jobs(**filters))

    def events(self, job_id: str | None = None, **filters: Any) -> AsyncIterator[Event]:
        """See `Client.events`."""
        return self._pages(calls.events(job_id, **filters))

    async def diff(self, job_id: str, start: At | None = None, end: At | None = None) -> Diff:
        """See `Client.diff`."""
        return await self._call(calls.diff(job_id, start, end))

    async def stream_token(
        self, *, jobs: Sequence[str] | None = None, prefix: str | None = None, ttl: int | None = None
    ) -> StreamToken:
        """See `Client.stream_token`."""
        return await self._call(calls.stream_token(jobs=jobs, prefix=prefix, ttl=ttl))

    def follow(
        self,
        job_id: str | None = None,
        *,
        jobs: Sequence[str] | None = None,
        prefix: str | None = None,
        after: str | int | None = None,
        events: str | None = None,
        types: Sequence[str] | None = None,
        steps: Sequence[str] | None = None,
        latest: bool = False,
        wait: bool = False,
        caught_up: Callable[[str], object] | None = None,
        silence: float = SILENCE,
        give_up_after: float | None = None,
    ) -> AsyncFollower:
        """See `Client.follow`."""
        following = stream(
            job_id,
            jobs=jobs,
            prefix=prefix,
            after=after,
            events=events,
            types=types,
            steps=steps,
            latest=latest,
            wait=wait,
            can_renew=self._address.get_token is not None,
        )
        return AsyncFollower(self._address, self._http, following, caught_up, silence, give_up_after)

    async def _pages(self, call: Call[calls.Page[T]] | None) -> AsyncIterator[T]:
        while call is not None:
            page = await self._call(call)
            for item in page.items:
                yield item
            call = page.next

    async def _call(self, call: Call[T]) -> T:
        tries = Tries(self._timeout)
        while True:
            try:
                if self._address.wants_token:
                    await renew(self._address)
                return call.read(await self._exchange(call, tries))
            except ClientError as error:
                pause = tries.pause(error)
            await anyio.sleep(pause)

    async def _exchange(self, call: Call[T], tries: Tries) -> Answer:
        request = self._address.http(call.request)
        request.extensions["timeout"] = timeouts(self._timeout, tries.remaining()).as_dict()
        try:
            with anyio.fail_after(tries.remaining()):
                response = await self._http.send(request, stream=True)
                try:
                    body = bytearray()
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_ANSWER:
                            raise BadAnswer(f"the answer is larger than {MAX_ANSWER:,} bytes: ask for less at once")
                finally:
                    await close(response)
        except httpx.HTTPError as error:
            raise failure(error, self._address.url) from None
        except TimeoutError:
            raise Unreachable(f"{self._address.url}: the answer did not arrive in time") from None
        return Answer(response.status_code, response.headers, bytes(body))


class AsyncFollower:
    """What follows, one by one: `async for event in follower`. See `Follower`.

    A cancelled wait loses nothing: iterating again connects again, from where it was.
    """

    def __init__(
        self,
        address: Address,
        http: httpx.AsyncClient,
        following: Following,
        caught_up: Callable[[str], object] | None,
        silence: float,
        give_up_after: float | None,
    ) -> None:
        self.cursor: str | None = following.start
        self._address, self._http, self._following, self._caught_up = address, http, following, caught_up
        self._timeout = timeouts(silence).as_dict()
        self._outage = Outage(address.url, give_up_after)
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._closed = False

    @property
    def status(self) -> str | None:
        """How the job ended: completed, failed or cancelled; None until this was told."""
        return self._following.status

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self._closed = True
        await self._drop()

    async def __anext__(self) -> Item:
        following = self._following
        while not self._closed:
            if following.items:
                item = following.items.popleft()
                if not isinstance(item, CaughtUp):
                    self.cursor = item.cursor
                    return item
                if self._caught_up is not None:
                    self._caught_up(item.cursor)
                continue
            if following.failure is not None:
                await self.close()
                raise following.failure
            if following.ended:
                await self.close()
                break
            try:
                await self._advance()
            except BaseException:
                await self._drop()
                raise
        raise StopAsyncIteration

    async def _advance(self) -> None:
        if self._chunks is None:
            await self._open()
            return
        try:
            chunk = await anext(self._chunks, None)
        except (httpx.HTTPError, httpx.StreamError):
            chunk = None
        if chunk is None:
            await self._drop()
            self._following.lost()
        elif not self._following.feed(chunk):
            await self._drop()

    async def _open(self) -> None:
        following = self._following
        if following.pause:
            await anyio.sleep(following.pause)
        if following.renew or self._address.wants_token:
            await renew(self._address)
            following.renew = False
        request = self._address.http(following.request())
        request.extensions["timeout"] = self._timeout
        try:
            response = await self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            following.lost()
            self._outage.goes_on(retried(failure(error, self._address.url)))
            return
        try:
            body = b"" if response.status_code == 200 else await beginning(response)
        except httpx.HTTPError:
            body = b""
        except BaseException:
            await close(response)
            raise
        if following.opened(Answer(response.status_code, response.headers, body)):
            self._response, self._chunks = response, response.aiter_bytes()
            self._outage.over()
            return
        await close(response)
        if not following.ended and following.failure is None:
            self._outage.goes_on(Unreachable(f"{self._address.url} answers {response.status_code}"))

    async def _drop(self) -> None:
        response, chunks, self._response, self._chunks = self._response, self._chunks, None, None
        if response is not None:
            if chunks is not None:
                with anyio.CancelScope(shield=True):
                    await chunks.aclose()  # type: ignore[attr-defined]
            await close(response)


async def beginning(response: httpx.Response) -> bytes:
    """What a refusal says; of one that does not end the first part."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) >= MAX_REFUSAL:
            break
    return bytes(body[:MAX_REFUSAL])


async def close(response: httpx.Response) -> None:
    """Even in a cancelled task."""
    with anyio.CancelScope(shield=True):
        await response.aclose()


async def renew(address: Address) -> None:
    assert address.get_token is not None
    found = address.get_token()
    address.use(await found if inspect.isawaitable(found) else found)
