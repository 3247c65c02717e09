"""How long steps and jobs take, and how often steps report: what `eta` and `conditions` know of the past.

Kept as counts in fixed classes (projections/histogram.py), so statistics of logs or days can be added up, and each
quantile is less than 1 % off.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import sqlalchemy as sa

from eventstore.events import to_datetime
from projections.histogram import class_of
from projections.projection import Events, Projection
from projections.shipped.clocks import JobClocks, Measured, decode, encode, tick

_LOAD: Final = sa.text("SELECT job_id, clocks FROM step_clocks WHERE log_id = :log_id AND job_id = ANY(:jobs)")
_SAVE: Final = sa.text("""
INSERT INTO step_clocks AS c (log_id, job_id, clocks)
SELECT :log_id, unnest(CAST(:jobs AS text[])), unnest(CAST(:clocks AS text[]))
ON CONFLICT (log_id, job_id) DO UPDATE SET clocks = excluded.clocks WHERE c.clocks <> excluded.clocks
""")
_DROP: Final = sa.text("DELETE FROM step_clocks WHERE log_id = :log_id AND job_id = ANY(:jobs)")
_COUNT: Final = sa.text("""
INSERT INTO step_durations AS d (log_id, kind, step, measure, class, count)
SELECT :log_id, unnest(CAST(:kind AS text[])), unnest(CAST(:step AS text[])), unnest(CAST(:measure AS text[])),
       unnest(CAST(:class AS smallint[])), unnest(CAST(:count AS bigint[]))
ON CONFLICT (log_id, kind, step, measure, class) DO UPDATE SET count = d.count + excluded.count
""")
_COUNT_LEFT: Final = sa.text("""
INSERT INTO job_remaining AS r (log_id, kind, mark, measure, class, count)
SELECT :log_id, unnest(CAST(:kind AS text[])), unnest(CAST(:mark AS smallint[])), unnest(CAST(:measure AS text[])),
       unnest(CAST(:class AS smallint[])), unnest(CAST(:count AS bigint[]))
