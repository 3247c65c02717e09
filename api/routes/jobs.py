"""Jobs as they are: the list, and one with its steps."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import anyio
import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from api.answers import NO_STORE, Asked, Body, answer, asked, packs, services_of
from api.parameters import Parameter, choice, matching, place_or_moment, read, switch, text, whole, words
from api.problems import MalformedRequest, NotFound
from api.requests import Exchange
from api.routes.time_travel import at_of
from api.services import Services, Tenant
from api.snapshot_cache import decode_snapshot
from eventstore.errors import WrongExpectedVersion
from eventstore.store import EventStore
from projections.as_of import job_as_of
from projections.conditions import Condition, conditions_of
from projections.eta import Estimate, eta_of
from projections.fold import FOLD_VERSION
from projections.job_list import JobPage, Order, jobs_page
from projections.snapshots import JobSnapshot, JobSummary, encode_snapshot, read_snapshot
from projections.usual import Usual

STATUSES: Final = ("pending", "running", "waiting", "completed", "failed", "cancelled")
MAX_VERSION: Final = 10_000_000
PATIENCE: Final = 1.0
"""Seconds that a read waits for the version that was asked for."""
LARGE: Final = 64 * 1024
"""Bytes of a cached snapshot that are not looked at on the event loop."""
AT_WORK: Final = ("running", "waiting")
LOOK: Final = 0.05  # seconds between looks while it waits

PREFIX: Final = matching(
    "prefix", "Only jobs whose id begins so", "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}$",
    "the beginning of a job id: A-Z a-z 0-9 . _ : @ -", example="build:",
)  # fmt: skip
LIST_PARAMETERS: Final[tuple[Parameter, ...]] = (
    choice("status", "Only jobs of this status", STATUSES),
    text("kind", "Only jobs of this kind", 200, example="build"),
    PREFIX,
    text(
        "text", "Only jobs with this text in title, id or message, whatever the case of its letters", example="deploy"
    ),
    choice("order", "By the position of the job's first event", words(Order), "newest"),
    whole("limit", "Jobs on the page", 1, 1_000, 50),
    matching("page", "Where the page begins: from `next` of the one before", "^[0-9a-f]{14}$", "what `next` said"),
)
SHOW_PARAMETERS: Final[tuple[Parameter, ...]] = (
    place_or_moment("at", "As it was at a position or cursor of the log, or at a time"),
    switch("occurred", "The time of `at` is the workers' own instead of the log's", False),
    whole("min_version", "Not older than this version of the job: what an append answered", 0, MAX_VERSION),
)


class JobAnswer(JobSnapshot, frozen=True, kw_only=True):
    """A job with its steps, the cursor after which its news begin, the time that is left, and what seems wrong.

    `eta` is null when nothing can be said; both are of now, so `?at=` has them null and empty.
    """

    eta: Estimate | None
    conditions: list[Condition]


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs without their steps. `next` is the address of the next page, null if there is none."""

    jobs: list[JobSummary]
    next: str | None


_encode: Final = msgspec.json.Encoder().encode


@get("/v1/jobs/{job:str}")
async def show(request: Asked) -> Response[bytes]:
    exchange, tenant = asked(request)
    given = read(exchange, SHOW_PARAMETERS)
    job_id, pack = exchange.job_id or "", packs(exchange)
    at, least = given["at"], given["min_version"]
    if given["occurred"] and not isinstance(at, datetime):
        raise MalformedRequest("occurred: it is about times, give one in at", field="occurred")
    if at is not None:
        if least is not None:
            raise MalformedRequest("min_version: it is about now, leave it out beside at", field="min_version")
        body = await tenant.reads.run(_past, tenant.store, job_id, at, given["occurred"], pack)
        return answer(exchange, body)
    services = services_of(request)
    cached = await services.snapshots.read(tenant, exchange.principal.log_id, job_id, least)
    found = None if cached is None else await _from_cache(services, tenant, cached, pack)
    return answer(exchange, found or await _present(services, tenant, job_id, least or 0, pack))


async def _from_cache(services: Services, tenant: Tenant, cached: bytes, pack: bool) -> Body | None:
    """A cached snapshot as an answer; None if it is none that this program knows."""
    try:
        if len(cached) > LARGE:
            return await tenant.reads.run(_from_large, services, tenant, cached, pack)
        job = decode_snapshot(cached)
    except msgspec.MsgspecError:
        return None
    usual = await services.snapshots.usual(tenant, job) if job.status in AT_WORK else None
    return _told(job, cached, usual, pack)


