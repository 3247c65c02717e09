"""What was reported: the history of a job, and of the log; as pages of JSON, or all of it as NDJSON or CSV.

GET /v1/jobs/build:7/events?type=step.failed&limit=100         a page, and the address of the next
GET /v1/events?text=timeout        Accept: application/x-ndjson    all that pass, to the head
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from api.answers import REVALIDATE, Body, packs, respond
from api.parameters import Parameter, choice, matching, moment, place, read, switch, text, whole, words
from api.problems import MalformedRequest, NotAcceptable, NotFound
from api.requests import Exchange
from api.routes.downloads import CSV, NDJSON, Pages, as_csv, as_ndjson, download
from api.routes.jobs import PREFIX, next_address, shared_prefix
from api.services import Services
from eventstore.codec import MAX_ACTOR, MAX_STEP
from eventstore.errors import InvalidFilter
from eventstore.events import LOG_JOB, RecordedEvent
from eventstore.store import EventStore
from eventstore.wire import WireEvent, to_wire
from projections.audit import MAX_PAGE, Order, Page, audit_filter, find, stream
from projections.audit_filter import TYPES, AuditFilter, Clock

JSON: Final = "application/json"
FORMATS: Final = {"json": JSON, "ndjson": NDJSON, "csv": CSV}
Format = Literal["json", "ndjson", "csv"]
FROZEN: Final = "private, max-age=3600, immutable"
"""For a full page below the head: what follows it is on other pages, and events never change."""

_OLDEST: Final = "oldest"
_KINDS: Final = ("job.*", "step.*", "log.*", *sorted(TYPES))

COMMON_PARAMETERS: Final[tuple[Parameter, ...]] = (
    place("after", "Events after this cursor or position; `cursor` of a page is where the next one begins"),
    place("before", "Events before this cursor or position", example="now"),
    choice("type", "Only events of these types; step.* stands for all types of steps", _KINDS, many=True),
    text("step", "Only events of these steps", MAX_STEP, many=True, example="build"),
    text("actor", "Only events that these keys or people reported", MAX_ACTOR, many=True, example="k1"),
    switch("applied", "true: only what counted; false: only what was reported too late, twice or out of order"),
    matching(
        "reason", "Only events that did not count for one of these reasons", "^[a-z][a-z0-9_]{0,63}$",
        "words like regression or step_ended", many=True, example="regression",
    ),
    moment("since", "Only what happened at this time or later"),
    moment("until", "Only what happened before this time", example="2099-12-31T23:59:59+01:00"),
    choice("clock", "The time that is meant: the log's own, or the worker's claim", words(Clock), "recorded"),
    text("text", "Only events with this text in a message, reason, title, label or error, whatever the case"),
    choice("order", "Which end to begin at", (_OLDEST, "newest"), _OLDEST),
    whole("limit", "Events on the page; of a stream: at most so many (default: all)", 1, MAX_PAGE, example=100),
    choice("format", "json, or all that pass as ndjson or csv; goes before `Accept`", tuple(FORMATS)),
    switch("formulas", "csv: leave texts as they are that a spreadsheet takes for formulas", False),
)  # fmt: skip
JOB_PARAMETERS: Final = COMMON_PARAMETERS
LOG_PARAMETERS: Final[tuple[Parameter, ...]] = (*COMMON_PARAMETERS, PREFIX)

_FIELDS: Final = {"types": "type", "steps": "step", "actors": "actor", "reasons": "reason"}
_encode: Final = msgspec.json.Encoder().encode


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events that pass, in the order that was asked for. All of them up to position `scanned_to` are here.

    A page may hold fewer than `limit`, or none, before the end: a search looks at a bounded part of the log.
    `complete`: there was nothing more in this direction. `cursor`: where the next page begins (`after`, with the newest
    first `before`). `next`: its address, null if this was the last.
    """

    events: list[WireEvent]
    cursor: str
    scanned_to: int
    complete: bool
    next: str | None


async def of_job(services: Services, exchange: Exchange) -> None:
    """The events of one job."""
    assert exchange.job_id is not None
    await _answer(services, exchange, read(exchange, JOB_PARAMETERS), exchange.job_id)


async def of_log(services: Services, exchange: Exchange) -> None:
    """The events of the log, as far as the key may see them."""
    await _answer(services, exchange, read(exchange, LOG_PARAMETERS), None)


async def _answer(services: Services, exchange: Exchange, given: dict[str, Any], job_id: str | None) -> None:
    tenant = services.tenant(exchange.principal)
    form = _format(exchange, given["format"])
    if given["formulas"] and form != "csv":
        raise MalformedRequest("formulas: it is for csv", field="formulas")
    wanted = _filter(exchange, given, job_id)
    order = Order.OLDEST_FIRST if given["order"] == _OLDEST else Order.NEWEST_FIRST
    question = _Question(tenant.store, wanted, given["after"], given["before"], order, exchange.principal.prefix)
    if form == "json":
        body, cache = await tenant.reads.run(_page, question, exchange, given["limit"] or 100)
        await respond(exchange, body, cache=cache)
        return
    pages = await tenant.reads.run(question.begin, given["limit"])
    pieces = as_csv(pages, formulas=given["formulas"]) if form == "csv" else as_ndjson(pages, question.epoch)
    name = "events" if job_id is None else job_id.replace(":", "-")
    await download(services, exchange, tenant, pieces, FORMATS[form], name=f"{name}.{form}")


