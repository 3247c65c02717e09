"""Each question of the audit goes along its index, on a million events, as the role that asks: no owner, no superuser,
with row-level security on the table, under the plan that the pool uses and under the one that a PgBouncer leads to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from eventstore.connections import OPTIONS
from eventstore.store import EventStore
from projections.as_of import POSITION_AT
from projections.audit import Order, audit_filter, find
from projections.audit_filter import AuditFilter, Clock
from projections.audit_query import (
    CONDITIONS,
    CROSSED,
    LIVES,
    NAMED,
    POSITION_OF,
    VERSION_AT,
    Lane,
    Shape,
    lane_of,
    nth_query,
    page_query,
    parameters,
)
from projections.audit_search import LARGEST, PIECE
from tests.support.million import BEGAN, EVENTS, JOBS, fill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROLE = "headway_test_auditor"
MIDDLE = EVENTS // 2
LISTS = ("types", "steps", "actors", "reasons")


@pytest.fixture(scope="module")
def million(shared_database: str) -> Iterator[str]:
    """A database whose second log has a million events, and the address by which an auditor connects to it."""
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute("INSERT INTO logs (name, fold_version, system_id, timeline) VALUES ('other', 1, 's', 't')")
        log_id = fill(conn, "default")
        conn.execute(f"DROP ROLE IF EXISTS {ROLE}")
        conn.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'audit' NOSUPERUSER NOBYPASSRLS IN ROLE headway_reader")
        conn.execute(f"ALTER ROLE {ROLE} SET headway.log_id = '{log_id}'")
        yield make_conninfo(shared_database, user=ROLE, password="audit")
        conn.execute(f"DROP OWNED BY {ROLE}")
        conn.execute(f"DROP ROLE {ROLE}")


@pytest.fixture(scope="module", params=["generic", "custom"])
def conn(million: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """The auditor's session: with one plan for all values, and with plans made for the values."""
    options = OPTIONS if request.param == "generic" else "-c plan_cache_mode=force_custom_plan"
    with psycopg.connect(million, autocommit=True, prepare_threshold=None, options=options) as auditor:
        yield auditor


def explain(conn: psycopg.Connection[Any], query: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the plan of a prepared statement, as it ran; generic or custom as the session wants it."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    conn.execute("DEALLOCATE ALL")
    conn.execute("PREPARE p AS " + re.sub(r"%\((\w+)\)s", number, query))
    places = ", ".join(["%s"] * len(names))
    run = psycopg.ClientCursor(conn).mogrify(
        f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE p({places})", [given[name] for name in names]
    )
    row = conn.execute(run).fetchone()
    assert row is not None
    return list(nodes(row[0][0]["Plan"]))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def looked_at(plan: list[dict[str, Any]], index: str) -> int:
    """How many rows were read; the only scan of events is that of the index, nothing is sorted, nobody helps."""
    kinds = {node["Node Type"] for node in plan}
    assert not kinds & {"Seq Scan", "Sort", "Incremental Sort", "Bitmap Heap Scan", "Gather", "Gather Merge"}, kinds
    scans = [node for node in plan if "Index Name" in node and node["Index Name"].startswith("events")]
    assert {node["Index Name"] for node in scans} == {index}, scans
    return sum(
        int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]) for node in scans
    )


PAGES: dict[str, tuple[AuditFilter, tuple[int, int], int]] = {
    # what is asked, the range (low, high], rows at most
    "everything": (audit_filter(), (MIDDLE, EVENTS), 100),
    "a job": (audit_filter(job="build:77"), (0, EVENTS), 100),
    "a job, deep": (audit_filter(job="build:77"), (60, EVENTS), 100),
    "rejected": (audit_filter(applied=False), (MIDDLE, EVENTS), 100),
    "a time": (
        audit_filter(since=BEGAN + timedelta(seconds=MIDDLE), until=BEGAN + timedelta(seconds=MIDDLE + 90)),
        (MIDDLE - 1_000, MIDDLE + 1_000),
        2_000,
    ),
}
SIFTED: dict[str, AuditFilter] = {
    "a prefix": audit_filter(prefix="nobody"),
    "a type": audit_filter(types="job.failed"),
    "a step": audit_filter(steps="none"),
    "an actor": audit_filter(actors="none"),
    "applied": audit_filter(applied=True, steps="none"),
    "when it happened": audit_filter(clock=Clock.OCCURRED, since=BEGAN + timedelta(days=365)),
    "a text": audit_filter(text="不在这里"),
    "a text with letters": audit_filter(text="Nowhere To Be Found"),
    "all at once": audit_filter(
        prefix="build", types="step.*", steps="step-1", actors="ci", applied=True, text="nowhere",
        since=BEGAN, until=BEGAN + timedelta(days=365),
    ),
}  # fmt: skip


