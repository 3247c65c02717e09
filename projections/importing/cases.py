"""The rows of a history, case by case, as the events of jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Literal

import msgspec

from eventstore.events import to_datetime
from projections.importing.entry import Entry
from projections.importing.happenings import Happening
from projections.importing.mapping import Activity, event_id_of
from projections.importing.report import ImportReport
from projections.importing.source import Source

Duplicates = Literal["refuse", "skip", "keep"]
"""What to do with a row that stands in the file twice. `skip`: the second is left out. `keep`: both are events, also
where they only differ in the resource."""


def arrange(
    rows: Iterable[Happening],
    source: Source,
    report: ImportReport,
    *,
    by_time: bool,
    duplicates: Duplicates,
    max_job_events: int,
) -> Iterator[Entry]:
    """The events of all jobs; `rows` come ordered by job, then time, then place in the file.

    Their order in the log: by time over all cases (`by_time`), else case after case as the file has them. Either way
    each case's own events are in the order of time, and rows of one time in the order of the file.
    Raises `ImportRefused` for a case with too many events, and for rows that contradict each other.
    """
    for job_id, group in groupby(rows, key=itemgetter(0)):
        case = list(islice(group, max_job_events + 1))
        if len(case) > max_job_events:
            raise source.refuse(
                f"the case of job {job_id!r} has more than {max_job_events:,} events, the limit of a job;"
                " HEADWAY_MAX_JOB_EVENTS raises it",
                max(case, key=lambda row: row.place).line,
            )
        report.jobs += 1
        yield from _case(case, source, report, by_time=by_time, duplicates=duplicates)


def _case(
    case: list[Happening], source: Source, report: ImportReport, *, by_time: bool, duplicates: Duplicates
) -> Iterator[Entry]:
    activities: defaultdict[str, Activity] = defaultdict(Activity)
    begins = min(row.place for row in case)
    now: int | None = None
    at_once: dict[tuple[str, str], list[Happening]] = {}
    for index, row in enumerate(case):
        job_id, us, place, line, activity, transition, resource = row
        if us != now:
            now, at_once = us, {}
        others = at_once.setdefault((activity, transition), [])
        copies = sum(other.resource == resource for other in others)
        if others and duplicates != "keep":
            if copies and duplicates == "skip":
                report.repeated += 1
                continue
            raise _clash(row, others, copies, source)
        others.append(row)
        kind, attempt, data = activities[activity].meaning(transition)
        yield Entry(
            us if by_time else begins,
            place if by_time else index,
            line,
            job_id,
            kind,
            activity,
            attempt,
            None,
            us,
            event_id_of(job_id, activity, transition, us, resource, copies),
            None if data is None else msgspec.json.encode(data),
            resource,
            None,
            None,
            0,
        )


def _clash(row: Happening, others: list[Happening], copies: int, source: Source) -> Exception:
    what = f"{row.activity!r} {row.transition} at {to_datetime(row.us).isoformat()} in the case of job {row.job_id!r}"
    if copies:
        first = next(other for other in others if other.resource == row.resource)
        return source.refuse(
            f"the same event as in line {first.line}: {what}; --duplicates skip leaves second copies out,"
            " --duplicates keep takes both",
            row.line,
        )
    return source.refuse(
        f"contradicts line {others[0].line}: {what} is said of {others[0].resource!r} there and of {row.resource!r}"
        " here; correct one of them, or take both with --duplicates keep",
        row.line,
    )
