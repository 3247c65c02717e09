"""The API as an OpenAPI 3.1 document, made from the table of routes, the parameters that the routes read, and the
Structs that they answer with: what is not in the code is not in the document, and the other way round (a test).
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

import msgspec

from api.auth import Scope
from api.openapi.curl import curl_line
from api.openapi.events import Schema, event_schemas, ref
from api.openapi.frames import stream_event
from api.openapi.operations import NDJSON, OPERATIONS, TAGS, Answer, Operation
from api.openapi.problems import ANYWHERE, KEYED, ProblemKind, kinds, problem_schema
from api.parameters import JOB_ID, MOST, Parameter
from api.problems import PROBLEM_JSON
from api.routes import ROUTES, Route
from api.routes.history import EventPage
from api.routes.ingest import AppendedToJob, AppendedToMany
from api.routes.jobs import STATUSES, JobAnswer, JobList
from api.routes.time_travel import Diff
from api.routes.tokens import StreamToken, TokenRequest
from api.settings import Settings
from api.tokens import MAX_JOBS
from projections.standing import JobStanding

TOKEN_TTL: Final = Settings().token_ttl
_OR_NOTHING: Final = "^([A-Za-z0-9][A-Za-z0-9._:@-]{0,199})?$"
ANSWERS: Final = (
    AppendedToJob, AppendedToMany, JobAnswer, JobList, EventPage, Diff, StreamToken, TokenRequest, ProblemKind,
    JobStanding,
)  # fmt: skip
_PATH: Final[dict[str, tuple[str, Schema, str]]] = {
    "job": ("The job's id", {"type": "string", "pattern": JOB_ID}, "build:7"),
    "code": ("The last part of a problem's `type`", {"type": "string", "pattern": "^[a-z_]{1,60}$"}, "log_diverged"),
}
_RETRY: Final = {"Retry-After": {"description": "Seconds after which to try again", "schema": {"type": "integer"}}}
_EXTRA: Final[dict[int, Schema]] = {
    401: {"WWW-Authenticate": {"description": "How to give a key", "schema": {"type": "string"}}},
    429: _RETRY,
    503: _RETRY,
}
_ABOUT: Final = """\
Append-only history of jobs, their steps and their progress, with live streams.

A **cursor** (`0001_0000000000000042_9f8e7d6c`) is a place in the log: everything up to there is mine, next please.
Each answer has one, each stream and each history takes one (`after`), and a place that this log does not know is a 409
that names the last common one. Errors are problem documents (RFC 9457) with stable codes; `503` and `429` say when to
try again, and any append may be repeated with the same event ids (or the same `Idempotency-Key`) without harm.
"""


def document(*, keyless: bool = False, token_ttl: int = TOKEN_TTL) -> dict[str, Any]:
    """The document. `keyless`: of a server on 127.0.0.1 that asks for no keys. `token_ttl`: seconds that a stream token
    is good for at most."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        operation = OPERATIONS[route.method, route.path]
        item = paths.setdefault(route.path, {})
        item[route.method.lower()] = _operation(route, operation, keyless=keyless)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headway",
            "version": version("headway"),
            "summary": "Progress, for ever",
            "description": _ABOUT,
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": paths,
        "components": _components(keyless=keyless, token_ttl=token_ttl),
    }


def _components(*, keyless: bool, token_ttl: int) -> dict[str, Any]:
    _, made = msgspec.json.schema_components(ANSWERS, ref_template="#/components/schemas/{name}")
    for name, schema in made.items():
        _refine(name, schema)
    _refine_token(made["TokenRequest"], token_ttl)
    standing = ref("JobStanding")
    made["AppendedToJob"]["properties"]["job"] = {"anyOf": [standing, {"type": "null"}]}
    made["AppendedToMany"]["properties"]["jobs"] = {"type": "array", "items": standing}
    made["StreamEvent"] = stream_event(made["WireEvent"])
    found: dict[str, Any] = {"schemas": {**made, **event_schemas(), "Problem": problem_schema()}}
    if not keyless:
        found["securitySchemes"] = {
            "key": {
                "type": "http", "scheme": "bearer", "bearerFormat": "hw_ID_SECRET",
                "description": f"A key of one log; its scopes: {', '.join(Scope)}",
            },
            "token": {
                "type": "apiKey", "in": "query", "name": "token",
                "description": "A stream token, from `POST /v1/stream-tokens`",
            },
        }  # fmt: skip
    return found


def _refine(name: str, schema: dict[str, Any]) -> None:
    """What the types of a Struct don't say."""
    schema["description"] = " ".join(schema.get("description", "").split())
    properties: dict[str, Any] = schema.get("properties", {})
    for field, rule in properties.items():
        if field.endswith("_at") or field in ("until", "since"):
            _text_of(rule)["format"] = "date-time"
        elif field == "metadata":
            properties[field] = {"type": ["object", "null"]}
        elif field == "status" and name.startswith("Job"):
            rule["enum"] = list(STATUSES)


