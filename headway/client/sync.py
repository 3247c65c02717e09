"""The client for threads: everything happens in the caller's, and Ctrl-C ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from headway.client import calls
from headway.client.address import (
    LIMITS,
    MAX_ANSWER,
    MAX_REFUSAL,
    SILENCE,
    TIMEOUT,
    Address,
    Outage,
    Renewal,
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


class Client:
    """A server, seen with a key: `Client("https://…", key="hw_…")`. Connects when first asked; safe for many threads.

    Each call takes at most `timeout` seconds with all its tries: it is sent again after connection errors, 429 and 503,
    with growing pauses, or those that the server asks for. Errors are `ClientError`s. `token`, instead of a key: a
    stream token for `follow`, or a function that gets one, which is called again when it is used up. `verify`: False,
    or an ssl.SSLContext that trusts a CA of your own.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        token: Token | Renewal | None = None,
        timeout: float = TIMEOUT,
        verify: Verify = True,
    ) -> None:
        self._address = Address(url, key, token)
        self._timeout = timeout
        Tries(timeout)
        self._http = httpx.Client(verify=verify, limits=LIMITS, follow_redirects=False)

    def __repr__(self) -> str:
        return f"Client({self._address.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, those of followers too."""
        self._http.close()

    def append(
        self, job_id: str, events: Any, *, expected: int | None = None, idempotency_key: str | None = None
    ) -> Appended:
        """Append one event or up to 500 to a job, all or none; returns when they are on disk.

        `expected`: the job's version, 0 for a job that must be new; else `WrongExpectedVersion`. `idempotency_key`: a
        text of yours that names this call; the server makes the ids of the events from it.
        """
        return self._call(calls.append(job_id, events, expected=expected, idempotency_key=idempotency_key))

    def append_many(self, events: Iterable[Any]) -> AppendedMany:
        """Append to many jobs, `job_id` in each event; in order, 500 events at a time, each of these all or none."""
        return calls.joined([self._call(call) for call in calls.append_many(events)])

    def job(self, job_id: str, *, at: At | None = None, min_version: int | None = None) -> JobSnapshot:
        """The job with its steps, now or as it was `at` a position, cursor or time. Raises `NotFound`.

        `min_version`: at least as new as this version of it.
        """
        return self._call(calls.job(job_id, at=at, min_version=min_version))

    def jobs(self, **filters: Any) -> Iterator[JobSummary]:
        """All jobs, page by page. Filters: status, kind, prefix, text, order, limit (of a page)."""
        return self._pages(calls.jobs(**filters))

    def events(self, job_id: str | None = None, **filters: Any) -> Iterator[Event]:
        """The history of a job, or of the log, page by page.

        Filters: after, before, type, step, actor, applied, reason, since, until, clock, text, order, prefix, limit (of
        a page); type, step, actor and reason may be lists.
        """
        return self._pages(calls.events(job_id, **filters))

    def diff(self, job_id: str, start: At | None = None, end: At | None = None) -> Diff:
        """What changed in a job between two moments; from its begin, until now."""
        return self._call(calls.diff(job_id, start, end))

    def stream_token(
        self, *, jobs: Sequence[str] | None = None, prefix: str | None = None, ttl: int | None = None
    ) -> StreamToken:
        """A short-lived token for a browser: only streams, and only of these jobs. `ttl`: seconds."""
        return self._call(calls.stream_token(jobs=jobs, prefix=prefix, ttl=ttl))

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
    ) -> Follower:
        """Follow a job: its snapshot, then each event that counts, until the job has ended.

        With `jobs`: the snapshot of each, then their events. With `prefix` or nothing: events of these jobs, or of the
        log, from its start. `after`: a cursor that was kept; then no
        snapshot comes, but what follows; `now` for what is new. `events`: "applied", or "all" with those that did not
        count, which is the default of a log. `types`, `steps`: only these. `latest`: of each step only the newest, for
        slow readers. `wait`: the job may begin later, else `NotFound`. `caught_up` is called with a cursor when
        history is through. Broken connections are taken up again for ever, or for `give_up_after` seconds; one that is
        silent for `silence` seconds counts as broken.
        """
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
        return Follower(self._address, self._http, following, caught_up, silence, give_up_after)

    def _pages(self, call: Call[calls.Page[T]] | None) -> Iterator[T]:
        while call is not None:
            page = self._call(call)
            yield from page.items
            call = page.next

    def _call(self, call: Call[T]) -> T:
        tries = Tries(self._timeout)
        while True:
            try:
                if self._address.wants_token:
                    renew(self._address)
                return call.read(self._exchange(call, tries))
            except ClientError as error:
                pause = tries.pause(error)
            time.sleep(pause)

    def _exchange(self, call: Call[T], tries: Tries) -> Answer:
        request = self._address.http(call.request)
        request.extensions["timeout"] = timeouts(self._timeout, tries.remaining()).as_dict()
        try:
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise BadAnswer(f"the answer is larger than {MAX_ANSWER:,} bytes: ask for less at once")
                    if tries.over():
                        raise Unreachable(f"{self._address.url}: the answer did not arrive in time")
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise failure(error, self._address.url) from None
        return Answer(response.status_code, response.headers, bytes(body))


class Follower:
    """What follows, one by one: `for event in follower`. `cursor` is the place after what was handed out last.

    Keep the cursor with what you did, and give it to `follow(after=…)` to go on there. `with` or `close()` lets go of
    the connection; after an exception of yours, or Ctrl-C, iterating again goes on where it was.
    """

    def __init__(
        self,
        address: Address,
        http: httpx.Client,
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
        self._chunks: Iterator[bytes] = iter(())
        self._closed = False

    @property
    def status(self) -> str | None:
        """How the job ended: completed, failed or cancelled; None until this was told."""
        return self._following.status

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self._drop()

    def __next__(self) -> Item:
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
                self.close()
                raise following.failure
            if following.ended:
                self.close()
                break
            try:
                self._advance()
            except BaseException:
                self._drop()
                raise
        raise StopIteration

    def _advance(self) -> None:
        if self._response is None:
            self._open()
            return
        try:
            chunk = next(self._chunks, None)
        except (httpx.HTTPError, httpx.StreamError):
            chunk = None
        if chunk is None:
            self._drop()
            self._following.lost()
        elif not self._following.feed(chunk):
            self._drop()

    def _open(self) -> None:
        following = self._following
        if following.pause:
            time.sleep(following.pause)
        if following.renew or self._address.wants_token:
            renew(self._address)
            following.renew = False
        request = self._address.http(following.request())
        request.extensions["timeout"] = self._timeout
        try:
            response = self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            following.lost()
            self._outage.goes_on(retried(failure(error, self._address.url)))
            return
        try:
            body = b"" if response.status_code == 200 else beginning(response)
        except httpx.HTTPError:
            body = b""
        except BaseException:
            response.close()
            raise
        if following.opened(Answer(response.status_code, response.headers, body)):
            self._response, self._chunks = response, response.iter_bytes()
            self._outage.over()
            return
        response.close()
        if not following.ended and following.failure is None:
            self._outage.goes_on(Unreachable(f"{self._address.url} answers {response.status_code}"))

    def _drop(self) -> None:
        response, self._response, self._chunks = self._response, None, iter(())
        if response is not None:
            response.close()


def beginning(response: httpx.Response) -> bytes:
    """What a refusal says; of one that does not end the first part."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) >= MAX_REFUSAL:
            break
    return bytes(body[:MAX_REFUSAL])


def renew(address: Address) -> None:
    assert address.get_token is not None
    address.use(address.get_token())
