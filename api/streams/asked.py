"""What a client asks of a stream: where it starts, what passes, how it is shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from api.auth import Principal
from api.parameters import JOB_ID, Parameter, choice, place, read, switch
from api.problems import MalformedRequest
from api.requests import Exchange
from eventstore.cursor import Cursor, Where, parse_cursor
from eventstore.errors import InvalidCursor, shorten
from eventstore.filters import MAX_EXACT, Filter, make_filter

Kind = Literal["job", "jobs", "log"]
MAX_NAMES: Final = 100  # job ids, types or steps in one request
MAX_STEP: Final = 200  # characters
PREFIX: Final = "^([A-Za-z0-9][A-Za-z0-9._:@-]{0,199})?$"
_TYPE: Final = r"([a-z][a-z0-9_]*[.])?([a-z][a-z0-9_]*|[*])"


def _list(name: str, purpose: str, pattern: str, rule: str, example: str) -> Parameter:
    """Names with commas between them; may be repeated too."""
    inner = pattern.removeprefix("^").removesuffix("$")
    compiled = re.compile(inner, re.ASCII)

    def parse(given: str) -> tuple[str, ...]:
        names = given.split(",")
        if len(names) > MAX_NAMES or not all(compiled.fullmatch(one) for one in names):
            raise ValueError(f"{rule}, at most {MAX_NAMES}, with commas between them")
        return tuple(dict.fromkeys(names))

    schema = {"type": "string", "minLength": 1, "pattern": f"^{inner}(,{inner}){{0,{MAX_NAMES - 1}}}$"}
    return Parameter(name=name, purpose=purpose, parse=parse, schema=schema, many=True, example=example)


def _prefix(given: str) -> str:
    if re.fullmatch(PREFIX.removeprefix("^").removesuffix("$"), given, re.ASCII) is None:
        raise ValueError("the beginning of a job id")
    return given


_START: Final = (
    place("after", "Start after this cursor or position; -1 or nothing: from the start; now: from the end"),
    place("last_event_id", "As `after`, which wins; for clients that can't send `Last-Event-ID`"),
    place("lastEventId", "As `last_event_id`"),
)
_COMMON: Final = (
    *_START,
    choice("events", "Only events that counted, or all", ("applied", "all")),
    choice("mode", "all: every event; latest: what a slow screen has missed is left out", ("all", "latest"), "all"),
    choice("shape", "The shape of the frames", ("headway",), "headway"),
    switch("snapshot", "true: begin with a snapshot also where a cursor is given", default=False),
    _list(
        "types",
        "Only events of these types, with commas between them",
        f"^{_TYPE}$",
        "full names, or step.* and the like",
        "step.*",
    ),
    _list(
        "steps",
        "Only events of these steps, with commas between them",
        f"^[^\\u0000-\\u001f,]{{1,{MAX_STEP}}}$",
        "names of steps",
        "build",
    ),
    Parameter(
        name="token",
        purpose="A stream token, for clients that can't send a header",
        parse=str,
        schema={"type": "string"},
    ),
)
JOB_PARAMETERS: Final = (
    *_COMMON,
    switch("wait", "true: a job that has not begun is waited for, instead of 404", default=False),
)
LOG_PARAMETERS: Final = (
    *_COMMON,
    _list(
        "jobs",
        f"Only these jobs: ids with commas between them, at most {MAX_EXACT} in all, and no `prefix` beside them;"
        " without a cursor each one's snapshot comes first",
        JOB_ID,
        "full job ids",
        "a,b",
    ),
    Parameter(
        name="prefix",
        purpose="Only jobs whose id begins with this; instead of `jobs`",
        parse=_prefix,
        schema={"type": "string", "pattern": PREFIX},
        example="build:",
    ),
)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as it was asked for, within what its asker may see.

    `start` is None where it begins with a snapshot; `given` is the cursor's text as the client wrote it. `reconnects`:
    the client was connected before, and is not to be sent away with an error, which would end an EventSource for good.
    """

    kind: Kind
    jobs: tuple[str, ...] | None
    wanted: Filter
    start: Cursor | Where | None
    given: str
    reconnects: bool
    latest: bool
    wait: bool


def ask_for_job(exchange: Exchange, job_id: str) -> Asked:
    """`GET /v1/jobs/{job}/stream`. Raises `MalformedRequest`, `InvalidCursor`, `InvalidFilter`."""
    given = read(exchange, JOB_PARAMETERS)
    applied = True if given["events"] != "all" else None
    start, text = _start(exchange)
    return Asked(
        kind="job",
        jobs=(job_id,),
        wanted=make_filter(jobs=job_id, types=_flat(given["types"]), steps=_flat(given["steps"]), applied=applied),
        start=None if given["snapshot"] else start,
        given=text,
        reconnects=_reconnects(exchange),
        latest=given["mode"] == "latest",
        wait=given["wait"],
    )


def ask_for_log(exchange: Exchange, who: Principal) -> Asked:
    """`GET /v1/stream`. Raises `MalformedRequest`, `InvalidCursor`, `InvalidFilter`."""
    given = read(exchange, LOG_PARAMETERS)
    named = _flat(given["jobs"])
    if named is not None and len(named) > MAX_EXACT:
        raise MalformedRequest(f"jobs: at most {MAX_EXACT} on one stream; for more give a prefix", field="jobs")
    if named is not None and given["prefix"]:
        raise MalformedRequest("give jobs or prefix, not both: jobs names all that are shown", field="prefix")
    kind: Kind = "log" if named is None else "jobs"
    seen = _visible(who, named, given["prefix"] or "")
    start, text = _start(exchange)
    if start is None and named is None:
        start = Where.START
    shown = given["events"] or ("applied" if kind == "jobs" else "all")
    exact = None if seen is None or any(name.endswith("*") for name in seen) else tuple(seen)
    return Asked(
        kind=kind,
        jobs=exact,
        wanted=make_filter(
            jobs=seen,
            types=_flat(given["types"]),
            steps=_flat(given["steps"]),
            applied=True if shown == "applied" else None,
        ),
        start=None if named is not None and given["snapshot"] else start,
        given=text,
        reconnects=_reconnects(exchange),
        latest=given["mode"] == "latest",
        wait=False,
    )


def _visible(who: Principal, named: Sequence[str] | None, prefix: str) -> list[str] | None:
    """The jobs of a filter that this principal may see: full ids, or one prefix with `*`; None for all of the log."""
    if named is None and who.jobs is not None:
        named = sorted(who.jobs)
    if named is not None:
        return [job_id for job_id in named if job_id.startswith(prefix) and who.sees(job_id)]
    longer, shorter = (prefix, who.prefix) if len(prefix) >= len(who.prefix) else (who.prefix, prefix)
    if not longer.startswith(shorter):
        return []
    return [longer + "*"] if longer else None


def _start(exchange: Exchange) -> tuple[Cursor | Where | None, str]:
    """Where the client says that it stands: `Last-Event-ID`, else `after`, else the two names of `last_event_id`."""
    header = exchange.header(b"last-event-id")
    candidates = [header or None, *(exchange.parameter(parameter.name) for parameter in _START)]
    text = next((candidate for candidate in candidates if candidate is not None), None)
    if text is None:
        return None, ""
    try:
        return parse_cursor(text), text
    except InvalidCursor:
        raise InvalidCursor(shorten(text)) from None


def _reconnects(exchange: Exchange) -> bool:
    return bool(exchange.header(b"last-event-id"))


def _flat(given: Iterable[Sequence[str]] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(dict.fromkeys(name for names in given for name in names))
