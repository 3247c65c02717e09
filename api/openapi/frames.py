"""What stands on a stream, for the document: examples in frames that the streams' own code makes, and what their data
holds. Only the job of a snapshot is shortened.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from api.openapi.events import Schema
from api.streams import frames
from api.streams.frames import Control, control, frame_of, retry
from api.streams.subscriber import reauth
from eventstore.cursor import format_cursor
from eventstore.events import RecordedEvent

_BEFORE: Final = format_cursor(1, 41, "5b1c22aa")
_EVENT: Final = RecordedEvent(
    42,
    "build:7",
    6,
    UUID("0197a6c0-0000-7000-8000-000000000006").bytes,
    "step.progressed",
    "compile",
    1,
    None,
    b'{"percent":50}',
    True,
    None,
    625_000,
    "worker-1",
    None,
    1_769_860_800_000_000,
    bytes.fromhex("9f8e7d6c" + "04" * 28),
)
_FRAME: Final = frame_of(_EVENT, 1)
_AT: Final = _FRAME.cursor.decode()
_JOB: Final = {"job_id": "build:7", "status": "running", "percent": 50.0, "version": 5, "cursor": _BEFORE}
_SNAPSHOT: Final = retry(frames.RETRY) + control(Control.SNAPSHOT, {"job": _JOB, "cursor": _BEFORE})
_CAUGHT_UP: Final = control(Control.CAUGHT_UP, {"cursor": _BEFORE})
_DATA: Final = _FRAME.after(_BEFORE.encode())
_END: Final = retry(frames.AFTER_END) + control(
    Control.END, {"job_id": "build:7", "status": "completed", "cursor": format_cursor(1, 47, "c0ffee01")}
)
_GAP: Final = retry(12_000) + control(
    Control.GAP,
    {"reason": "hash", "common": format_cursor(1, 40, "77aa01fe"), "cursor": format_cursor(1, 41, "00000bad")},
)

FRAMES: Final[dict[str, str]] = {
    "From a snapshot to news": (_SNAPSHOT + _CAUGHT_UP + _DATA + frames.HEARTBEAT).decode(),
    "The job has ended (only where one job is followed): don't come back": _END.decode(),
    "The cursor is not on this log's history: look anew, then go on after `common`": _GAP.decode(),
    "The token has expired, or its key is revoked: come with a new one": reauth("expired").decode(),
}
"""Bodies of a stream by what they show. In the first one the job has five events before; `data` of a snapshot holds
the whole job."""

ABOUT: Final = (
    "Frames as they come. A frame without `event` is an event of the log: its `id` is the cursor after it, its `data` a"
    " `StreamEvent`. Control frames have a name and no `id`: `snapshot` {job, cursor}: the job as `JobAnswer` shows it,"
    " up to `cursor` (`job` is null where it has not begun); `caught_up` {cursor}: what follows is live; `gap` {reason,"
    " common, cursor}: `cursor` is not on this log's history, `common` is the last place that is; `reauth` {reason}:"
    " `expired` or `revoked`; `end` {job_id, status, cursor}: the job has ended. After `gap`, `reauth` and `end` the"
    " stream is closed. A comment (`:`) comes every 15 s where nothing else does; `retry` says in ms when to come back."
)
_PREV: Final = (
    "The cursor of the frame before it on this stream (for the first: of the snapshot, or the one that was given)."
    " Where it lies beyond the last one that you have, something was lost: open the stream again after yours."
)


def stream_event(event: dict[str, Any]) -> Schema:
    """The schema of a data frame: an event of the history with `prev`, where the wire has it."""
    properties = dict(event["properties"])
    first = next(iter(properties))
    return {
        **event,
        "title": "StreamEvent",
        "description": "The `data` of a frame that is an event: a `WireEvent` and `prev`.",
        "properties": {first: properties.pop(first), "prev": {"type": "string", "description": _PREV}, **properties},
        "required": [first, "prev", *event["required"][1:]],
    }
