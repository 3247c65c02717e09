"""Each statement that reads the log is served by its index, on 60,000 rows, with the plan that the pool uses: as the
owner of the tables, and behind the second wall, where row-level security adds a condition of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from eventstore import statements, turn, verify
from eventstore.connections import OPTIONS

ROWS = 60_000
JOBS = 60


@pytest.fixture(scope="module")
def filled(shared_database: str) -> Iterator[psycopg.Connection[Any]]:
    """Two logs of 60,000 events of 60 jobs each."""
    with psycopg.connect(shared_database, autocommit=True, prepare_threshold=None, options=OPTIONS) as conn:
        conn.execute(
            "INSERT INTO logs (log_id, name, fold_version, system_id, timeline, head)"
            " SELECT n, 'log-' || n, 0, 's', 't', %s FROM generate_series(1, 2) n",
            (ROWS,),
        )
        conn.execute(
            "INSERT INTO events (log_id, position, job_id, version, event_id, type, step, data, salt, applied,"
            " reason, percent, recorded_at, hash)"
            " SELECT log, n, 'job:' || n %% %s, 1 + n / %s, gen_random_uuid(), 'step.progressed', 's', '{}',"
            " '\\x00000000000000000000000000000000', n %% 10 > 0, CASE WHEN n %% 10 = 0 THEN 'regression' END, 0,"
            " now(), sha256(n::text::bytea) FROM generate_series(1, 2) log, generate_series(1, %s) n",
            (JOBS, JOBS, ROWS),
        )
        conn.execute("VACUUM ANALYZE events, logs")
        yield conn


@pytest.fixture(params=["owner", "headway_reader"])
def conn(request: pytest.FixtureRequest, filled: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """Who asks."""
    if request.param == "owner":
        yield filled
        return
    filled.execute("SET ROLE headway_reader")
    filled.execute("SET headway.log_id = 1")
    yield filled
    filled.execute("RESET ROLE")
    filled.execute("RESET headway.log_id")


def explain(conn: psycopg.Connection[Any], query: str, types: str, params: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The nodes of the generic plan of a prepared statement, as it ran."""
    numbers = iter(range(1, 100))
    conn.execute("DEALLOCATE ALL")
    conn.execute(f"PREPARE p ({types}) AS " + re.sub("%s", lambda _: f"${next(numbers)}", query))
    places = ", ".join(["%s"] * len(params))
    run = psycopg.ClientCursor(conn).mogrify(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE p({places})", params)
    plan = conn.execute(run).fetchone()[0][0]["Plan"]  # type: ignore[index, arg-type]
    return list(nodes(plan))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def served_by(plan: list[dict[str, Any]], index: str, *, rows: int, skipped: int = 0) -> dict[str, Any]:
    """The only scan of events is that of the index; it reads so many rows, and nothing is sorted."""
    kinds = [node["Node Type"] for node in plan]
    assert not {"Seq Scan", "Sort", "Bitmap Heap Scan", "Incremental Sort"} & set(kinds), kinds
    scans = [node for node in plan if node.get("Index Name", "").startswith("events")]
    assert [node["Index Name"] for node in scans] == [index]
    read = scans[0]["Actual Rows"] * scans[0]["Actual Loops"]
    assert read <= rows, scans
    assert scans[0].get("Rows Removed by Filter", 0) <= skipped, scans
    return scans[0]


def test_reading_the_log(conn):
    plan = explain(conn, statements.READ_LOG, "int, bigint, bigint, int", (1, 30_000, 2**62, 100))
    scan = served_by(plan, "events_pkey", rows=100)
    assert "position" in scan["Index Cond"]


def test_replaying_a_page(conn):
    plan = explain(conn, statements.READ_LOG, "int, bigint, bigint, int", (1, 30_000, 31_000, 1_000))
    served_by(plan, "events_pkey", rows=1_000)


def test_reading_a_job(conn):
    plan = explain(conn, statements.READ_JOB, "int, text, int, bigint, int", (1, "job:7", 500, 2**62, 50))
    scan = served_by(plan, "events_log_id_job_id_version_key", rows=50)
    assert "version" in scan["Index Cond"]


def test_reading_a_job_after_a_position(conn):
    query, types = statements.READ_JOB_AFTER_POSITION, "int, text, bigint, bigint, int"
    plan = explain(conn, query, types, (1, "job:7", 30_000, 2**62, 50))
    served_by(plan, "events_log_id_job_id_version_key", rows=50, skipped=ROWS // JOBS)


def test_finding_the_jobs_that_others_touched(conn):
    plan = explain(conn, re.sub(r"%\(\w+\)s", "%s", turn.TOUCHED), "int, bigint, bigint", (1, ROWS - 24, 2_000))
    scan = served_by(plan, "events_pkey", rows=24)
    assert "position" in scan["Index Cond"]


def test_finding_known_ids(conn):
    rows = conn.execute("SELECT event_id FROM events WHERE log_id = 1 ORDER BY event_id LIMIT 100").fetchall()
    plan = explain(conn, statements.FIND_IDS, "int, uuid[]", (1, [row[0] for row in rows]))
    scan = served_by(plan, "events_log_id_event_id_key", rows=100)
    assert "event_id" in scan["Index Cond"]


def test_finding_the_versions_of_jobs(conn):
    plan = explain(conn, statements.JOB_VERSIONS, "int, text[]", (1, [f"job:{n}" for n in range(50)] + ["nobody"]))
    scan = served_by(plan, "events_log_id_job_id_version_key", rows=51)
    assert scan["Scan Direction"] == "Backward"


def test_looking_up_a_hash(conn):
    served_by(explain(conn, statements.HASH_AT, "int, bigint", (1, 30_000)), "events_pkey", rows=1)


def test_finding_the_last_row_to_verify(conn):
    plan = explain(conn, verify.HEAD, "int", (1,))
    assert "Index Only Scan" in [node["Node Type"] for node in plan]
    assert max(node["Actual Rows"] for node in plan) <= 2


def test_reading_a_page_to_verify(conn):
    copied = verify.ROWS.format(log_id=1, after=30_000, upto=31_000).as_string(conn)
    query = copied.removeprefix("COPY (").partition(") TO STDOUT")[0]
    explained = conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query).fetchone()
    plan = list(nodes(explained[0][0]["Plan"]))
    assert "Seq Scan" not in [node["Node Type"] for node in plan if node.get("Relation Name") == "events"]
    scans = [node for node in plan if node.get("Index Name") == "events_pkey"]
    assert [node["Actual Rows"] for node in scans] == [1_000]
    assert "Sort" not in [node["Node Type"] for node in plan]


def test_the_rejected_are_found_by_their_own_index(conn):
    query = "SELECT position FROM events WHERE log_id = %s AND NOT applied AND position > %s ORDER BY position LIMIT %s"
    served_by(explain(conn, query, "int, bigint, int", (1, 30_000, 50)), "events_rejected", rows=50)
