"""A log, or a part of it, as a file: NDJSON for programs and for another log, CSV for a spreadsheet, XES for mining.

    with open("log.ndjson", "wb") as file:
        export(store, file)

Events come in pages, so memory does not grow with the log. What is appended after the start is not in the file.

NDJSON is the form that comes back: imported into an empty log it gives the same events, ids, versions, verdicts and
percentages, and exported from there the same bytes. So a line holds what a log can take over (`ndjson.PortableEvent`)
and leaves out what each log gives by itself: position, cursor, time of recording, hash. `full=True` adds those (the
lines are those of `headway tail --json`); an import passes over them. An event without a time of its own is known to
the log by the time of its recording only: `fill_times=True` writes that as its `occurred_at`.

The log's own events (job `headway.log`) are in full NDJSON only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import IO, Literal

import msgspec

from eventstore.events import LOG_JOB, RecordedEvent
from eventstore.store import EventStore
from eventstore.wire import encode_event
from projections.exporting.ndjson import encode_portable
from projections.exporting.selection import Selection, in_order, job_by_job
from projections.exporting.table import table_rows
from projections.exporting.xes import xes_document

__all__ = ["FORMS", "Form", "Selection", "export"]

Form = Literal["ndjson", "csv", "xes"]
FORMS: tuple[Form, ...] = ("ndjson", "csv", "xes")
Progress = Callable[[int, int], None]
"""`progress(done, total)`: positions of the log looked at, of how many."""


def export(
    store: EventStore,
    out: IO[bytes],
    *,
    form: Form = "ndjson",
    selection: Selection | None = None,
    full: bool = False,
    fill_times: bool = False,
    formulas: bool = False,
    bom: bool = True,
    progress: Progress | None = None,
) -> int:
    """Write the selected events of the store's log (default: all) and return how many.

    `full` and `fill_times` are for NDJSON, see above. `formulas=True` (CSV) leaves texts as they are that a spreadsheet
    would take for formulas; `bom=False` (CSV) leaves out the byte order mark by which Excel knows UTF-8. XES has the
    jobs one after the other, oldest first; the others are in the order of the log.
    """
    chosen = (selection or Selection()).at(store.head().position)
    count = 0

    def told(pages: Iterable[tuple[int, list[RecordedEvent]]]) -> Iterator[list[RecordedEvent]]:
        nonlocal count
        for done, page in pages:
            events = page if full and form == "ndjson" else [event for event in page if event.job_id != LOG_JOB]
            if fill_times:
                events = [_filled(event) for event in events]
            count += len(events)
            yield events
            if progress is not None:
                progress(done, chosen.size)

    pieces: Iterable[bytes]
    match form:
        case "ndjson":
            one = partial(encode_event, epoch=store.head().epoch) if full else encode_portable
            pieces = (_lines(page, one) for page in told(in_order(store, chosen)))
        case "csv":
            pieces = table_rows(told(in_order(store, chosen)), formulas=formulas, bom=bom)
        case "xes":
            pieces = xes_document(told(job_by_job(store, chosen)), store.log)
    for piece in pieces:
        out.write(piece)
    return count


def _lines(events: Sequence[RecordedEvent], encode: Callable[[RecordedEvent], bytes]) -> bytes:
    return b"".join([encode(event) + b"\n" for event in events])


def _filled(event: RecordedEvent) -> RecordedEvent:
    if event.occurred_us is not None:
        return event
    return msgspec.structs.replace(event, occurred_us=event.recorded_us)
