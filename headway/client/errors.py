"""What can go wrong between a program and a server.

ClientError                code · status · detail · facts · request_id · retryable
├── Unreachable            no connection, or no answer in time; retryable
├── BadAnswer              what answers is no Headway server, or breaks the protocol
├── Gap                    a stream left events out, twice in a row
├── TokenExpired           the stream token is used up, and the client was given no way to get another
└── Refused                the server said no, in a problem document (RFC 9457)
    ├── InvalidRequest     400, 413, 415, 422 …: the request breaks a rule; `facts` may name the field
    ├── Unauthorized       401
    ├── Forbidden          403
    ├── NotFound           404
    ├── Conflict           409, 412; `code` is the server's word for it
    │   ├── WrongExpectedVersion   `actual`
    │   ├── EventIdConflict        `event_id`
    │   └── LogDiverged            `common`: the last cursor that this log and the caller share; `reason`
    └── Unavailable        429, 5xx; retryable, but for 500

`retryable` says whether the same call may succeed later. The client has then tried already, for as long as its timeout.
No error holds a key or a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headway.errors import HeadwayError

_SAID: Final = 200  # characters of a foreign answer that an error shows
_MEMBERS: Final = frozenset(("type", "title", "status", "code", "detail", "request_id", "instance"))


class ClientError(HeadwayError):
    """Base of the client's errors. `facts` are the further fields of the problem document."""

    code: str = "client_error"
    retryable: bool = False

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        facts: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail, self.status, self.request_id = detail, status, request_id
        self.facts: dict[str, Any] = dict(facts or {})
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        where = "" if self.request_id is None else f" [request {self.request_id}]"
        return f"{self.code}: {self.detail}{where}"


class Unreachable(ClientError):
    code = "unreachable"
    retryable = True


class BadAnswer(ClientError):
    code = "bad_answer"


class Gap(ClientError):
    """`cursor` is what was had, `prev` what the stream took for granted."""

    code = "gap"

    def __init__(self, cursor: str, prev: str) -> None:
        super().__init__(
            f"the stream goes on after {prev}, but only what is up to {cursor} has come; connecting again did not help",
            facts={"cursor": cursor, "prev": prev},
        )
        self.cursor, self.prev = cursor, prev


class TokenExpired(ClientError):
    code = "token_expired"


class Refused(ClientError):
    """`retry_after`: the seconds that the server asks to wait, if it does."""

    code = "refused"
    retry_after: float | None = None


class InvalidRequest(Refused):
    code = "invalid_request"


class Unauthorized(Refused):
    code = "unauthorized"


class Forbidden(Refused):
    code = "forbidden"


class NotFound(Refused):
    code = "not_found"


class Conflict(Refused):
    code = "conflict"


class WrongExpectedVersion(Conflict):
    code = "wrong_expected_version"

    @property
    def actual(self) -> int | None:
        """The job's version."""
        return _number(self.facts.get("actual"))


class EventIdConflict(Conflict):
    code = "event_id_conflict"

    @property
    def event_id(self) -> str | None:
        return _text(self.facts.get("event_id"))


class LogDiverged(Conflict):
    """The log lost or changed what the caller has seen: go on from `common`, after dropping what came later."""

    code = "log_diverged"

    @property
    def reason(self) -> str | None:
        """`ahead`, `epoch` or `hash`."""
        return _text(self.facts.get("reason"))

    @property
    def common(self) -> str | None:
        return _text(self.facts.get("common"))


class Unavailable(Refused):
    code = "unavailable"
    retryable = True


_BY_CODE: Final[dict[str, type[Refused]]] = {
    kind.code: kind for kind in (WrongExpectedVersion, EventIdConflict, LogDiverged)
}
_BY_STATUS: Final[dict[int, type[Refused]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    429: Unavailable,
}
RETRIED: Final = frozenset((429, 502, 503, 504))
"""Nothing was done, or may be done again: every event has an id."""


class _Problem(msgspec.Struct):
    title: str = ""
    code: str = ""
    detail: str = ""
    request_id: str | None = None


def refusal(status: int, body: bytes, *, content_type: str = "", retry_after: float | None = None) -> ClientError:
    """The error that an answer means: of a problem document its facts, of anything else its first characters."""
    error: ClientError
    try:
        problem = msgspec.json.decode(body, type=_Problem)
        members: dict[str, Any] = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = " ".join(body[: _SAID * 4].decode("utf-8", "replace").split())[:_SAID]
        detail = f"the server answered {status}" + (f" ({content_type})" if content_type else "") + f": {said!r}"
        if status in _BY_STATUS or status >= 500:
            error = _kind(status, "")(detail, status=status)
        else:
            error = BadAnswer(detail, status=status)
    else:
        facts = {name: value for name, value in members.items() if name not in _MEMBERS}
        error = _kind(status, problem.code)(
            problem.detail or problem.title or f"the server answered {status}",
            code=problem.code or None,
            status=status,
            facts=facts,
            request_id=problem.request_id,
        )
    if isinstance(error, Refused):
        error.retry_after = retry_after
        error.retryable = status in RETRIED
    return error


def _kind(status: int, code: str) -> type[Refused]:
    if status == 409 and code in _BY_CODE:
        return _BY_CODE[code]
    return _BY_STATUS.get(status) or (Unavailable if status >= 500 else InvalidRequest)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None