def _refine_token(schema: dict[str, Any], longest: int) -> None:
    job = {"type": "string", "pattern": JOB_ID}
    schema["properties"] = {
        "jobs": {"type": ["array", "null"], "items": job, "minItems": 1, "maxItems": MAX_JOBS},
        "prefix": {"type": "string", "pattern": _OR_NOTHING, "default": ""},
        "ttl": {"type": ["integer", "null"], "minimum": 1, "maximum": longest, "default": None},
    }
    schema["not"] = {
        "required": ["jobs", "prefix"],
        "properties": {"jobs": {"type": "array"}, "prefix": {"minLength": 1}},
    }


def _text_of(rule: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that is about a text."""
    found: dict[str, Any] = next((each for each in rule.get("anyOf", ()) if each.get("type") == "string"), rule)
    return found


def _operation(route: Route, operation: Operation, *, keyless: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.purpose,
        "parameters": [*_in_path(route), *_in_query(route, operation, keyless=keyless), *_in_header(operation)],
    }
    if not keyless and route.scopes is not None:
        ways = [{"key": [scope]} for scope in sorted(route.scopes)]
        found["security"] = [*ways, {"token": []}] if route.stream else ways
    if operation.body:
        examples = {
            example.title: {"summary": example.title, "value": example.body}
            for example in operation.examples
            if example.body is not None
        }
        found["requestBody"] = {
            "required": operation.needs_body,
            "content": {
                kind: {"schema": schema, "examples": _of_kind(operation, kind, examples)}
                for kind, schema in operation.body.items()
            },
        }
    found["responses"] = _responses(route, operation, keyless=keyless)
    found["x-codeSamples"] = [
        {"lang": "Shell", "label": example.title, "source": curl_line(route, example, keyless=keyless)}
        for example in operation.examples
    ]
    return found


def _of_kind(operation: Operation, kind: str, examples: dict[str, Any]) -> dict[str, Any]:
    titles = {example.title for example in operation.examples if example.kind == kind}
    return {title: example for title, example in examples.items() if title in titles}


def _in_path(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "description": purpose, "schema": schema, "example": example}
        for name, (purpose, schema, example) in _PATH.items()
        if f"{{{name}}}" in route.path
    ]


def _in_query(route: Route, operation: Operation, *, keyless: bool) -> list[dict[str, Any]]:
    # The token is a security scheme where there are keys; where there are none it means nothing.
    given = [one for one in operation.parameters if not (route.stream and one.name == "token")]
    return [_parameter(parameter) for parameter in given] if given or keyless else []


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema, example = parameter.schema, parameter.example
    found: dict[str, Any] = {"name": parameter.name, "in": "query", "description": parameter.purpose}
    if parameter.many:
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": MOST}
        example = None if example is None else [example]
        found |= {"style": "form", "explode": True}
    found["schema"] = schema if example is None else {**schema, "examples": [example]}
    return found


def _in_header(operation: Operation) -> list[dict[str, Any]]:
    found = []
    for header in operation.headers:
        schema = header.schema if header.example is None else {**header.schema, "examples": [header.example]}
        found.append({"name": header.name, "in": "header", "description": header.purpose, "schema": schema})
    return found


def _responses(route: Route, operation: Operation, *, keyless: bool) -> dict[str, Any]:
    found = {str(status): _answer(status, answer) for status, answer in sorted(operation.answers.items())}
    statuses = {*operation.problems, *ANYWHERE}
    if route.scopes is not None:
        statuses |= KEYED - ({401} if keyless else set())
    if "{job}" in route.path:
        statuses |= {404, 422}
    for status in sorted(statuses):
        codes = [kind for kind in kinds() if kind.status == status and _may_meet(operation, kind.code)]
        found[str(status)] = {
            "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in codes),
            "headers": _EXTRA.get(status, {}),
            "content": {PROBLEM_JSON: {"schema": ref("Problem")}},
        }
    if operation.id == "appendToJob":
        for new in ("200", "201"):
            found[new]["links"] = {
                "job": {"operationId": "getJob", "parameters": {"job": "$request.path.job"}},
                "history": {"operationId": "getJobEvents", "parameters": {"job": "$request.path.job"}},
            }
    return found


_APPENDING: Final = frozenset(("event_id_conflict", "job_full", "outcome_unknown", "duplicate_key", "append_refused"))
_READING: Final = frozenset(("log_diverged", "invalid_cursor", "invalid_filter"))
_NOT_HERE: Final = frozenset(("checkpoint_moved", "no_such_consumer", "no_such_log", "forked", "unsafe_durability"))


def _may_meet(operation: Operation, code: str) -> bool:
    """Whether an operation can end in a problem of this code, as far as that is worth telling apart."""
    appends = operation.tag == "append"
    if code == "wrong_expected_version":
        return operation.id in ("appendToJob", "getJob")
    return code not in _NOT_HERE and code not in (_READING if appends else _APPENDING)


def _answer(status: int, answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.purpose}
    if answer.headers:
        found["headers"] = {
            name: {"description": about, "schema": {"type": "string"}} for name, about in answer.headers.items()
        }
    if answer.content and status != 304:
        shown = {title: {"summary": title, "value": body} for title, body in answer.shown.items()}
        more = {"examples": shown} if shown else {}
        found["content"] = {kind: {"schema": schema, **more} for kind, schema in answer.content.items()}
    return found


__all__ = ["NDJSON", "document"]
