"""Appending over HTTP: `POST /v1/jobs/{job}/events` and `POST /v1/events`.

The order of the rules: the key's rate (429), the headers (415, 400), the body (413, 400, 422), the log's (409, 503).
Nothing is written unless the answer is 201, or 503 `outcome_unknown`, which a retry with the same ids resolves.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec

from api.auth import Principal
from api.envelope import Given, Reader
from api.problems import MalformedRequest, UnsupportedMediaType
from api.protocol import CONNECTION, Connection
from api.requests import BODY_LIMIT, ClientGone, Exchange
from api.services import Services
from eventstore.append_call import AppendCall
from eventstore.codec import Prepared
from eventstore.cursor import format_cursor
from eventstore.errors import InvalidEvent
from eventstore.events import ANY, NO_JOB, Appended, Expected
from eventstore.store import EventStore

NAMESPACE: Final = uuid.UUID("1d0f5d52-7a3a-5b0e-9d53-3f0f6ee0a7c4")
"""Of the event ids that an `Idempotency-Key` makes. Fixed for ever: another one would turn retries into new events."""
DEADLINE = 10.0  # seconds until an append is given up; whether it was written is then told, or not known
LARGE: Final = 64 * 1024  # bytes of a body from which on it is read in a thread, so that streams need not wait for it
MAX_VERSION_DIGITS: Final = 15

_JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"
_ACCEPTED: Final = f"{_JSON}, {_NDJSON}"
_MEDIA_TYPE: Final = re.compile(r"application/(?:(?P<lines>x-ndjson)|(?:[a-z0-9][a-z0-9!#$&^_.-]*\+)?json)")
_CHARSET: Final = re.compile(r'charset="?utf-8"?')
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_ETAG: Final = re.compile(rf'"(0|[1-9][0-9]{{0,{MAX_VERSION_DIGITS - 1}}})"')
_encode: Final = msgspec.json.Encoder().encode
_HEADERS: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


class AppendedEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event of the answer, in the order of the request. `duplicate`: it was in the log already, at this place."""

    event_id: str
    position: int
    version: int
    applied: bool
    reason: str | None
    percent: float
    duplicate: bool
    cursor: str


class AppendedToJob(msgspec.Struct, frozen=True, kw_only=True):
    """`job` is the job right after these events: its version is the `ETag` of the answer."""

    events: list[AppendedEvent]
    job: Any


class AppendedToMany(msgspec.Struct, frozen=True, kw_only=True):
    """`jobs` are the jobs right after these events, in the order in which they first stand in the request."""

    events: list[AppendedEvent]
    jobs: list[Any]


async def append_to_job(services: Services, exchange: Exchange) -> None:
    """One event, or an array or lines of them, to one job; see WIRE."""
    services.limits.append(exchange.principal)
    job_id = exchange.job_id
    assert job_id is not None
    call, answers = await _append(services, exchange, job_id, _expected(exchange))
    job = call.summaries[job_id]
    headers = _HEADERS if job is None else (*_HEADERS, (b"etag", b'"%d"' % job.version))
    body = _encode(AppendedToJob(events=[_shown(answer) for answer in answers], job=job))
    await exchange.respond(_status(answers), body, headers)


async def append_to_many(services: Services, exchange: Exchange) -> None:
    """Events of many jobs, each with its `job_id`; all or none."""
    services.limits.append(exchange.principal)
    for name in (b"if-match", b"if-none-match"):
        if exchange.header(name) is not None:
            shown = name.decode()
            raise MalformedRequest(f"{shown}: only for the events of one job", field=shown)
    call, answers = await _append(services, exchange, None, ANY)
    jobs = [job for job in call.summaries.values() if job is not None]
    body = _encode(AppendedToMany(events=[_shown(answer) for answer in answers], jobs=jobs))
    await exchange.respond(_status(answers), body, _HEADERS)


async def _append(
    services: Services, exchange: Exchange, job_id: str | None, expected: Expected | int
) -> tuple[AppendCall, list[Appended]]:
    who = exchange.principal
    lines = _reads_lines(exchange)
    tenant = services.tenant(who)
    traceparent = exchange.traceparent if services.settings.keep_traceparent else None
    reader = Reader(who, job_id, identify=_identify(exchange, who), traceparent=traceparent)
    body = await exchange.body(BODY_LIMIT)
    if len(body) <= LARGE:
        prepared = _read(tenant.store, reader, body, lines, traceparent)
    else:
        prepared = await anyio.to_thread.run_sync(
            _read, tenant.store, reader, body, lines, traceparent, limiter=services.decoding
        )
    began = time.perf_counter()
    call = await tenant.writer.submit(prepared, expected, timeout=DEADLINE, summarize=True)
    answers = await _wait(call, exchange)
    services.metrics.append_done(time.perf_counter() - began)
    return call, answers


