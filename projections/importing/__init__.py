"""Real histories into the log: XES (IEEE 1849), NDJSON, CSV, each also as gzip; and exports of a log again.

    report = import_file(store, "bpic2012.xes.gz")
    report.read, report.applied, report.rejected, report.known

A case becomes a job, an activity a step, the resource the actor, the time of the event `occurred_at`; see `mapping`.

The whole file is read, checked and copied before the first event is appended, so a file with a mistake at its end
leaves nothing in the log. Event ids come from what the rows say, so a second import adds nothing and one that was
interrupted goes on. Memory does not grow with the file: what must be sorted is sorted in a temporary file, which takes
about 200 bytes per event in the folder that TMPDIR names.

The order of the log: NDJSON and CSV by time; XES case after case in the order of the file. Within a case always by
time, and where times are equal in the order of the file. An export keeps its order.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import tzinfo
from typing import Final, Literal

from eventstore.batch import MAX_JOB_EVENTS
from eventstore.codec import check_job_id
from eventstore.errors import InvalidEvent
from projections.check import check
from projections.importing.appending import PATIENCE, Appends, append_all
from projections.importing.cases import Duplicates, arrange
from projections.importing.entry import Entry
from projections.importing.happenings import Happening, Raw, checked, zone_of
from projections.importing.refusal import ImportInterrupted, ImportRefused, ImportStopped
from projections.importing.report import ImportReport, Phase, Progress
from projections.importing.restore import is_export, read_export
from projections.importing.source import STDIN, Source, open_source
from projections.importing.spool import Spool
from projections.importing.table import Columns, read_csv, read_ndjson
from projections.importing.xes import read_xes

__all__ = [
    "STDIN", "Columns", "Duplicates", "Form", "ImportInterrupted", "ImportRefused", "ImportReport", "ImportStopped",
    "Phase", "Progress", "default_prefix", "import_file", "zone_of",
]  # fmt: skip

Form = Literal["xes", "ndjson", "csv", "export"]
EVERY: Final = 1_000  # rows between two calls of `progress`
MAX_PREFIX: Final = 100  # characters
_ENDINGS: Final = re.compile(r"(\.(gz|xes|xml|ndjson|jsonl|json|csv|tsv|txt))*\Z", re.IGNORECASE)


def default_prefix(path: str) -> str | None:
    """What the ids of a file's jobs begin with unless the caller says it: its name without endings, and a colon.

    None where that says nothing: standard input, and names that are not of ASCII letters and digits.
    """
    name = _ENDINGS.sub("", os.path.basename(path), count=1)
    if not name.isascii():
        return None
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
    return f"{name[: MAX_PREFIX - 1]}:" if name else None


def import_file(
    store: Appends | None,
    path: str,
    *,
    form: Form | None = None,
    prefix: str | None = None,
    columns: Columns | None = None,
    zone: tzinfo | None = None,
    duplicates: Duplicates = "refuse",
    max_job_events: int = MAX_JOB_EVENTS,
    progress: Progress | None = None,
    patience: float = PATIENCE,
) -> ImportReport:
    """Append the events of a file ("-": standard input) to the store's log, all of them.

    Without a store the file is only read and checked. `form` is found out from the content if it is not given. `prefix`
    begins the id of every job (default: `default_prefix`); an export keeps its own ids. `zone` is that of times which
    name none; without it they are refused. `patience`: seconds that the database may be away in between.

    Raises `ImportRefused` with file and line (nothing was appended), `ImportStopped` (retryable or not: the same import
    goes on where it stopped), `ImportInterrupted` for Ctrl-C while it appends, `OSError`.
    """
    began = time.monotonic()
    told = progress or _nobody
    with open_source(path) as source, Spool() as entries:
        head = source.start()
        kind = form or _form_of(source, head)
        report = ImportReport(file=source.name, form=kind, appended=store is not None)
        if kind == "export":
            found = read_export(source, report, check=check, max_job_events=max_job_events)
        else:
            report.prefix = _checked_prefix(default_prefix(path) if prefix is None else prefix, source)
            raw = _raw(kind, source, columns or Columns(), report)
            rows = checked(raw, source, prefix=report.prefix, zone=zone)
            found = _arranged(rows, source, report, told, kind, duplicates, max_job_events)
        for entry in found:
            entries.add(entry)
            if not entries.rows % EVERY:
                _tell(told, kind, source, entries.rows, report)
        if not report.read:
            raise source.refuse("there is no event in the file")
        if store is not None:
            append_all(store, entries, report, told, patience)
    report.seconds = time.monotonic() - began
    return report


def _arranged(
    rows: Iterator[Happening],
    source: Source,
    report: ImportReport,
    told: Progress,
    kind: Form,
    duplicates: Duplicates,
    max_job_events: int,
) -> Iterator[Entry]:
    with Spool() as spool:
        for row in rows:
            spool.add(row)
            if not spool.rows % EVERY:
                told("reading", source.done, source.size)
        report.read = spool.rows
        yield from arrange(
            map(Happening._make, spool),
            source,
            report,
            by_time=kind != "xes",
            duplicates=duplicates,
            max_job_events=max_job_events,
        )


def _tell(told: Progress, kind: Form, source: Source, rows: int, report: ImportReport) -> None:
    if kind == "export":
        told("reading", source.done, source.size)
    else:
        told("arranging", rows, report.events)


def _form_of(source: Source, head: bytes) -> Form:
    first = head.lstrip()
    if source.is_xml:
        return "xes"
    if not first.startswith(b"{"):
        return "csv"
    return "export" if is_export(first) else "ndjson"


def _raw(kind: Form, source: Source, columns: Columns, report: ImportReport) -> Iterator[Raw]:
    match kind:
        case "xes":

            def empty() -> None:
                report.cases_without_events += 1

            return read_xes(source, empty)
        case "ndjson":
            return read_ndjson(source, columns, report.ignored_columns)
        case _:
            return read_csv(source, columns, report.ignored_columns)


def _checked_prefix(prefix: str | None, source: Source) -> str:
    if prefix is None:
        raise source.refuse("say what the ids of its jobs begin with: --prefix NAME:")
    try:
        check_job_id(prefix + "x")
    except InvalidEvent as error:
        raise source.refuse(f"the prefix breaks a rule: {error.rule}") from None
    if len(prefix) > MAX_PREFIX:
        raise source.refuse(f"the prefix is longer than {MAX_PREFIX} characters")
    return prefix


def _nobody(phase: Phase, done: int, total: int | None) -> None:
    del phase, done, total
