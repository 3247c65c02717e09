"""Entries into the log: a call of 1,000 on its way while the next is made ready, never two."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Protocol

from eventstore.append_call import AppendCall
from eventstore.batch import Known
from eventstore.codec import Prepared
from eventstore.errors import EventStoreError
from eventstore.events import Appended, NewEvent
from projections.importing.entry import Entry
from projections.importing.known import Lookup
from projections.importing.refusal import ImportInterrupted, ImportStopped
from projections.importing.report import ImportReport, Progress

CALL: Final = 1_000  # events
PATIENCE: Final = 60.0  # seconds that a server which went away gets to come back
_PAUSE: Final = 0.2  # seconds before the second try; doubled up to five


class Appends(Protocol):
    """What is needed of a store."""

    def prepare_many(self, events: Sequence[tuple[str, NewEvent]], *, checked: bool = False) -> list[Prepared]: ...

    def submit(self, events: Sequence[Prepared]) -> AppendCall: ...


def append_all(
    store: Appends, entries: Iterable[tuple[Any, ...]], report: ImportReport, progress: Progress, patience: float
) -> None:
    """Append all entries in their order and count into `report` what became of each.

    A call is sent when the one before it is on disk: were both on their way, and the first one lost, the second would
    be written before it, and the events of a job would be out of order for ever.
    Raises `ImportStopped`, or `ImportInterrupted` for Ctrl-C; what was sent then is waited for and counted.
    """
    flight: _Flight | None = None
    lookup = Lookup(store)
    try:
        for batch in _batches(entries):
            following = _Flight(store, batch, lookup, patience)
            if flight is not None:
                flight.land(report)
                progress("appending", report.settled, report.events)
            flight = following
            flight.take_off()
        if flight is not None:
            flight.land(report)
            progress("appending", report.settled, report.events)
    except EventStoreError as error:
        raise ImportStopped(report, error) from error
    except KeyboardInterrupt:
        if flight is not None:
            try:
                flight.land(report, patience=0.0)
            except EventStoreError:
                pass  # it may or may not be written; the next run finds out
        raise ImportInterrupted(report) from None


class _Flight:
    """Up to 1,000 entries on their way, and what is needed to send them again."""

    def __init__(self, store: Appends, entries: list[Entry], lookup: Lookup, patience: float) -> None:
        self._store, self._lookup, self._patience = store, lookup, patience
        self._entries = entries
        self._prepared = store.prepare_many([(entry.job_id, entry.new_event()) for entry in entries], checked=True)
        self._known: dict[bytes, Known] = self._patiently(lambda: lookup.known(self._prepared), patience)
        self._fresh = [event for event in self._prepared if event.event_id not in self._known]
        self._call: AppendCall | None = None
        self._landed = False

    def take_off(self) -> None:
        """Send what the log does not have. What may succeed later is left to `land`."""
        try:
            self._call = self._store.submit(self._fresh) if self._fresh else None
        except EventStoreError as error:
            if not error.retryable:
                raise

    def land(self, report: ImportReport, patience: float | None = None) -> None:
        """Wait for the answer and count it, once. The ids stay the same, so sending again doubles nothing."""
        if self._landed:
            return
        answers = self._patiently(self._answers, self._patience if patience is None else patience)
        self._landed = True
        if any(answer.duplicate for answer in answers):
            self._lookup.found()
        self._count({answer.event_id_bytes: answer for answer in answers}, report)

    def _answers(self) -> list[Appended]:
        call, self._call = self._call, None
        if call is None:
            if not self._fresh:
                return []
            call = self._store.submit(self._fresh)
        return call.wait()

    def _patiently(self, ask: Any, patience: float) -> Any:
        until, pause = time.monotonic() + patience, _PAUSE
        while True:
            try:
                return ask()
            except EventStoreError as error:
                if not error.retryable or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _count(self, answers: dict[bytes, Appended], report: ImportReport) -> None:
        rejected: Counter[str] = Counter()
        for entry in self._entries:
            answer = answers.get(entry.event_id)
            became: Appended | Known = answer or self._known[entry.event_id]
            if answer is None or answer.duplicate:
                report.known += 1
            elif answer.applied:
                report.applied += 1
            else:
                rejected[answer.reason or ""] += 1
            if entry.applied is not None and (entry.applied, entry.reason, entry.ppm) != (
                became.applied,
                became.reason,
                became.ppm,
            ):
                report.changed += 1
                report.changed_line = report.changed_line or entry.line
        for reason, count in rejected.items():
            report.rejected[reason] = report.rejected.get(reason, 0) + count


def _batches(entries: Iterable[tuple[Any, ...]]) -> Iterator[list[Entry]]:
    rows = iter(entries)
    while batch := [Entry(*row) for row in islice(rows, CALL)]:
        yield batch
