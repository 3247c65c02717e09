"""An NDJSON export as events again: the same ids, attempts, times, actors and data, in the order of the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from eventstore.codec import MAX_INT, check_job_id, prepare
from eventstore.errors import InvalidEvent
from eventstore.events import ENDING_TYPES, LOG_JOB, NewEvent, to_us
from projections.importing.entry import Entry
from projections.importing.report import ImportReport
from projections.importing.source import Source
from projections.importing.spool import Spool

Check = Callable[[NewEvent], None]


class ExportedEvent(msgspec.Struct, frozen=True, gc=False):
    """What an export must say of an event. Not looked at is what each log gives by itself: position, hash and such."""

    job_id: str
    version: int
    event_id: UUID
    type: str
    data: dict[str, Any]
    step: str | None = None
    attempt: int | None = None
    seq: int | None = None
    applied: bool | None = None
    reason: str | None = None
    percent: float = 0.0
    actor: str | None = None
    occurred_at: datetime | None = None


_decode: Final = msgspec.json.Decoder(ExportedEvent).decode
_LONG: Final = re.compile(rb"[0-9]{16}")


def is_export(head: bytes) -> bool:
    """Whether the first line is an event of a log, not a row of a history. `head` may end within it."""
    line, whole, _ = head.partition(b"\n")
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return not whole and b'"job_id":' in line and b'"event_id":' in line
    return isinstance(row, dict) and {"job_id", "event_id", "type"} <= row.keys()


def read_export(source: Source, report: ImportReport, *, check: Check, max_job_events: int) -> Iterator[Entry]:
    """The events, in the order of the file, without those of the log itself.

    Raises `ImportRefused` for an event that no log would take, an id that stands there twice, events of a job that are
    not in its order, and a job with too many. The last three can only be told at the end.
    """
    with Spool() as ids, Spool() as versions:
        for place, text in enumerate(source.lines()):
            if text.isspace():
                continue
            line = source.line
            event = _event(text, source)
            report.read += 1
            if event.job_id == LOG_JOB:
                report.left_out += 1
                continue
            _check(event, check, source, line)
            ids.add((event.event_id.bytes, line))
            versions.add((event.job_id, line, event.version, event.type in ENDING_TYPES))
            yield _entry(event, place, line)
        _refuse_twins(ids, source)
        report.jobs = _refuse_disorder(versions, source, max_job_events)


def _event(text: bytes, source: Source) -> ExportedEvent:
    try:
        event = _decode(text)
        return msgspec.structs.replace(event, data=_with_floats(event.data)) if _LONG.search(text) else event
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise source.refuse(f"not an exported event: {error}", source.line) from None


def _with_floats(value: Any) -> Any:
    """Integers beyond 2^53 as the doubles that they were: canonical JSON writes 1e16 as 10000000000000000."""
    match value:
        case dict():
            return {name: _with_floats(item) for name, item in value.items()}
        case list():
            return [_with_floats(item) for item in value]
        case int() if not -MAX_INT <= value <= MAX_INT:
            return float(value)
        case _:
            return value


def _check(event: ExportedEvent, check: Check, source: Source, line: int) -> None:
    try:
        prepare(
            check_job_id(event.job_id),
            NewEvent(
                type=event.type,
                step=event.step,
                attempt=event.attempt,
                seq=event.seq,
                occurred_at=event.occurred_at,
                event_id=event.event_id,
                data=event.data,
                actor=event.actor,
            ),
            check=check,
        )
    except InvalidEvent as error:
        raise source.refuse(str(error), line) from None


def _entry(event: ExportedEvent, place: int, line: int) -> Entry:
    return Entry(
        place,
        0,
        line,
        event.job_id,
        event.type,
        event.step,
        event.attempt,
        event.seq,
        None if event.occurred_at is None else to_us(event.occurred_at),
        event.event_id.bytes,
        msgspec.json.encode(event.data) if event.data else None,
        event.actor,
        event.applied,
        event.reason,
        round(event.percent * 10_000),
    )


def _refuse_twins(ids: Spool, source: Source) -> None:
    last: tuple[Any, ...] = (b"", 0)
    for event_id, line in ids:
        if event_id == last[0]:
            raise source.refuse(f"the event id {UUID(bytes=event_id)} stands in line {last[1]} already", line)
        last = (event_id, line)


def _refuse_disorder(versions: Spool, source: Source, max_job_events: int) -> int:
    """How many jobs there are."""
    jobs = count = last = 0
    job: str | None = None
    for job_id, line, version, ends in versions:
        if job_id != job:
            job, count, last, jobs = job_id, 0, 0, jobs + 1
        if version <= last:
            raise source.refuse(f"version {version} of job {job_id!r} comes after its version {last}", line)
        last, count = version, count + 1
        if count > max_job_events and not ends:
            raise source.refuse(
                f"job {job_id!r} has more than {max_job_events:,} events, the limit; HEADWAY_MAX_JOB_EVENTS raises it",
                line,
            )
    return jobs
