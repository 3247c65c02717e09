"""Events as CSV that a spreadsheet opens as it is meant (RFC 4180, UTF-8)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from eventstore.events import RecordedEvent
from projections.exporting.ndjson import error_of, moment

HEADER: Final = (
    "position", "job_id", "version", "type", "step", "attempt", "seq", "applied", "reason", "percent", "actor",
    "occurred_at", "recorded_at", "message", "error", "event_id", "data",
)  # fmt: skip
BOM: Final = b"\xef\xbb\xbf"
_FORMULA: Final = re.compile("[=+\\-@\t\r\n＝＋－＠]")


def table_rows(pages: Iterable[list[RecordedEvent]], *, formulas: bool, bom: bool) -> Iterator[bytes]:
    """The header, then the rows of a page at a time.

    A text that begins with = + - @ (also full-width), a tab or a line break gets an apostrophe in front unless
    `formulas`: opened in a spreadsheet it could run as a formula (CWE-1236).
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(HEADER)
    yield BOM if bom else b""
    guard = _as_it_is if formulas else _guarded
    for page in pages:
        writer.writerows(_row(event, guard) for event in page)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()


def _row(event: RecordedEvent, guard: Any) -> tuple[Any, ...]:
    data = event.data
    return (
        event.position,
        event.job_id,
        event.version,
        event.type,
        guard(event.step),
        event.attempt,
        event.seq,
        "true" if event.applied else "false",
        event.reason,
        f"{event.ppm // 10_000}.{event.ppm % 10_000:04d}",
        guard(event.actor),
        _time(moment(event.occurred_us)),
        _time(moment(event.recorded_us)),
        guard(data.get("message")),
        guard(error_of(data)),
        str(event.event_id),
        guard(event.data_json.decode()),
    )


def _time(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _as_it_is(value: Any) -> Any:
    return value


def _guarded(value: Any) -> Any:
    return f"'{value}" if type(value) is str and _FORMULA.match(value) else value
