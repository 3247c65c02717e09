"""What happened on each day: reports, how many of them did not count, jobs that began and ended."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import sqlalchemy as sa

from eventstore.events import RecordedEvent
from projections.projection import Events, Projection

DAY: Final = 86_400_000_000  # microseconds
FIRST, LAST = -719_162, 2_932_896  # days from 1970-01-01 to 0001-01-01 and 9999-12-31
WHOLE: Final = 1_000_000  # ppm
COLUMNS: Final = ("events", "rejected", "jobs_begun", "jobs_completed", "jobs_failed", "jobs_cancelled")

_ADD: Final = sa.text("""
INSERT INTO activity_per_day AS a
       (log_id, day, events, rejected, jobs_begun, jobs_completed, jobs_failed, jobs_cancelled)
SELECT :log_id, DATE '1970-01-01' + unnest(CAST(:day AS int[])), unnest(CAST(:events AS int[])),
       unnest(CAST(:rejected AS int[])), unnest(CAST(:jobs_begun AS int[])), unnest(CAST(:jobs_completed AS int[])),
       unnest(CAST(:jobs_failed AS int[])), unnest(CAST(:jobs_cancelled AS int[]))
ON CONFLICT (log_id, day) DO UPDATE
   SET events = a.events + excluded.events, rejected = a.rejected + excluded.rejected,
       jobs_begun = a.jobs_begun + excluded.jobs_begun, jobs_completed = a.jobs_completed + excluded.jobs_completed,
       jobs_failed = a.jobs_failed + excluded.jobs_failed, jobs_cancelled = a.jobs_cancelled + excluded.jobs_cancelled
""")


class Activity(Projection):
    """`activity_per_day`: one row per log and day (UTC), by when it happened: the worker's time, else the log's.

    A job begins with its first report, whatever that is. One that was reopened may end more than once.
    """

    name = "activity"
    version = 1
    tables = (
        """
        CREATE TABLE activity_per_day (
            log_id         smallint NOT NULL,
            day            date NOT NULL,
            events         bigint NOT NULL,
            rejected       bigint NOT NULL,
            jobs_begun     bigint NOT NULL,
            jobs_completed bigint NOT NULL,
            jobs_failed    bigint NOT NULL,
            jobs_cancelled bigint NOT NULL,
            PRIMARY KEY (log_id, day)
        ) WITH (fillfactor = 70)
        """,
    )

    def handle(self, conn: sa.Connection, events: Events) -> None:
        days: defaultdict[int, list[int]] = defaultdict(lambda: [0] * len(COLUMNS))
        for event in events:
            row = days[day_of(event)]
            row[0] += 1
            row[1] += not event.applied
            row[2] += event.version == 1
            if event.applied:
                row[3] += event.ppm == WHOLE
                row[4] += event.type == "job.failed"
                row[5] += event.type == "job.cancelled"
        order = sorted(days)
        columns = {name: [days[day][index] for day in order] for index, name in enumerate(COLUMNS)}
        conn.execute(_ADD, {"log_id": events.log_id, "day": order, **columns})


def day_of(event: RecordedEvent) -> int:
    """Days since 1970-01-01, within the years 1 to 9999."""
    us = event.recorded_us if event.occurred_us is None else event.occurred_us
    return min(max(us // DAY, FIRST), LAST)
