"""Requests and answers as plain values: what each call sends, and what its answer means. Nothing here does I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec

from headway.client.errors import BadAnswer, refusal
from headway.client.values import (
    Appended,
    AppendedMany,
    Diff,
    Event,
    JobSnapshot,
    JobSummary,
    NewEvent,
    StreamToken,
)
from headway.errors import Misuse
from headway.report import new_event_id

T = TypeVar("T")
At = int | str | datetime
"""A moment: a position, a cursor, or a time with a zone."""

MAX_EVENTS: Final = 500  # in one request
MAX_BODY: Final = 900 * 1024  # bytes in one request of many, under the server's 1 MiB
PAGE: Final = 500  # events

_encode: Final = msgspec.json.Encoder().encode


class Request(NamedTuple):
    """`target` is path and query. `headers` without the key: the shell that sends adds it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None = None


class Answer(NamedTuple):
    """Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Call(Generic[T]):
    """A request that may be sent again, and how to read its answer."""

    def __init__(self, request: Request, decode: Callable[[bytes], T]) -> None:
        self.request = request
        self._decode = decode

    def read(self, answer: Answer) -> T:
        """The value of an answer. Raises a `Refused` or `BadAnswer`."""
        check(answer)
        try:
            return self._decode(answer.body)
        except msgspec.MsgspecError as error:
            raise BadAnswer(
                f"the answer to {self.request.method} {self.request.target} can't be read: {error}",
                status=answer.status,
            ) from None


def check(answer: Answer) -> None:
    """Raises what the answer means, unless it is a 2xx."""
    status = answer.status
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        where = answer.headers.get("location", "elsewhere").split("?")[0][:200]
        raise BadAnswer(
            f"the server answered {status}: go to {where}. The client follows no redirect, for it would take the key"
            " along: give it the right address",
            code="redirected",
            status=status,
        )
    raise refusal(
        status,
        answer.body,
        content_type=answer.headers.get("content-type", ""),
        retry_after=retry_after(answer.headers.get("retry-after")),
    )


def retry_after(text: str | None, *, now: Callable[[], float] | None = None) -> float | None:
    """The seconds that a Retry-After asks for: a number, or a date (RFC 9110, section 10.2.3); None for neither."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - (now or time.time)())


# -- what may be asked ------------------------------------------------------------------------------------------------


def append(
    job_id: str, events: Any, *, expected: int | None = None, idempotency_key: str | None = None
) -> Call[Appended]:
    given = [events] if isinstance(events, Mapping | NewEvent) else events
    body = _encode([ready(event, draw=idempotency_key is None) for event in given])
    headers = {"content-type": "application/json"}
    if expected is not None:
        headers |= {"if-none-match": "*"} if expected == 0 else {"if-match": f'"{expected}"'}
    if idempotency_key is not None:
        headers["idempotency-key"] = idempotency_key
    return Call(Request("POST", f"/v1/jobs/{segment(job_id)}/events", headers, body), _appended)


def append_many(events: Iterable[Any]) -> Iterator[Call[AppendedMany]]:
    """One call per 500 events or 900 KiB, in order."""
    waiting: list[bytes] = []
    size = 0
    for event in events:
        line = _encode(ready(event))
        if waiting and (len(waiting) == MAX_EVENTS or size + len(line) > MAX_BODY):
            yield _many(waiting)
            waiting, size = [], 0
        waiting.append(line)
        size += len(line) + 1
    if waiting:
        yield _many(waiting)


def _many(lines: Sequence[bytes]) -> Call[AppendedMany]:
    body = b"[" + b",".join(lines) + b"]"
    return Call(Request("POST", "/v1/events", {"content-type": "application/json"}, body), _appended_many)


def joined(parts: Sequence[AppendedMany]) -> AppendedMany:
    """Several answers as one: each job as it was after the last."""
    jobs = {job.job_id: job for part in parts for job in part.jobs}
    return AppendedMany(events=[event for part in parts for event in part.events], jobs=list(jobs.values()))


def job(job_id: str, *, at: At | None = None, min_version: int | None = None) -> Call[JobSnapshot]:
    return Call(get(f"/v1/jobs/{segment(job_id)}", at=moment(at), min_version=min_version), _snapshot)


