"""Errors as problem documents (RFC 9457): one table from error class to status, stable codes, facts as fields.

    HTTP/1.1 409 Conflict
    Content-Type: application/problem+json

    {"type":"/problems/wrong_expected_version","title":"…","status":409,"code":"wrong_expected_version",
     "detail":"job 'a' is at version 7, expected 6: …","job_id":"a","expected":6,"actual":7}

`type` names the kind of error, `code` the rule that was broken: for a bad field it is the rule's own word (`too_long`,
`not_finite`, `out_of_range` …), else the same word as in `type`. Nothing that a handler raises becomes a 500, but a
fault of our own.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from eventstore import errors as log_errors

logger = logging.getLogger("headway.http")

PROBLEM_JSON: Final = "application/problem+json"


class ApiError(Exception):
    """A request that can't be answered as it is. `facts` become fields of the problem, `headers` of the answer."""

    code: ClassVar[str] = "bad_request"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **facts: Any) -> None:
        super().__init__(detail)
        self.detail, self.headers, self.facts = detail, headers or {}, facts


class MalformedRequest(ApiError):
    """Not what the route reads at all: no JSON, a parameter that breaks its rule. `field` says where."""

    code = "malformed"


class DuplicateKey(MalformedRequest):
    code = "duplicate_key"


class Unauthorized(ApiError):
    code = "unauthorized"

    def __init__(self, detail: str = "give a key that is valid: Authorization: Bearer hw_ID_SECRET") -> None:
        super().__init__(detail, headers={"www-authenticate": 'Bearer realm="headway"'})


class Forbidden(ApiError):
    code = "forbidden"


class NotFound(ApiError):
    code = "not_found"


class MethodNotAllowed(ApiError):
    code = "method_not_allowed"

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"this route answers {allow}, not {method}", headers={"allow": allow})


class NotAcceptable(ApiError):
    code = "not_acceptable"


class PreconditionFailed(ApiError):
    code = "precondition_failed"


class TooLarge(ApiError):
    """Closes the connection: the rest of the body is not read."""

    code = "too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the body is larger than {limit:,} bytes: send less at once", limit=limit, headers={"connection": "close"}
        )


class InvalidLine(log_errors.InvalidEvent):
    """An event of an NDJSON body breaks a rule; `line` counts from 1."""

    line = 0


class UriTooLong(ApiError):
    code = "uri_too_long"


class HeadersTooLarge(ApiError):
    code = "headers_too_large"


class UnsupportedMediaType(ApiError):
    code = "unsupported_media_type"


