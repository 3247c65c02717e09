"""Following a stream, as a state machine without I/O: what to ask for, what came, when to ask again.

It promises each event once and in order, from the cursor on, over any number of connections that break anywhere:

 - a frame counts when it is whole; the next connection says `Last-Event-ID` with the last one's id
 - a frame that was had already is passed over
 - a frame whose `prev` lies beyond what was had is a hole: connect again from the own cursor, once; then `Gap`
 - `gap` is `LogDiverged`; `reauth` asks for a token; `end` and 204 are the end; names not known here are passed over
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from headway.client.calls import Answer, Request, check, get, segment
from headway.client.errors import BadAnswer, ClientError, Gap, LogDiverged, TokenExpired, Unauthorized
from headway.client.retrying import Backoff
from headway.client.sse import MAX_FRAME, Frame, Parser
from headway.client.values import Event, JobSnapshot
from headway.errors import Misuse

Item = JobSnapshot | Event


class CaughtUp(NamedTuple):
    """History is through; what comes from here on is new."""

    cursor: str


LONGEST_RETRY: Final = 300.0  # seconds of a server's `retry:` that are obeyed
_CURSOR: Final = re.compile(r"[0-9]{4,9}_([0-9]{16})_[0-9a-f]{8}")


class _Snapshot(msgspec.Struct):
    job: JobSnapshot | None
    cursor: str


class _Told(msgspec.Struct):
    cursor: str | None = None


class _End(msgspec.Struct):
    status: str | None = None


class _Gap(msgspec.Struct):
    reason: str = "hash"
    common: str | None = None
    cursor: str | None = None


_event: Final = msgspec.json.Decoder(Event).decode
_snapshot: Final = msgspec.json.Decoder(_Snapshot).decode
_caught_up: Final = msgspec.json.Decoder(_Told).decode
_end: Final = msgspec.json.Decoder(_End).decode
_gap: Final = msgspec.json.Decoder(_Gap).decode


def position_of(cursor: str | int | None) -> int | None:
    """The position in a cursor; 0 for the start, None for `now` and what is no cursor."""
    if cursor is None or cursor in ("", "-1", -1):
        return 0
    text = str(cursor)
    if text.isascii() and text.isdigit():
        return int(text)
    found = _CURSOR.fullmatch(text)
    return None if found is None else int(found[1])


class Following:
    """One stream. The shell sends `request()`, and tells by `opened`, `feed` and `lost` what became of it.

    `items` wait to be handed out; when they are gone, `failure` is raised, or the stream is over if `ended`.
    `pause`: seconds to wait before the next request. `renew`: get another token first. `status`: how the job ended.
    """

    def __init__(
        self,
        path: str,
        parameters: Mapping[str, Any],
        *,
        after: str | int | None = None,
        can_renew: bool = False,
        max_frame: int = MAX_FRAME,
    ) -> None:
        self.items: deque[Item | CaughtUp] = deque()
        self.failure: ClientError | None = None
        self.ended = False
        self.status: str | None = None
        self.start = None if after is None else str(after)
        self.pause = 0.0
        self.renew = False
        self._path, self._parameters, self._after = path, parameters, after
        self._whole = parameters.get("mode") is None
        self._can_renew, self._max_frame = can_renew, max_frame
        self._pictures = after is None and (path.startswith("/v1/jobs/") or parameters.get("jobs") is not None)
        self._have = None if self._pictures else position_of(after)
        self._cursor: str | None = None
        self._pictured: str | None = None  # where the snapshots end, until they are known to be whole
        self._parser = Parser(max_frame)
        self._retry = 0.0  # seconds, as the server asked last
        self._backoff = Backoff()
        self._doubted = False
        self._reauthed = False

    def request(self) -> Request:
        """What to send now. The answer is a stream: `accept-encoding` says that nobody may hold it back to pack it."""
        resumed = self._cursor is not None
        method, target, headers, _ = get(self._path, **self._parameters, after=None if resumed else self._after)
        headers |= {"accept": "text/event-stream", "accept-encoding": "identity", "cache-control": "no-store"}
        if self._cursor is not None:
            headers["last-event-id"] = self._cursor
        return Request(method, target, headers)

    def opened(self, answer: Answer) -> bool:
        """Whether a stream follows. An answer that is none has its body; it is the end, a pause, or a `failure`."""
        self.pause, self.renew = 0.0, False
        if answer.status == 204:
            self.ended = True
            return False
        try:
            check(answer)
            kind = answer.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise BadAnswer(f"this is no stream of events but {kind[:100]!r}", status=answer.status)
        except ClientError as error:
            if isinstance(error, Unauthorized) and self._can_renew and not self._reauthed:
                self.renew = self._reauthed = True
            elif error.retryable:
                self.pause = self._backoff.next(min(LONGEST_RETRY, getattr(error, "retry_after", None) or 0.0))
            else:
                self.failure = error
            return False
        self._parser, self._pictured = Parser(self._max_frame), None
        return True

    def feed(self, chunk: bytes) -> bool:
        """Take in what came. False: nothing more of this connection is wanted."""
        try:
            for frame in self._parser.feed(chunk):
                if not self._take(frame):
                    return False
        except ClientError as error:
            self.failure = error
            return False
        except msgspec.MsgspecError as error:
            self.failure = BadAnswer(f"a frame of the stream can't be read: {error}")
            return False
        finally:
            if self._parser.retry is not None:
                self._retry = min(self._parser.retry / 1000, LONGEST_RETRY)
        return True

    def lost(self) -> None:
        """The connection could not be had, broke, or was silent for too long."""
        self.pause = self._backoff.next(self._retry)

    def _take(self, frame: Frame) -> bool:
        """Whether to go on reading."""
        match frame.event:
            case "message":
                return self._data(frame)
            case "snapshot":
                self._picture(frame)
            case "caught_up":
                self._backoff.reset()
                self._stand(self._pictured)
                cursor = _caught_up(frame.data).cursor or self._cursor
                self._stand(cursor)
                self.items.append(CaughtUp(cursor or ""))
            case "gap":
                told = _gap(frame.data)
                had = self._cursor or self._after
                raise LogDiverged(
                    f"cursor {had} is not on this log's history ({told.reason}): go on from {told.common}",
                    facts={"cursor": had, "reason": told.reason, "common": told.common},
                )
            case "reauth":
                return self._token_used_up()
            case "end":
                self.ended, self.status = True, _end(frame.data).status
                return False
            case _:
                pass
        return True

    def _data(self, frame: Frame) -> bool:
        event = _event(frame.data)
        cursor = frame.last_id or event.cursor
        if not event.cursor:
            msgspec.structs.force_setattr(event, "cursor", cursor)
        self._stand(self._pictured)
        have = self._have
        if have is not None and event.position <= have:
            return True
        if have is not None and self._whole and event.prev is not None and not self._follows(event.prev, have):
            if self._doubted:
                raise Gap(self._cursor or str(self._after), event.prev)
            self._doubted = True
            self.pause = 0.0
            return False
        self._have, self._cursor = event.position, cursor
        self._doubted = self._reauthed = False
        self._backoff.reset()
        self.items.append(event)
        return True

    def _follows(self, prev: str, have: int) -> bool:
        """Whether nothing lies between what was had and this. At the same position the hash must be the same too."""
        place = position_of(prev)
        if place is None or place > have:
            return False
        return place < have or self._cursor is None or "_" not in self._cursor or self._cursor == prev

    def _picture(self, frame: Frame) -> None:
        """Snapshots count at the start: later ones show what the events after the cursor will tell anyway.

        A connection that breaks among several of them begins anew.
        """
        self._backoff.reset()
        if not self._pictures or self._cursor is not None:
            return
        told = _snapshot(frame.data)
        self._pictured = told.cursor if self._pictured is None else min(self._pictured, told.cursor)
        if told.job is not None:
            if not told.job.cursor:
                msgspec.structs.force_setattr(told.job, "cursor", told.cursor)
            self.items.append(told.job)

    def _stand(self, cursor: str | None) -> None:
        """Where to go on, if nothing had said so yet."""
        if self._have is None and cursor is not None:
            self._have, self._cursor = position_of(cursor), cursor

    def _token_used_up(self) -> bool:
        if not self._can_renew:
            raise TokenExpired("the stream token is used up: give the client a function that gets another, token=…")
        self.renew = True
        self.pause = self._backoff.next() if self._reauthed else 0.0
        self._reauthed = True
        return False


def stream(
    job_id: str | None,
    *,
    jobs: Sequence[str] | None,
    prefix: str | None,
    after: str | int | None,
    events: str | None,
    types: Sequence[str] | None = None,
    steps: Sequence[str] | None = None,
    latest: bool,
    wait: bool = False,
    can_renew: bool,
) -> Following:
    """The stream of a job, of some jobs, or of the log. Raises `Misuse`."""
    for name, given in (("jobs", jobs), ("types", types), ("steps", steps)):
        if isinstance(given, str):
            raise Misuse(f"{name}: a list")
    if job_id is not None and (jobs is not None or prefix is not None):
        raise Misuse("follow one job, or jobs and a prefix, not both")
    parameters = {
        "jobs": ",".join(jobs) if jobs is not None else None,
        "prefix": prefix,
        "events": events,
        "types": ",".join(types) if types is not None else None,
        "steps": ",".join(steps) if steps is not None else None,
        "wait": wait or None,
        "mode": "latest" if latest else None,
    }
    path = "/v1/stream" if job_id is None else f"/v1/jobs/{segment(job_id)}/stream"
    return Following(path, parameters, after=after, can_renew=can_renew)
