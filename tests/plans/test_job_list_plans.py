"""A page of jobs goes along one index from where it begins, and looks at a bounded number of jobs; also behind the
wall, under the plan that the pool uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from eventstore.connections import OPTIONS
from projections.job_list import END, PAGE, Order

JOBS = 30_000
MIDDLE = JOBS * 10 // 2
SCAN = 500


@pytest.fixture(scope="module", params=["owner", "reader"])
def conn(shared_database: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """Two logs of 30,000 jobs each."""
    with psycopg.connect(shared_database, autocommit=True, prepare_threshold=None, options=OPTIONS) as conn:
        conn.execute(
            "INSERT INTO logs (log_id, name, fold_version, system_id, timeline, head)"
            " SELECT n, 'log-' || n, 0, 's', 't', %s FROM generate_series(1, 2) n ON CONFLICT DO NOTHING",
            (JOBS * 10,),
        )
        conn.execute(
            "INSERT INTO jobs (log_id, job_id, first_position, position, version, status, percent, plan_version,"
            " steps_named, steps_total, steps_open, steps_done, steps_failed, rejected, created_at, updated_at, title,"
            " kind, state)"
            " SELECT log, 'job:' || n, n * 10, n * 10 + 1, 2, CASE WHEN n %% 100 = 0 THEN 'failed' ELSE 'running' END,"
            " 0, 0, 0, 0, 0, 0, 0, 0, now(), now(), 'Build ' || n, 'build', '[]'"
            " FROM generate_series(1, 2) log, generate_series(1, %s) n ON CONFLICT DO NOTHING",
            (JOBS,),
        )
        conn.execute("VACUUM ANALYZE jobs")
        if request.param == "reader":
            conn.execute("SET ROLE headway_reader")
            conn.execute("SELECT set_config('headway.log_id', '1', false)")
        yield conn


def scan(conn: psycopg.Connection[Any], query: str, **changed: Any) -> dict[str, Any]:
    """The only scan of the plan, as it ran."""
    given: dict[str, Any] = {
        "log_id": 1, "low": 0, "high": JOBS * 10 + 1, "status": None, "kind": None, "prefix": None, "text": None,
        "limit": 51, "scan": SCAN, **changed,
    }  # fmt: skip
    types = {"log_id": "int", "low": "bigint", "high": "bigint", "limit": "int", "scan": "int"}
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    conn.execute("DEALLOCATE ALL")
    body = re.sub(r"%\((\w+)\)s", number, query)
    conn.execute(f"PREPARE p ({', '.join(types.get(name, 'text') for name in names)}) AS {body}")
    places = ", ".join(["%s"] * len(names))
    run = psycopg.ClientCursor(conn).mogrify(
        f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE p({places})", [given[name] for name in names]
    )
    plan = conn.execute(run).fetchone()[0][0]["Plan"]  # type: ignore[index, arg-type]
    found = list(nodes(plan))
    assert not {"Seq Scan", "Bitmap Heap Scan"} & {node["Node Type"] for node in found}
    (only,) = [node for node in found if "Index Name" in node]
    assert only["Index Name"] == "jobs_first_position" and "first_position" in only["Index Cond"]
    return only


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize("order", list(Order))
def test_a_page_reads_no_more_jobs_than_it_shows(conn: psycopg.Connection[Any], order: Order) -> None:
    assert scan(conn, PAGE[order])["Actual Rows"] <= 51
    assert scan(conn, PAGE[order], low=MIDDLE, high=MIDDLE + 10_000)["Actual Rows"] <= 51


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize(
    "wanted",
    [{"status": "cancelled"}, {"kind": "x"}, {"prefix": "no"}, {"text": "[nN][oO]"}],
    ids=lambda w: next(iter(w)),
)
def test_a_filter_that_finds_nothing_looks_at_a_bounded_number_of_jobs(
    conn: psycopg.Connection[Any], order: Order, wanted: dict[str, str]
) -> None:
    assert scan(conn, PAGE[order], **wanted)["Actual Rows"] == SCAN


@pytest.mark.parametrize("order", list(Order))
def test_where_a_page_ended_is_found_along_the_index(conn: psycopg.Connection[Any], order: Order) -> None:
    assert scan(conn, END[order])["Actual Rows"] == SCAN