class TooManyRequests(ApiError):
    code = "too_many_requests"

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail, headers={"retry-after": str(max(1, -int(-retry_after // 1)))})


class TookTooLong(ApiError):
    """The database gave no answer in time."""

    code = "timeout"


class Stopping(ApiError):
    """The server stops, or has no room: another one may answer."""

    code = "stopping"


class Kind(NamedTuple):
    """What an error means over HTTP. `retry_after`: seconds, for what may work later."""

    status: int
    title: str
    retry_after: int | None = None


TABLE: Final[dict[type[Exception], Kind]] = {
    MalformedRequest: Kind(400, "The request is malformed"),
    DuplicateKey: Kind(400, "A name stands twice in one JSON object"),
    Unauthorized: Kind(401, "No valid key"),
    Forbidden: Kind(403, "The key may not do this"),
    NotFound: Kind(404, "There is no such thing"),
    MethodNotAllowed: Kind(405, "The route does not answer this method"),
    NotAcceptable: Kind(406, "The route has no such format"),
    PreconditionFailed: Kind(412, "A precondition does not hold"),
    TooLarge: Kind(413, "The body is too large"),
    UriTooLong: Kind(414, "The address is too long"),
    UnsupportedMediaType: Kind(415, "The route does not read this format"),
    TooManyRequests: Kind(429, "Too many requests"),
    HeadersTooLarge: Kind(431, "The headers are too large"),
    TookTooLong: Kind(503, "No answer in time", 2),
    Stopping: Kind(503, "The server can't take this now", 2),
    log_errors.InvalidEvent: Kind(422, "A field breaks a rule"),
    log_errors.InvalidCursor: Kind(400, "This is no cursor"),
    log_errors.InvalidFilter: Kind(400, "A filter breaks a rule"),
    log_errors.NoSuchConsumer: Kind(404, "There is no such consumer"),
    log_errors.CheckpointMoved: Kind(409, "The checkpoint was moved"),
    log_errors.WrongExpectedVersion: Kind(409, "The job is at another version"),
    log_errors.EventIdConflict: Kind(409, "The event id is taken by other content"),
    log_errors.JobFull: Kind(409, "The job is at its limit of events"),
    log_errors.LogDiverged: Kind(409, "The cursor is not on this log's history"),
    log_errors.ChainBroken: Kind(500, "A stored event is not the one that was appended"),
    log_errors.NoSuchLog: Kind(404, "There is no such log"),
    log_errors.StoreBusy: Kind(503, "The log is busy", 1),
    log_errors.StorageFull: Kind(503, "The database's disk is full", 30),
    log_errors.StoreUnavailable: Kind(503, "The database can't be reached", 2),
    log_errors.AppendRefused: Kind(422, "The database can't hold this"),
    log_errors.StoreClosed: Kind(503, "The server stops", 2),
    log_errors.OutcomeUnknown: Kind(503, "Whether it was written is not known: retry with the same ids", 1),
    log_errors.FoldVersionMismatch: Kind(503, "This server is older than the log", 5),
    log_errors.Forked: Kind(503, "The call was queued in another process", 1),
    log_errors.UnsafeDurability: Kind(503, "The database may lose what it acknowledged", 30),
}
"""The nearest class in an error's ancestry decides."""

INTERNAL: Final = Kind(500, "A fault of the server's own")

_BY_RULE: Final = {"not_unicode": 400}
_FACTS: Final = {
    log_errors.InvalidEvent: ("field", "given", "rule"),
    InvalidLine: ("field", "given", "rule", "line"),
    log_errors.InvalidCursor: ("given",),
    log_errors.InvalidFilter: ("field", "given", "rule"),
    log_errors.WrongExpectedVersion: ("job_id", "actual"),
    log_errors.EventIdConflict: ("event_id", "position", "differs"),
    log_errors.JobFull: ("job_id", "limit"),
    log_errors.LogDiverged: ("cursor", "reason", "common"),
    log_errors.OutcomeUnknown: ("event_ids",),
    log_errors.ChainBroken: ("position",),
}
_encode: Final = msgspec.json.Encoder().encode


class Problem(NamedTuple):
    """An answer: status, headers (names in lower case), and the document."""

    status: int
    headers: dict[str, str]
    body: bytes


def kind_of(error: BaseException) -> Kind:
    for ancestor in type(error).__mro__:
        if (kind := TABLE.get(ancestor)) is not None:
            return kind
    return INTERNAL


def _without_addresses(error: Exception, detail: str) -> str:
    """What a driver says of hosts, sockets and users stays in our log; what Headway says of the database is told."""
    said, _, rest = detail.partition(": ")
    if type(error) is log_errors.StoreUnavailable and rest and said.startswith(("PostgreSQL ", "the database ")):
        return f"{said}: the server's log has the reason under the request id"
    return detail


def problem_of(error: Exception, request_id: str | None = None) -> Problem:
    """The problem document of any error. What nobody foresaw is logged with its traceback and told in one word."""
    kind = kind_of(error)
    code = getattr(error, "code", "internal_error")
    facts: dict[str, Any] = {}
    headers = {"content-type": PROBLEM_JSON, "cache-control": "no-store"}
    detail, status = str(error), kind.status
    match error:
        case ApiError():
            facts = error.facts
            headers |= error.headers
        case log_errors.EventStoreError():
            for ancestor, names in _FACTS.items():
                if isinstance(error, ancestor):
                    facts = {name: getattr(error, name) for name in names}
    if kind is INTERNAL:
        logger.error("request %s failed", request_id, exc_info=error)
        code, detail = (
            "internal_error",
            "the server failed at this request; its log has the reason under the request id",
        )
    elif status >= 500 and code not in ("stopping", "timeout"):
        logger.warning("request %s: %s: %s", request_id, code, detail)
        detail = _without_addresses(error, detail)
    kind_word = code
    if isinstance(error, log_errors.InvalidEvent):
        code, status = error.rule_code, _BY_RULE.get(error.rule_code, status)
    if kind.retry_after is not None:
        headers.setdefault("retry-after", str(kind.retry_after))
    document = {
        "type": f"/problems/{kind_word}",
        "title": kind.title,
        "status": status,
        "code": code,
        "detail": detail,
        **({} if request_id is None else {"request_id": request_id}),
        **{name: value for name, value in facts.items() if value is not None},
    }
    return Problem(status, headers, _encode(document))