ON CONFLICT (log_id, kind, mark, measure, class) DO UPDATE SET count = r.count + excluded.count
""")
_SEEN: Final = sa.text("""
INSERT INTO workers_seen AS w (log_id, worker, last_seen)
SELECT :log_id, unnest(CAST(:worker AS text[])), unnest(CAST(:seen AS timestamptz[]))
ON CONFLICT (log_id, worker) DO UPDATE SET last_seen = greatest(w.last_seen, excluded.last_seen)
""")


class Durations(Projection):
    """`step_duration_statistics` (a view): count, median, p90 and p95 in seconds per log, kind of job and step.

    The step `''` is the whole job. Only attempts that completed count, without the time in which they waited. Each
    value is less than 1 % from the exact one, for durations from 1 ms on. Kept in `step_durations` as counts per class;
    measure `gap` is the time between two reports of a step at work. `workers_seen`: the last report of each worker.
    `job_remaining`: the work that was left when jobs had come so far (`clocks.mark_of`), and its ratio to the work
    done.
    """

    name = "durations"
    version = 1
    applied_only = True
    tables = (
        """
        CREATE TABLE step_durations (
            log_id  smallint NOT NULL,
            kind    text NOT NULL,
            step    text NOT NULL,
            measure text NOT NULL CHECK (measure IN ('duration', 'gap')),
            class   smallint NOT NULL,
            count   bigint NOT NULL,
            PRIMARY KEY (log_id, kind, step, measure, class)
        ) WITH (fillfactor = 70)
        """,
        """
        CREATE TABLE job_remaining (
            log_id  smallint NOT NULL,
            kind    text NOT NULL,
            mark    smallint NOT NULL,
            measure text NOT NULL CHECK (measure IN ('left', 'ratio')),
            class   smallint NOT NULL,
            count   bigint NOT NULL,
            PRIMARY KEY (log_id, kind, mark, measure, class)
        ) WITH (fillfactor = 70)
        """,
        """
        CREATE TABLE step_clocks (
            log_id smallint NOT NULL,
            job_id text NOT NULL,
            clocks text NOT NULL,
            PRIMARY KEY (log_id, job_id)
        ) WITH (fillfactor = 50)
        """,
        """
        CREATE TABLE workers_seen (
            log_id    smallint NOT NULL,
            worker    text NOT NULL,
            last_seen timestamptz NOT NULL,
            PRIMARY KEY (log_id, worker)
        ) WITH (fillfactor = 50)
        """,
        """
        CREATE VIEW step_duration_statistics AS
        SELECT log_id, kind, step, max(total)::bigint AS count,
               min(seconds) FILTER (WHERE upto >= total * 0.5) AS median,
               min(seconds) FILTER (WHERE upto >= total * 0.9) AS p90,
               min(seconds) FILTER (WHERE upto >= total * 0.95) AS p95
          FROM (SELECT log_id, kind, step,
                       CASE WHEN class = 0 THEN 0.001 ELSE 0.001 * power(1.02::float8, class) * 2 / 2.02 END AS seconds,
                       sum(count) OVER (PARTITION BY log_id, kind, step ORDER BY class) AS upto,
                       sum(count) OVER (PARTITION BY log_id, kind, step) AS total
                  FROM step_durations WHERE measure = 'duration') AS classes
         GROUP BY log_id, kind, step
        """,
    )

    def handle(self, conn: sa.Connection, events: Events) -> None:
        log_id = events.log_id
        jobs = sorted({event.job_id for event in events})
        found = conn.execute(_LOAD, {"log_id": log_id, "jobs": jobs}).all()
        clocks = {job_id: decode(text) for job_id, text in found}
        stored, over, measured = set(clocks), set(), Measured()
        for event in events:
            of_job = clocks.setdefault(event.job_id, JobClocks())
            if tick(of_job, event, measured):
                over.add(event.job_id)
        kept = [job_id for job_id in jobs if job_id not in over]
        if kept:
            texts = [encode(clocks[job_id]) for job_id in kept]
            conn.execute(_SAVE, {"log_id": log_id, "jobs": kept, "clocks": texts})
        if stored & over:
            conn.execute(_DROP, {"log_id": log_id, "jobs": sorted(stored & over)})
        self._count(conn, log_id, measured)

    @staticmethod
    def _count(conn: sa.Connection, log_id: int, measured: Measured) -> None:
        for statement, names, counts in (
            (_COUNT, ("kind", "step", "measure", "class", "count"), steps_in_classes(measured)),
            (_COUNT_LEFT, ("kind", "mark", "measure", "class", "count"), left_in_classes(measured)),
        ):
            if counts:
                columns = zip(*((*key, count) for key, count in sorted(counts.items())), strict=True)
                conn.execute(statement, {"log_id": log_id, **dict(zip(names, map(list, columns), strict=True))})
        if measured.workers:
            workers = sorted(measured.workers)
            seen = [to_datetime(measured.workers[name]) for name in workers]
            conn.execute(_SEEN, {"log_id": log_id, "worker": workers, "seen": seen})


def steps_in_classes(measured: Measured) -> Counter[tuple[str, str, str, int]]:
    """Kind, step, measure and class → how many."""
    return Counter(
        (kind, step, measure, class_of(us))
        for measure, times in (("duration", measured.durations), ("gap", measured.gaps))
        for (kind, step), each in times.items()
        for us in each
    )


def left_in_classes(measured: Measured) -> Counter[tuple[str, int, str, int]]:
    """Kind, mark, measure and class → how many. A ratio of 1 is in the class of one second."""
    counts: Counter[tuple[str, int, str, int]] = Counter()
    for (kind, mark), each in measured.left.items():
        for worked, left in each:
            counts[kind, mark, "left", class_of(left)] += 1
            if worked:
                counts[kind, mark, "ratio", class_of(left * 1_000_000 // worked)] += 1
    return counts