def _read(store: EventStore, reader: Reader, body: bytes, lines: bool, traceparent: str | None) -> list[Prepared]:
    given = reader.read_lines(body) if lines else reader.read_json(body)
    return _prepare(store, given, traceparent)


def _prepare(store: EventStore, given: Given, traceparent: str | None) -> list[Prepared]:
    try:
        return store.prepare_many(given.events, checked=True)
    except InvalidEvent as error:
        if traceparent is not None and error.rule_code == "too_long" and error.field.endswith("].data"):
            # What we added must not be what breaks the limit.
            return _prepare(store, given.without(traceparent), None)
        raise given.where(error) from None


async def _wait(call: AppendCall, exchange: Exchange) -> list[Appended]:
    """The call's answer. Who goes away before the committer takes the call withdraws it."""
    connection: Connection = exchange.scope[CONNECTION]
    connection.on_lost(partial(_withdraw, call))
    try:
        return await call.wait_async()
    finally:
        connection.on_lost(None)


def _withdraw(call: AppendCall) -> None:
    if call.take():
        call.settle(ClientGone())
        call.wake()


def _status(answers: list[Appended]) -> int:
    return 200 if all(answer.duplicate for answer in answers) else 201


def _shown(answer: Appended) -> AppendedEvent:
    hexed = answer.event_id_bytes.hex()
    return AppendedEvent(
        event_id=f"{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:]}",
        position=answer.position,
        version=answer.version,
        applied=answer.applied,
        reason=answer.reason,
        percent=answer.ppm / 10_000,
        duplicate=answer.duplicate,
        cursor=format_cursor(answer.epoch, answer.position, answer.hash[:4].hex()),
    )


# -- the headers ------------------------------------------------------------------------------------------------------


def _reads_lines(exchange: Exchange) -> bool:
    """Whether the body is NDJSON; else it is JSON. Raises `UnsupportedMediaType`, also if the header is missing."""
    if exchange.header(b"content-encoding") not in (None, "identity"):
        raise UnsupportedMediaType(
            "send the body as it is: this route decompresses nothing", headers={"accept-encoding": "identity"}
        )
    given = exchange.header(b"content-type")
    if given == _JSON:
        return False
    kind, *parameters = (part.strip() for part in (given or "").lower().split(";"))
    found = _MEDIA_TYPE.fullmatch(kind)
    wrong = [part for part in parameters if part.startswith("charset") and not _CHARSET.fullmatch(part)]
    if found is None or wrong:
        raise UnsupportedMediaType(
            f"send Content-Type: {_JSON} (or {_NDJSON}), in UTF-8; given {(given or 'none')[:80]!a}",
            headers={"accept-post": _ACCEPTED},
        )
    return found["lines"] is not None


def _expected(exchange: Exchange) -> Expected | int:
    """What `If-Match: "7"` and `If-None-Match: *` demand of the job. Raises `MalformedRequest`."""
    match, none_match = exchange.single(b"if-match"), exchange.single(b"if-none-match")
    if match is None and none_match is None:
        return ANY
    if match is not None and none_match is not None:
        raise MalformedRequest("if-match and if-none-match: send one of them", field="if-match")
    if match is None:
        if none_match != "*":
            raise MalformedRequest("if-none-match: only * (the job must not exist yet)", field="if-none-match")
        return NO_JOB
    found = _ETAG.fullmatch(match)
    if found is None:
        raise MalformedRequest('if-match: one strong ETag with the job\'s version, for example "7"', field="if-match")
    return int(found[1])


def _identify(exchange: Exchange, who: Principal) -> Callable[[int], uuid.UUID] | None:
    """The event ids of an `Idempotency-Key`: the same request sent again by the same key gives the same ids."""
    given = exchange.single(b"idempotency-key")
    if given is None:
        return None
    if _KEY.fullmatch(given) is None:
        raise MalformedRequest("idempotency-key: 1 to 255 visible ASCII characters", field="idempotency-key")
    # None of the parts can hold a space, so no two requests make the same text.
    made = f"{who.log} {who.key_id or '-'} {exchange.method} {exchange.path} {given}"
    return lambda index: uuid.uuid5(NAMESPACE, f"{made} {index}")
