"""Every operation of the API in words: what it is for, its parameters, its answers, and examples that work.

The examples are a story: sent in the order of this table to an empty log they get the statuses that stand here, and a
test sends them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from api.openapi.events import Schema, ref
from api.openapi.frames import ABOUT, FRAMES
from api.parameters import CURSOR, Parameter
from api.routes.history import JOB_PARAMETERS as JOB_HISTORY
from api.routes.history import LOG_PARAMETERS as LOG_HISTORY
from api.routes.jobs import LIST_PARAMETERS, SHOW_PARAMETERS
from api.routes.time_travel import DIFF_PARAMETERS
from api.streams.asked import JOB_PARAMETERS as JOB_STREAM
from api.streams.asked import LOG_PARAMETERS as LOG_STREAM

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
TEXT: Final[Schema] = {"type": "string"}


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A header that a request may have."""

    name: str
    purpose: str
    schema: Schema = msgspec.field(default_factory=lambda: dict(TEXT))
    example: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is no problem: its content by media type, and its headers. `shown`: examples by what they show."""

    purpose: str
    content: dict[str, Schema] = {}
    headers: dict[str, str] = {}
    shown: dict[str, str] = {}


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A request that works. `body`: of JSON the value, else the text. `endless`: the answer ends when the job does."""

    title: str
    status: int
    job: str = "build:7"
    code: str = ""
    query: str = ""
    headers: dict[str, str] = {}
    body: Any = None
    kind: str = JSON
    endless: bool = False


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """`problems`: the statuses of problem documents, besides those that any request may get."""

    id: str
    tag: str
    summary: str
    purpose: str
    parameters: tuple[Parameter, ...] = ()
    headers: tuple[Header, ...] = ()
    body: dict[str, Schema] = {}
    needs_body: bool = True
    answers: dict[int, Answer]
    problems: tuple[int, ...] = ()
    examples: tuple[Example, ...] = ()


TAGS: Final = {
    "append": "Report what happens. What was answered is on disk.",
    "jobs": "Jobs as they are, and as they were.",
    "history": "Every report, for ever, in order; also those that did not count, with the reason.",
    "streams": "Server-sent events: news within milliseconds, resumed without loss or repetition.",
    "operations": "For who runs the server.",
    "documents": "This documentation.",
}

_TAGGED: Final = {"ETag": "Changes when the answer does; send it back as `If-None-Match`"}
_PAGED: Final = _TAGGED | {"Link": '`rel="next"`: the address of the next page, if there is one'}
_KNOWN: Final = Answer(purpose="It is what `If-None-Match` says", headers=_TAGGED)
_IF_NONE_MATCH: Final = Header(
    name="If-None-Match", purpose="An `ETag` of an earlier answer: 304 if it is still the same"
)
_APPEND_HEADERS: Final = (
    Header(
        name="Idempotency-Key",
        purpose="Makes the ids of events that have none, so that the same request sent again appends nothing twice",
        schema={"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\u0021-\\u007e]+$"},
        example="7f3b-try",
    ),
    Header(name="traceparent", purpose="W3C trace context, kept in the events' data"),
)
_EXPECTED_HEADERS: Final = (
    Header(
        name="If-Match",
        purpose='The job\'s version as a strong ETag, for example "7": append only if nobody reported since',
        schema={"type": "string", "pattern": '^"(0|[1-9][0-9]{0,14})"$'},
    ),
    Header(name="If-None-Match", purpose="*: append only if the job is new", schema={"type": "string", "enum": ["*"]}),
)
_LAST_EVENT_ID: Final = Header(
    name="Last-Event-ID",
    purpose="The id of the last frame that was seen; EventSource sends it by itself",
    schema={"type": "string", "pattern": CURSOR},
)


def _body(name: str) -> dict[str, Schema]:
    many = {"type": "array", "items": ref(name), "minItems": 1, "maxItems": 500}
    lines = {"type": "string", "description": f"A {name} per line; at most 500"}
    return {JSON: {"anyOf": [ref(name), many]}, NDJSON: lines}


def _appended(name: str) -> dict[int, Answer]:
    headers = {"ETag": "The job's version, for `If-Match`"} if name == "AppendedToJob" else {}
    return {
        201: Answer(purpose="At least one event is new", content={JSON: ref(name)}, headers=headers),
        200: Answer(purpose="All of them were in the log already", content={JSON: ref(name)}, headers=headers),
    }


_EVENTS: Final = {
    200: Answer(
        purpose="Events that pass, oldest first unless `order` says else",
        content={
            JSON: ref("EventPage"),
            NDJSON: {"type": "string", "description": "A WireEvent per line, to the head of the log"},
            "text/csv": {"type": "string", "description": "A header, then a row per event; for a spreadsheet"},
        },
        headers=_PAGED | {"Cache-Control": "`immutable` for a full page below the head: it can't change any more"},
    ),
    304: _KNOWN,
}
_STREAM: Final = {
    200: Answer(
        purpose=ABOUT,
        content={"text/event-stream": {"type": "string", "description": "Frames; `data` as `StreamEvent`"}},
        shown=FRAMES,
    ),
    204: Answer(purpose="The job has ended and you have it all: don't come back"),
}
_PLAN: Final = {
    "type": "job.planned", "event_id": "0197a6c0-0000-7000-8000-000000000001",
    "data": {"title": "Build 7", "kind": "build", "steps": [{"step": "fetch"}, {"step": "compile", "weight": 3}]},
}  # fmt: skip
_WORK: Final = [
    {"type": "step.started", "step": "fetch", "data": {"worker": "worker-1"}},
    {"type": "step.progressed", "step": "fetch", "data": {"done": 40, "total": 100, "unit": "files"}},
    {"type": "step.progressed", "step": "fetch", "data": {"done": 10, "total": 100, "unit": "files"}},
]

OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/jobs/{job}/events"): Operation(
        id="appendToJob", tag="append", summary="Report about a job",
        purpose="One event, an array of up to 500, or one per line: all or none. The answer says for each where it"
        " stands and whether it counted; a report that comes late, twice or out of order is kept with the reason.",
        headers=(*_APPEND_HEADERS, *_EXPECTED_HEADERS), body=_body("NewEvent"), answers=_appended("AppendedToJob"),
        problems=(400, 409, 413, 415, 422, 429),
        examples=(
            Example(title="Plan a job", status=201, body=_PLAN),
            Example(title="The same again changes nothing", status=200, body=_PLAN),
            Example(title="Report work", status=201, body=_WORK, headers={"Idempotency-Key": "7f3b-1"}),
            Example(
                title="One per line", status=201, kind=NDJSON,
                body='{"type":"step.completed","step":"fetch"}\n{"type":"step.started","step":"compile"}\n',
            ),
            Example(
                title="Only if nobody reported since", status=409, headers={"If-Match": '"2"'},
                body={"type": "job.cancelled"},
            ),
        ),
    ),
    ("POST", "/v1/events"): Operation(
        id="append", tag="append", summary="Report about many jobs",
        purpose="As above; each event names its job. All or none.",
        headers=_APPEND_HEADERS, body=_body("NewEventOfJob"), answers=_appended("AppendedToMany"),
        problems=(400, 404, 409, 413, 415, 422, 429),
        examples=(
            Example(
                title="Two jobs", status=201,
                body=[{"job_id": "build:8", "type": "job.started"},
                      {"job_id": "build:9", "type": "job.completed", "data": {"message": "nothing to do"}}],
            ),
        ),
    ),
    ("GET", "/v1/jobs"): Operation(
        id="listJobs", tag="jobs", summary="List jobs",
        purpose="Jobs without their steps, by the position of their first event. A page looks at up to 20,000 jobs, so"
        " it may hold fewer than `limit` before the end: follow `next` until it is null.",
        parameters=LIST_PARAMETERS, headers=(_IF_NONE_MATCH,),
        answers={200: Answer(purpose="A page", content={JSON: ref("JobList")}, headers=_PAGED), 304: _KNOWN},
        problems=(400,),
        examples=(
            Example(title="The newest", status=200, query="limit=2"),
            Example(title="What runs now", status=200, query="status=running&prefix=build:"),
        ),
    ),
    ("GET", "/v1/jobs/{job}"): Operation(
        id="getJob", tag="jobs", summary="Show a job",
        purpose="Steps, attempts, percentage, the time that is left, what seems wrong, and the cursor that the picture"
        " reflects: a stream from there has exactly what follows. With `at` as it was then. Where `min_version` is"
        " higher than the job's version, it is waited for up to a second, then 409.",
        parameters=SHOW_PARAMETERS, headers=(_IF_NONE_MATCH,),
        answers={200: Answer(purpose="The job", content={JSON: ref("JobAnswer")}, headers=_TAGGED), 304: _KNOWN},
        problems=(400, 404, 409, 422),
        examples=(
            Example(title="Now", status=200),
            Example(title="As it was at position 1 of the log", status=200, query="at=1"),
            Example(title="Not older than what an append answered", status=200, query="min_version=2"),
        ),
    ),
    ("GET", "/v1/jobs/{job}/events"): Operation(
        id="getJobEvents", tag="history", summary="History of a job",
        purpose="A page of JSON, or all that pass as NDJSON or CSV (by `Accept` or `format`).",
        parameters=JOB_HISTORY, headers=(_IF_NONE_MATCH,), answers=_EVENTS, problems=(400, 404, 406, 409, 422),
        examples=(
            Example(title="From the start", status=200, query="limit=2"),
            Example(title="What did not count, and why", status=200, query="applied=false"),
            Example(title="All of it, a line each", status=200, headers={"Accept": NDJSON}),
            Example(title="For a spreadsheet", status=200, query="format=csv"),
        ),
    ),
    ("GET", "/v1/events"): Operation(
        id="getEvents", tag="history", summary="History of the log",
        purpose="As above, over all jobs that the key may see. A search looks at a bounded part of the log per page:"
        " follow `next` until it is null.",
        parameters=LOG_HISTORY, headers=(_IF_NONE_MATCH,), answers=_EVENTS, problems=(400, 406, 409),
        examples=(
            Example(title="The last ten", status=200, query="order=newest&limit=10"),
            Example(title="A text in any language", status=200, query="text=nothing%20to"),
        ),
    ),
    ("GET", "/v1/jobs/{job}/diff"): Operation(
        id="diffJob", tag="jobs", summary="What changed between two moments",
        purpose="Moments are positions or cursors of the log, or times.",
        parameters=DIFF_PARAMETERS, headers=(_IF_NONE_MATCH,),
        answers={200: Answer(purpose="The differences", content={JSON: ref("Diff")}, headers=_TAGGED), 304: _KNOWN},
        problems=(400, 404, 409, 422),
        examples=(Example(title="Since position 2", status=200, query="from=2"),),
    ),
    ("GET", "/v1/jobs/{job}/stream"): Operation(
        id="streamJob", tag="streams", summary="Follow a job",
        purpose="A snapshot first, then each event that counts, until the job has ended. After a break the id of the"
        " last frame continues exactly there. Where it starts: `Last-Event-ID`, else `after`, else `last_event_id`."
        " Each frame names with `prev` the one before it, so a reader sees when one is missing.",
        parameters=JOB_STREAM, headers=(_LAST_EVENT_ID,), answers=_STREAM, problems=(400, 404, 422, 429),
        examples=(Example(title="Until it ends", status=200, job="build:9"),
                  Example(title="As it happens", status=200, endless=True)),
    ),
    ("GET", "/v1/stream"): Operation(
        id="streamLog", tag="streams", summary="Follow many jobs, or the log",
        purpose="Many jobs on one connection: these `jobs`, each with its snapshot first, or all whose id begins with"
        " `prefix`. Without `jobs` and a start: from the beginning of the log. It has no `end`: jobs end, the log"
        " goes on.",
        parameters=LOG_STREAM, headers=(_LAST_EVENT_ID,), answers=_STREAM, problems=(400, 429),
        examples=(
            Example(title="Two jobs from now on", status=200, query="jobs=build:7,build:8&after=now", endless=True),
        ),
    ),
    ("POST", "/v1/stream-tokens"): Operation(
        id="createStreamToken", tag="streams", summary="A token for streams in a browser",
        purpose="EventSource can't send a key. A page's own server asks for a token and hands it to the page, which"
        " puts it into the address: `?token=`. It opens and reopens streams until it expires, and can do nothing else.",
        body={JSON: ref("TokenRequest")}, needs_body=False,
        answers={201: Answer(purpose="The token", content={JSON: ref("StreamToken")})},
        problems=(400, 413, 422, 429),
        examples=(Example(title="For one job", status=201, body={"jobs": ["build:7"]}),),
    ),
    ("GET", "/healthz"): Operation(
        id="health", tag="operations", summary="Is the process alive",
        purpose="Answers as long as the process does; asks nobody.",
        answers={200: Answer(purpose="It is", content={JSON: {"type": "object"}})},
        examples=(Example(title="Ask", status=200),),
    ),
    ("GET", "/readyz"): Operation(
        id="ready", tag="operations", summary="Can it work",
        purpose="Looks at the database, its schema and how far the relay is behind.",
        answers={200: Answer(purpose="It can", content={JSON: {"type": "object"}})},
        problems=(503,),
        examples=(Example(title="Ask", status=200),),
    ),
    ("GET", "/metrics"): Operation(
        id="metrics", tag="operations", summary="How it is doing", purpose="For Prometheus.",
        answers={200: Answer(purpose="Metrics", content={"text/plain": TEXT})},
        examples=(Example(title="Scrape", status=200),),
    ),
    ("GET", "/openapi.json"): Operation(
        id="openapi", tag="documents", summary="This API as an OpenAPI 3.1 document", purpose="For programs.",
        headers=(_IF_NONE_MATCH,),
        answers={200: Answer(purpose="The document", content={JSON: {"type": "object"}}, headers=_TAGGED), 304: _KNOWN},
        examples=(Example(title="Fetch", status=200),),
    ),
    ("GET", "/docs"): Operation(
        id="docs", tag="documents", summary="This API as a page", purpose="For people. Loads nothing from elsewhere.",
        headers=(_IF_NONE_MATCH,),
        answers={200: Answer(purpose="The page", content={"text/html": TEXT}, headers=_TAGGED), 304: _KNOWN},
        examples=(Example(title="Fetch", status=200),),
    ),
    ("GET", "/problems/{code}"): Operation(
        id="problem", tag="documents", summary="What a problem means",
        purpose="Where the `type` of a problem document leads. A page, or JSON for `Accept: application/json`.",
        answers={200: Answer(purpose="What it means", content={"text/html": TEXT, JSON: ref("ProblemKind")})},
        problems=(404, 406),
        examples=(Example(title="Look one up", status=200, code="log_diverged"),),
    ),
    ("GET", "/"): Operation(
        id="index", tag="documents", summary="Where to begin", purpose="A small page with links.",
        answers={200: Answer(purpose="The page", content={"text/html": TEXT})},
        examples=(Example(title="Fetch", status=200),),
    ),
}  # fmt: skip
__all__ = ["OPERATIONS", "TAGS", "Answer", "Example", "Header", "Operation"]