class _Question:
    """Which events are asked for, by whom. `wanted` None: nothing can pass."""

    def __init__(
        self, store: EventStore, wanted: AuditFilter | None, after: Any, before: Any, order: Order, prefix: str
    ) -> None:
        self.store, self.wanted, self.after, self.before, self.order = store, wanted, after, before, order
        self._hides_log = prefix != ""
        self.epoch = 0

    def page(self, limit: int) -> Page:
        """The next page. Raises `NotFound` for a job that is not there."""
        wanted = self.wanted
        if wanted is None:
            head = self.store.resolve(self.after)[0]
            found = find(self.store, after=head.position, limit=1)
            return msgspec.structs.replace(found, events=[])
        found = find(self.store, wanted, after=self.after, before=self.before, order=self.order, limit=limit)
        if not found.events:
            self._check_job()
        return msgspec.structs.replace(found, events=self._seen(found.events))

    def begin(self, limit: int | None) -> Pages:
        """All that pass, in lists, some of which may be empty; at most `limit`. Errors are raised here already."""
        self._check_job()
        self.epoch = self.store.resolve(self.after)[0].epoch
        self.store.resolve(self.before)
        return self._pages(limit)

    def _pages(self, limit: int | None) -> Iterator[list[RecordedEvent]]:
        if self.wanted is None:
            return
        left = limit
        for events in stream(
            self.store, self.wanted, after=self.after, before=self.before, order=self.order, beat=True
        ):
            seen = self._seen(events)
            if left is not None:
                seen = seen[:left]
                left -= len(seen)
            yield seen
            if left == 0:
                return

    def _seen(self, events: list[RecordedEvent]) -> list[RecordedEvent]:
        """Without what the log says of itself, for a key that sees a part of the jobs."""
        return [event for event in events if event.job_id != LOG_JOB] if self._hides_log else events

    def _check_job(self) -> None:
        if self.wanted is not None and (job := self.wanted.job) is not None and not self.store.read_job(job, limit=1):
            raise NotFound(f"there is no job {job!r}")


def _page(question: _Question, exchange: Exchange, limit: int) -> tuple[Body, str]:
    found = question.page(limit)
    direction = "after" if question.order is Order.OLDEST_FIRST else "before"
    following = None if found.complete else next_address(exchange, **{direction: found.cursor})
    page = EventPage(
        events=[to_wire(event, found.epoch) for event in found.events],
        cursor=found.cursor,
        scanned_to=found.scanned_to,
        complete=found.complete,
        next=following,
    )
    frozen = question.order is Order.OLDEST_FIRST and len(found.events) == limit and not found.complete
    return Body(_encode(page), pack=packs(exchange), next_page=following), FROZEN if frozen else REVALIDATE


def _filter(exchange: Exchange, given: dict[str, Any], job_id: str | None) -> AuditFilter | None:
    """None if nothing that the key may see can pass. Raises `InvalidFilter` in the words of the parameters."""
    prefix = None if job_id is not None else shared_prefix(exchange.principal.prefix, given["prefix"])
    if job_id is None and prefix is None:
        return None
    try:
        return audit_filter(
            job=job_id,
            prefix=prefix or None,
            since=given["since"],
            until=given["until"],
            clock=Clock(given["clock"]),
            types=given["type"],
            steps=given["step"],
            actors=given["actor"],
            applied=given["applied"],
            reasons=given["reason"],
            text=given["text"],
        )
    except InvalidFilter as error:
        raise MalformedRequest(
            f"{_FIELDS.get(error.field, error.field)}: {error.rule}; given {error.given}",
            field=_FIELDS.get(error.field, error.field),
            given=error.given,
            rule=error.rule,
        ) from None


def _format(exchange: Exchange, given: Format | None) -> Format:
    """What is asked for: the parameter, else the first in `Accept` that there is. Raises `NotAcceptable`."""
    if given is not None:
        return given
    best: list[tuple[float, int, Format]] = []
    accept = exchange.header(b"accept") or "*/*"
    for number, part in enumerate(accept.lower().split(",")):
        kind, *rest = (piece.strip() for piece in part.split(";"))
        quality = next((piece.removeprefix("q=") for piece in rest if piece.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        form = _FORMS.get(kind)
        if form is not None and weight > 0:
            best.append((-weight, number, form))
    if not best:
        raise NotAcceptable(f"there are {', '.join(FORMATS.values())} here", formats=sorted(FORMATS.values()))
    return min(best)[2]


_FORMS: Final[dict[str, Format]] = {
    "*/*": "json", "application/*": "json", JSON: "json", NDJSON: "ndjson", "application/ndjson": "ndjson",
    "application/jsonl": "ndjson", CSV: "csv", "text/*": "csv",
}  # fmt: skip