async def _present(services: Services, tenant: Tenant, job_id: str, least: int, pack: bool) -> Body:
    """The job, at least of this version. What was acknowledged is in the database, so this waits for others only."""
    end = time.monotonic() + PATIENCE
    while True:
        body = await tenant.reads.run(_now, services, tenant, job_id, least, pack)
        if isinstance(body, Body):
            return body
        if time.monotonic() >= end:
            raise WrongExpectedVersion(job_id, least, body)
        await anyio.sleep(LOOK)


def _now(services: Services, tenant: Tenant, job_id: str, least: int, pack: bool) -> Body | int:
    """The job as JSON; its version if that is not enough. Raises `NotFound`."""
    job = read_snapshot(tenant.store, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}")
    if job.version < least:
        return job.version
    return _told(job, encode_snapshot(job), _usual(services, tenant, job), pack)


def _from_large(services: Services, tenant: Tenant, cached: bytes, pack: bool) -> Body:
    job = decode_snapshot(cached)
    return _told(job, cached, _usual(services, tenant, job), pack)


def _usual(services: Services, tenant: Tenant, job: JobSnapshot) -> Usual | None:
    return services.snapshots.read_usual(tenant, job) if job.status in AT_WORK else None


def _told(job: JobSnapshot, encoded: bytes, usual: Usual | None, pack: bool) -> Body:
    """A job's snapshot with the time that is left and what seems wrong. Its tag changes with its version, and with
    what seems wrong; not with the head of the log, nor as time goes by. The time of its last event is in it, so that
    no other log's job has it, nor that of a log that was made anew.
    """
    eta: Estimate | None = None
    wrong: list[Condition] = []
    if usual is not None:
        now = datetime.now(UTC)
        eta, wrong = eta_of(job, usual, now), conditions_of(job, usual, now)
    marks = "".join(sorted(f"{found.kind[0]}{found.step or ''}" for found in wrong))
    epoch = job.cursor.partition("_")[0]
    moment = int(job.updated_at.timestamp() * 1_000_000)
    tag = f'W/"{epoch}-{job.position:x}-{job.version:x}-{moment:x}-{FOLD_VERSION}{_short(marks)}"'
    return Body(_with(encoded, eta, wrong), pack=pack, tag=tag)


def _short(marks: str) -> str:
    return f"-{hashlib.blake2b(marks.encode(), digest_size=6).hexdigest()}" if marks else ""


def _with(encoded: bytes, eta: Estimate | None, wrong: list[Condition]) -> bytes:
    return b'%b,"eta":%b,"conditions":%b}' % (encoded[:-1], _encode(eta), _encode(wrong))


def _past(store: EventStore, job_id: str, at: Any, occurred: bool, pack: bool) -> Body:
    job = job_as_of(store, job_id, at_of(store, at), occurred=occurred)
    if job is None:
        raise NotFound(f"there was no job {job_id!r} then")
    return Body(_with(encode_snapshot(job), None, []), pack=pack)


@get("/v1/jobs")
async def index(request: Asked) -> Response[bytes]:
    exchange, tenant = asked(request)
    given = read(exchange, LIST_PARAMETERS)
    prefix = shared_prefix(exchange.principal.prefix, given["prefix"])
    if prefix is None:
        return answer(exchange, Body(_encode(JobList(jobs=[], next=None)), pack=False), cache=NO_STORE)
    page = given["page"]
    place = None if page is None else int(page, 16)
    return answer(exchange, await tenant.reads.run(_list, tenant.store, exchange, given | {"prefix": prefix}, place))


def _list(store: EventStore, exchange: Exchange, given: dict[str, Any], place: int | None) -> Body:
    found: JobPage = jobs_page(
        store,
        status=given["status"],
        kind=given["kind"],
        prefix=given["prefix"] or None,
        text=given["text"],
        order=Order(given["order"]),
        place=place,
        limit=given["limit"],
    )
    following = None if found.place is None else next_address(exchange, page=f"{found.place:014x}")
    return Body(_encode(JobList(jobs=found.jobs, next=following)), pack=packs(exchange), next_page=following)


def shared_prefix(own: str, wanted: str | None) -> str | None:
    """The narrower of a key's prefix and the one that was asked for; None if no job can have both."""
    wanted = wanted or ""
    if wanted.startswith(own):
        return wanted
    return own if own.startswith(wanted) else None


def next_address(exchange: Exchange, **changed: str) -> str:
    """The address of this request with some parameters changed."""
    kept = [(name, value) for name, values in exchange.query.items() if name not in changed for value in values]
    return f"{exchange.path}?{urlencode([*kept, *changed.items()])}"


HANDLERS: Final[list[HTTPRouteHandler]] = [show, index]
