"""Loading the states of jobs looks their steps up by key, even under a plan made while the tables were empty."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg

from eventstore.connections import OPTIONS
from projections.progress import _LOAD

JOBS, STEPS = 2_000, 10


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def test_a_plan_from_before_the_first_step_reads_no_more_than_the_steps_of_its_jobs(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True, prepare_threshold=None, options=OPTIONS) as conn:
        conn.execute("ALTER TABLE jobs SET (autovacuum_enabled = off)")
        conn.execute("ALTER TABLE steps SET (autovacuum_enabled = off)")
        names: list[str] = []

        def number(found: re.Match[str]) -> str:
            if found[1] not in names:
                names.append(found[1])
            return f"${names.index(found[1]) + 1}"

        conn.execute("PREPARE load AS " + re.sub(r"%\((\w+)\)s", number, _LOAD))  # type: ignore[operator, arg-type]
        wanted: dict[str, Any] = {
            "small": 256, "whole": [], "log_id": 1, "jobs": [f"job:{n}" for n in range(0, JOBS, 20)],
            "named_jobs": ["job:1"], "named_steps": ["step-1"],
        }  # fmt: skip
        execute = f"EXECUTE load({', '.join(['%s'] * len(names))})"
        run = psycopg.ClientCursor(conn).mogrify(execute, [wanted[name] for name in names])
        assert conn.execute(run).fetchall() == []
        conn.execute(
            "INSERT INTO jobs (log_id, job_id, first_position, position, version, status, percent, plan_version,"
            " steps_named, steps_total, steps_open, steps_done, steps_failed, rejected, created_at, updated_at, state)"
            " SELECT 1, 'job:' || n, n, n, 1, 'running', 0, 1, %s, 0, 0, 0, 0, 0, now(), now(), '[]'"
            " FROM generate_series(0, %s - 1) n",
            (STEPS, JOBS),
        )
        conn.execute(
            "INSERT INTO steps (log_id, job_id, step, ordinal, weight, status, percent, attempt, rejected)"
            " SELECT 1, 'job:' || n, 'step-' || s, s, 1000000, 'running', 0, 0, 0"
            " FROM generate_series(0, %s - 1) n, generate_series(1, %s) s",
            (JOBS, STEPS),
        )
        explained = conn.execute("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + run).fetchone()  # type: ignore[operator]
        assert explained is not None
        scans = [node for node in nodes(explained[0][0]["Plan"]) if node.get("Relation Name") == "steps"]
        read = [
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0))
            * node["Actual Loops"]
            for node in scans
        ]
        assert sum(read) == JOBS / 20 * STEPS, scans
