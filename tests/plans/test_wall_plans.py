"""Behind the second wall the step table is read by its keys, under the plan that the pool uses, in 20,000 jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from eventstore.connections import OPTIONS
from projections import job_status, snapshots, usual

JOBS, STEPS = 10_000, 5
SOME = [f"job:{n}" for n in range(0, 400, 100)]
STATEMENTS: dict[str, tuple[str, str, tuple[Any, ...], str, int]] = {
    "jobs": (snapshots._JOBS, "int, text[]", (1, SOME), "jobs_pkey", 4),
    "steps": (snapshots._STEPS, "int, text[]", (1, SOME), "steps_pkey", 20),
    "attempts": (snapshots._ATTEMPTS, "int, text[]", (1, SOME), "attempts_pkey", 20),
    "status": (job_status._STATUSES, "text[], int", (SOME, 1), "jobs_pkey", 4),
    "durations": (usual._COUNTS, "int, text", (1, "kind-7"), "step_durations_pkey", 10),
    "clocks": (usual._CLOCKS, "int, text", (1, "job:7"), "step_clocks_pkey", 1),
}


@pytest.fixture(scope="module")
def reader(shared_database: str) -> Iterator[psycopg.Connection[Any]]:
    """Two logs with 10,000 jobs of 5 steps each; a connection that may see the first one."""
    with psycopg.connect(shared_database, autocommit=True, prepare_threshold=None, options=OPTIONS) as conn:
        conn.execute(
            "INSERT INTO logs (log_id, name, fold_version, system_id, timeline)"
            " SELECT n, 'log-' || n, 0, 's', 't' FROM generate_series(1, 2) n"
        )
        conn.execute(
            "INSERT INTO jobs (log_id, job_id, first_position, position, version, status, percent, plan_version,"
            " steps_named, steps_total, steps_open, steps_done, steps_failed, rejected, created_at, updated_at, state)"
            " SELECT log, 'job:' || n, n, n, 1, 'running', 0, 1, %s, 0, 0, 0, 0, 0, now(), now(), '[]'"
            " FROM generate_series(1, 2) log, generate_series(0, %s - 1) n",
            (STEPS, JOBS),
        )
        conn.execute(
            "INSERT INTO steps (log_id, job_id, step, ordinal, weight, status, percent, attempt, rejected)"
            " SELECT log, 'job:' || n, 'step-' || s, s, 1000000, 'pending', 0, 1, 0"
            " FROM generate_series(1, 2) log, generate_series(0, %s - 1) n, generate_series(1, %s) s",
            (JOBS, STEPS),
        )
        conn.execute(
            "INSERT INTO attempts (log_id, job_id, step, attempt, status, percent, started_at)"
            " SELECT log_id, job_id, step, 1, 'running', 0, now() FROM steps"
        )
        conn.execute(
            "INSERT INTO step_durations SELECT log, 'kind-' || k, 's', 'duration', c, 1"
            " FROM generate_series(1, 2) log, generate_series(1, 500) k, generate_series(1, 10) c"
        )
        conn.execute("INSERT INTO step_clocks SELECT log_id, job_id, '' FROM jobs")
        conn.execute("VACUUM ANALYZE")
        conn.execute("SET ROLE headway_reader")
        conn.execute("SET headway.log_id = 1")
        yield conn


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_a_key_serves_the_read_and_its_condition_holds_the_log(reader: psycopg.Connection[Any], name: str) -> None:
    query, types, params, index, rows = STATEMENTS[name]
    numbers = iter(range(1, 100))
    reader.execute("DEALLOCATE ALL")
    reader.execute(f"PREPARE p ({types}) AS " + re.sub("%s", lambda _: f"${next(numbers)}", query))  # type: ignore[arg-type]
    places = ", ".join(["%s"] * len(params))
    run = psycopg.ClientCursor(reader).mogrify(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE p({places})", params)
    (explained,) = reader.execute(run).fetchone() or ()  # type: ignore[arg-type]
    plan = list(nodes(explained[0]["Plan"]))
    used = [node for node in plan if node.get("Index Name") == index]
    assert used, plan
    assert all("log_id" in node["Index Cond"] for node in used)
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in used) <= rows
    big = {"jobs", "steps", "attempts", "step_durations", "step_clocks"}
    assert not [node for node in plan if node["Node Type"] == "Seq Scan" and node["Relation Name"] in big]