def values(wanted: AuditFilter, low: int, high: int, limit: int = 100) -> dict[str, Any]:
    given = parameters(wanted) | {name: list(getattr(wanted, name) or ()) for name in LISTS}
    return {"log_id": 2, "job": wanted.job, "low": low, "high": high, "limit": limit, **given}


def shape(wanted: AuditFilter, order: Order) -> Shape:
    return Shape(lane_of(wanted), order is Order.NEWEST_FIRST, frozenset(parameters(wanted)))


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("name", PAGES)
def test_what_an_index_serves_reads_no_more_than_a_page(conn: psycopg.Connection[Any], name: str, order: Order) -> None:
    wanted, (low, high), most = PAGES[name]
    plan = explain(conn, page_query(shape(wanted, order)), values(wanted, low, high))
    assert 1 <= looked_at(plan, lane_of(wanted).value) <= most


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("name", SIFTED)
@pytest.mark.parametrize("size", [PIECE, LARGEST])
def test_what_no_index_serves_reads_its_piece_in_the_order_of_the_log(
    conn: psycopg.Connection[Any], name: str, order: Order, size: int
) -> None:
    wanted = SIFTED[name]
    plan = explain(conn, page_query(shape(wanted, order)), values(wanted, MIDDLE, MIDDLE + size))
    assert looked_at(plan, "events_pkey") <= size


@pytest.mark.parametrize("lane", [Lane.JOB, Lane.REJECTED])
@pytest.mark.parametrize("name", sorted(CONDITIONS.keys() - {"applied"}))
def test_a_job_and_the_rejected_keep_their_index_with_each_further_filter(
    conn: psycopg.Connection[Any], name: str, lane: Lane
) -> None:
    given = {
        "recorded_since": BEGAN, "recorded_until": BEGAN, "occurred_since": BEGAN, "occurred_until": BEGAN,
        "types": ["x"], "steps": ["x"], "actors": ["x"], "reasons": ["x"], "prefix": "x", "text": "x", "pattern": "[x]",
    }  # fmt: skip
    names = frozenset({name}) | ({"rejected"} if lane is Lane.REJECTED else set())
    low, high = (10, 60) if lane is Lane.JOB else (MIDDLE, MIDDLE + 1_000)
    bounds = {"log_id": 2, "job": "build:77", "low": low, "high": high, "limit": 100, name: given.get(name)}
    plan = explain(conn, page_query(Shape(lane, False, names)), bounds)
    assert looked_at(plan, lane.value) <= 50


@pytest.mark.parametrize("backwards", [False, True])
def test_a_piece_of_the_rejected_is_measured_along_their_index(conn: psycopg.Connection[Any], backwards: bool) -> None:
    query = nth_query(Shape(Lane.REJECTED, backwards, frozenset({"rejected"})))
    plan = explain(conn, query, {"log_id": 2, "low": MIDDLE, "high": EVENTS, "limit": 999})
    assert looked_at(plan, "events_rejected") == 1_000


def test_the_look_ups_of_times_versions_and_prefixes_go_along_an_index(conn: psycopg.Connection[Any]) -> None:
    by_job = "events_log_id_job_id_version_key"
    moment = BEGAN + timedelta(seconds=MIDDLE)
    probes = {"log_id": 2, "first": 1, "last": EVENTS, "stride": EVENTS // 128, "moment": moment}
    assert looked_at(explain(conn, CROSSED, probes), "events_pkey") <= 129
    halved = explain(conn, POSITION_AT, {"log_id": 2, "moment": moment})
    assert looked_at(halved, "events_pkey") <= 20
    version = {"log_id": 2, "job": "build:77", "position": MIDDLE}
    assert looked_at(explain(conn, VERSION_AT, version), by_job) <= 10
    assert looked_at(explain(conn, POSITION_OF, {"log_id": 2, "job": "build:77", "version": 50}), by_job) == 1
    named = {"log_id": 2, "prefix": "build:77", "most": 100}
    assert looked_at(explain(conn, NAMED, named), by_job) <= 112
    assert looked_at(explain(conn, LIVES, {"log_id": 2, "jobs": ["build:1", "build:2", "x"]}), by_job) <= 4


def test_an_auditor_gets_whole_answers_and_sees_one_log(million: str) -> None:
    with EventStore(million) as store:
        assert len(find(store, audit_filter(job="build:77"), limit=1_000).events) == EVENTS // JOBS
        page = find(store, audit_filter(text="reset BY peer 500000"), after=MIDDLE - 5_000)
        assert [event.position for event in page.events] == [MIDDLE]
        last = BEGAN + timedelta(seconds=EVENTS)
        page = find(store, audit_filter(since=last - timedelta(seconds=9)), order=Order.NEWEST_FIRST)
        assert [event.position for event in page.events] == list(range(EVENTS, EVENTS - 10, -1))
        assert page.complete
        with store.database.session() as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("DELETE FROM events")
