"""What a row of a history means in the log: its job id, its event id, its type and attempt.

Transitions are those of the lifecycle extension of IEEE 1849-2016 (XES). Those whose meaning is clear become the event
of the same meaning, the others a note that names them. No job end is invented: a history says what was done in a case,
not that the case is over.

| transition | event |
|---|---|
| schedule | `step.added`; if the case had the activity before, `step.noted` |
| start | `step.started` of attempt e + 1, e being how many attempts of the activity ended in that case so far |
| complete | `step.completed` of attempt e + 1, which opens it if there was no start |
| suspend, resume | `step.waiting`, `step.resumed` of attempt e + 1; after an end without a new start: of no attempt |
| ate_abort, pi_abort | `step.failed` of attempt e + 1 |
| withdraw | `step.cancelled`; of attempt e + 1 if it is open |
| autoskip, manualskip | `step.skipped`; of attempt e + 1 if it is open |
| assign, reassign, unknown, any other | `step.noted` |
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final, NamedTuple

import msgspec

from eventstore.codec import check_job_id

MAX_ID: Final = 200  # characters, DESIGN section 2
_PLAIN: Final = re.compile(r"[A-Za-z0-9._:-]*")
_ODD: Final = re.compile(rb"[^A-Za-z0-9._:-]")
_VERSION_8: Final = 0x8000
_encode: Final = msgspec.msgpack.Encoder().encode


def job_id_of(prefix: str, case: str) -> str:
    """The job of a case: prefix and case, the same for the same case and different for different ones, always.

    Characters that a job id can't have, and "@", are written as "@" and two hexadecimal digits for each byte of their
    UTF-8, as URLs do with "%": `Fall 7/b` becomes `Fall@207@2Fb`. What is longer than 200 characters keeps its
    beginning, then "@@" and 32 digits of the SHA-256 of the whole. Raises `InvalidEvent` if no prefix helps.
    """
    job_id = prefix + case
    if not _PLAIN.fullmatch(case):
        job_id = prefix + _ODD.sub(lambda found: b"@%02X" % found[0][0], case.encode()).decode()
    if len(job_id) > MAX_ID:
        digest = hashlib.sha256(job_id.encode()).hexdigest()[:32]
        job_id = f"{job_id[: MAX_ID - 34].rstrip('@')}@@{digest}"
    return check_job_id(job_id, "case")


def event_id_of(job_id: str, activity: str, transition: str, us: int, resource: str | None, copy: int) -> bytes:
    """The id of a row, from what it says: the same in every import, whatever the file is called and how it is written.

    A UUID of version 8 (RFC 9562, section 5.8): milliseconds of the row's time, so that ids of one time lie together
    in the index, then SHA-256 of the row. `copy` counts from 0 how many equal rows stand before it.
    """
    said = _encode((job_id, activity, transition, us, resource, copy))
    drawn = hashlib.sha256(b"headway import 1\0" + said).digest()
    return (
        (us // 1_000 & 0xFFFF_FFFF_FFFF).to_bytes(6, "big")
        + (int.from_bytes(drawn[:2], "big") & 0x0FFF | _VERSION_8).to_bytes(2, "big")
        + bytes((drawn[2] & 0x3F | 0x80,))
        + drawn[3:10]
    )


class Meaning(NamedTuple):
    """`data` is None for an empty object."""

    type: str
    attempt: int | None
    data: dict[str, Any] | None


class Activity:
    """What one activity of one case has been through. Fed in the order of time."""

    __slots__ = ("ended", "open", "seen")

    def __init__(self) -> None:
        self.seen = False
        self.ended = 0
        self.open = False

    def meaning(self, transition: str) -> Meaning:
        """What the next transition means."""
        seen, self.seen = self.seen, True
        number = self.ended + 1
        match transition:
            case "start":
                self.open = True
                return Meaning("step.started", number, None)
            case "complete":
                self._end()
                return Meaning("step.completed", number, None)
            case "schedule" if not seen:
                return Meaning("step.added", None, None)
            case "suspend" | "resume":
                self.open = self.open or not self.ended
                kind = "step.waiting" if transition == "suspend" else "step.resumed"
                return Meaning(kind, number if self.open else None, None)
            case "ate_abort" | "pi_abort":
                self._end()
                return Meaning("step.failed", number, {"error": {"message": transition, "type": transition}})
            case "withdraw" | "autoskip" | "manualskip":
                was_open = self.open
                if was_open:
                    self._end()
                kind = "step.cancelled" if transition == "withdraw" else "step.skipped"
                return Meaning(kind, number if was_open else None, {"reason": transition})
            case _:
                noted = {"level": "info", "message": transition, "transition": transition}
                return Meaning("step.noted", None, noted)

    def _end(self) -> None:
        self.ended += 1
        self.open = False