def jobs(**filters: Any) -> Call[Page[JobSummary]]:
    return Call(get("/v1/jobs", **filters), _jobs)


def events(job_id: str | None = None, **filters: Any) -> Call[Page[Event]]:
    path = "/v1/events" if job_id is None else f"/v1/jobs/{segment(job_id)}/events"
    given = {"limit": PAGE, **filters}
    return Call(get(path, **{name: moment(value) for name, value in given.items()}), _events)


def diff(job_id: str, start: At | None = None, end: At | None = None) -> Call[Diff]:
    return Call(get(f"/v1/jobs/{segment(job_id)}/diff", **{"from": moment(start), "to": moment(end)}), _diff)


def stream_token(
    *, jobs: Sequence[str] | None = None, prefix: str | None = None, ttl: int | None = None
) -> Call[StreamToken]:
    wanted = {"jobs": list(jobs) if jobs else None, "prefix": prefix, "ttl": ttl}
    body = _encode({name: value for name, value in wanted.items() if value is not None})
    return Call(Request("POST", "/v1/stream-tokens", {"content-type": "application/json"}, body), _token)


def ready(event: Any, *, draw: bool = True) -> dict[str, Any]:
    """An event as it is sent: with an id, drawn once, so that the same call sent twice is one event."""
    plain: Any = msgspec.to_builtins(event) if isinstance(event, NewEvent) else event
    if not isinstance(plain, Mapping):
        raise Misuse(f"an event is a mapping with a type, or a NewEvent; given {type(event).__name__}")
    given = dict(plain)
    if draw and given.get("event_id") is None:
        given["event_id"] = str(UUID(bytes=new_event_id()))
    return given


def get(path: str, **parameters: Any) -> Request:
    """A GET; what is None is left out, a list stands once for each item, truth is told as `true` and `false`."""
    pairs = [
        (name, str(one).lower() if isinstance(one, bool) else str(one))
        for name, value in parameters.items()
        if value is not None
        for one in (value if isinstance(value, list | tuple) else (value,))
    ]
    return Request("GET", f"{path}?{urlencode(pairs)}" if pairs else path, {"accept": "application/json"})


def segment(job_id: str) -> str:
    """A job's id as one segment of a path. Raises `Misuse` for what would be another path."""
    if not isinstance(job_id, str) or job_id in ("", ".", ".."):
        raise Misuse(f"job_id: {job_id!r} is no job's id")
    return quote(job_id, safe=":@")


def moment(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise Misuse(f"{value!r}: a time needs a zone")
        return value.isoformat()
    return value


# -- what is answered -------------------------------------------------------------------------------------------------


class Page(Generic[T]):
    """Some of many. `next` asks for what follows; None at the end."""

    def __init__(self, items: list[T], next: Call[Page[T]] | None) -> None:
        self.items, self.next = items, next


class _JobPage(msgspec.Struct):
    jobs: list[JobSummary]
    next: str | None = None


class _EventPage(msgspec.Struct):
    events: list[Event]
    next: str | None = None


_appended: Final = msgspec.json.Decoder(Appended).decode
_appended_many: Final = msgspec.json.Decoder(AppendedMany).decode
_snapshot: Final = msgspec.json.Decoder(JobSnapshot).decode
_token: Final = msgspec.json.Decoder(StreamToken).decode
_job_page: Final = msgspec.json.Decoder(_JobPage).decode
_event_page: Final = msgspec.json.Decoder(_EventPage).decode
_diff: Final = msgspec.json.Decoder(Diff).decode


def _jobs(body: bytes) -> Page[JobSummary]:
    page = _job_page(body)
    return Page(page.jobs, _following(page.next, _jobs))


def _events(body: bytes) -> Page[Event]:
    page = _event_page(body)
    return Page(page.events, _following(page.next, _events))


def _following(target: str | None, decode: Callable[[bytes], Page[T]]) -> Call[Page[T]] | None:
    """The key goes along, so only to where it came from."""
    if target is None:
        return None
    if not target.startswith("/v1/"):
        raise BadAnswer("the next page is said to be elsewhere", code="redirected")
    return Call(Request("GET", target, {"accept": "application/json"}), decode)
