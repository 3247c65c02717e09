"""Rebuilding an asynchronous projection: beside the live tables, resumable, moved in their place, with a way back."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from eventstore.store import EventStore
from projections.parked import list_parked, retry
from projections.progress import Progress
from projections.projection import Events
from projections.rebuild import RebuildDiffers, RebuildError, RebuildRunning, Step
from projections.rebuild_projection import discard_rebuild, rebuild_projection, roll_back_projection
from projections.runner import Runner, start_runner
from tests.support.read_models import JobEvents, append, counted, in_log, rows


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


def fill(store: EventStore, events: int = 3_000) -> None:
    for number in range(events // 500):
        append(store, f"job-{number % 4}", *["x"] * 500)


def spoil(store: EventStore) -> None:
    with store.database.session() as conn:
        conn.execute("UPDATE job_events SET events = events + 1 WHERE job_id = 'job-1'")


def test_a_rebuild_repairs_what_was_spoilt_and_keeps_the_old_tables(store: EventStore) -> None:
    fill(store)
    Runner(store, JobEvents()).catch_up()
    spoil(store)
    done = rebuild_projection(store, JobEvents())
    assert done.events == 3_000
    assert counted(store) == in_log(store)
    assert counted(store, "headway_old_job_events")["job-1"] == in_log(store)["job-1"] + 1


def test_the_runner_goes_on_after_a_rebuild_without_a_gap_or_a_repetition(store: EventStore) -> None:
    fill(store)
    with start_runner(Runner(store, JobEvents())) as runner:
        runner.wait_for(store.head().position)
        for _ in range(3):
            append(store, "job-0", "x")
            rebuild_projection(store, JobEvents())
            runner.wait_for(append(store, "job-0", "x"))
            assert counted(store) == in_log(store)


def test_a_rebuild_takes_all_logs(store: EventStore) -> None:
    other = store.for_log("other")
    other.create_log()
    fill(store, 1_000)
    append(other, "job", "x")
    Runner(store, JobEvents()).catch_up()
    rebuild_projection(store, JobEvents())
    assert (counted(store), counted(other)) == (in_log(store), {"job": 1})
    append(other, "job", "x")
    Runner(other, JobEvents()).catch_up()
    assert counted(other) == {"job": 2}


def test_rolling_back_brings_the_old_tables_caught_up(store: EventStore) -> None:
    fill(store, 1_000)
    Runner(store, JobEvents()).catch_up()
    spoil(store)
    rebuild_projection(store, JobEvents())
    append(store, "job-1", "x", "x")
    Runner(store, JobEvents()).catch_up()
    roll_back_projection(store, JobEvents())
    assert counted(store)["job-1"] == in_log(store)["job-1"] + 1
    assert counted(store, "headway_old_job_events") == in_log(store)
    append(store, "job-1", "x")
    Runner(store, JobEvents()).catch_up()
    assert counted(store)["job-1"] == in_log(store)["job-1"] + 1
    roll_back_projection(store, JobEvents())
    assert counted(store) == in_log(store)


def test_without_a_rebuild_there_is_nothing_to_roll_back_to(store: EventStore) -> None:
    with pytest.raises(RebuildError, match="no tables to roll back to"):
        roll_back_projection(store, JobEvents())


def test_verify_stops_at_rows_that_differ_and_changes_nothing(store: EventStore) -> None:
    fill(store, 1_000)
    Runner(store, JobEvents()).catch_up()
    rebuild_projection(store, JobEvents(), verify=True)
    spoil(store)
    with pytest.raises(RebuildDiffers) as caught:
        rebuild_projection(store, JobEvents(), verify=True)
    assert [(d.live, d.rebuilt) for d in caught.value.differences] == [
        ("(1,job-1,501,1000)", None),
        (None, "(1,job-1,500,1000)"),
    ]
    assert counted(store)["job-1"] == 501


class Interrupted(JobEvents):
    def handle(self, conn: sa.Connection, events: Events) -> None:
        if not self.cured and len(self.batches) == 2:
            raise KeyboardInterrupt
        super().handle(conn, events)


def test_an_interrupted_rebuild_goes_on_where_it_was(store: EventStore) -> None:
    fill(store)
    Runner(store, JobEvents()).catch_up()
    with pytest.raises(KeyboardInterrupt):
        rebuild_projection(store, Interrupted())
    assert counted(store) == in_log(store)
    projection = Interrupted()
    projection.cured = True
    steps: list[Step] = []
    done = rebuild_projection(store, projection, progress=steps.append)
    assert (done.events, done.resumed) == (3_000, 2_000)
    assert projection.batches == [1_000]
    assert (steps[0].done, steps[0].total) == (2_000, 3_000)
    assert counted(store) == in_log(store)


def test_other_code_does_not_go_on_with_what_was_left(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 1_000)
    rebuild_projection(store, JobEvents(), cut=False)
    monkeypatch.setattr("projections.rebuild_projection._source", lambda _: "changed since")
    assert rebuild_projection(store, JobEvents()).resumed == 0
    assert counted(store) == in_log(store)


def test_a_rebuild_can_stop_before_the_gate_and_be_thrown_away(store: EventStore) -> None:
    fill(store, 1_000)
    Runner(store, JobEvents()).catch_up()
    rebuild_projection(store, JobEvents(), cut=False)
    assert counted(store, "headway_new_job_events") == in_log(store)
    discard_rebuild(store, JobEvents())
    assert rows(store, "SELECT to_regnamespace('headway_new_job_events')::text") == [(None,)]
    assert rows(store, "SELECT name FROM checkpoints") == [("projection:job_events:v1",)]


def test_two_rebuilds_of_one_projection_do_not_run_at_once(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one begins while the first is between two batches."""
    monkeypatch.setattr("projections.rebuild_projection.PATIENCE", 0.0)
    fill(store)
    refused = 0

    def begin_another(step: Step) -> None:
        nonlocal refused
        if step.phase == "fill":
            with EventStore(store.database.url) as other, pytest.raises(RebuildRunning):
                rebuild_projection(other, JobEvents())
            refused += 1

    rebuild_projection(store, JobEvents(), progress=begin_another)
    assert refused >= 2
    assert counted(store) == in_log(store)


def test_what_is_parked_belongs_to_a_set_of_tables(store: EventStore) -> None:
    append(store, "bad", "x", "poison", "x")
    projection = JobEvents()
    Runner(store, projection).catch_up()
    assert [item.position for item in list_parked(store, everything=True)] == [2, 3]
    projection.cured = True
    rebuild_projection(store, projection)
    assert list_parked(store, everything=True) == []
    assert counted(store) == {"bad": 3}
    roll_back_projection(store, projection)
    assert counted(store) == {"bad": 1}
    assert retry(store, projection).taken == 2
    assert counted(store) == {"bad": 3}


def test_a_handler_that_fails_in_a_rebuild_parks_in_the_new_tables(store: EventStore) -> None:
    append(store, "bad", "x", "poison", "x")
    fill(store, 2_000)
    rebuild_projection(store, JobEvents())
    assert counted(store) == in_log(store) | {"bad": 1}
    assert [item.position for item in list_parked(store, everything=True)] == [2, 3]


def test_rights_that_were_granted_on_the_live_tables_are_there_after_a_rebuild(
    store: EventStore, database_url: str
) -> None:
    append(store, "job", "x")
    Runner(store, JobEvents()).catch_up()
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("GRANT SELECT ON job_events TO PUBLIC")
        conn.execute("GRANT SELECT, UPDATE ON job_events TO pg_monitor WITH GRANT OPTION")
        before = conn.execute("SELECT relacl::text FROM pg_class WHERE oid = 'job_events'::regclass").fetchone()
        rebuild_projection(store, JobEvents())
        after = conn.execute("SELECT relacl::text FROM pg_class WHERE oid = 'job_events'::regclass").fetchone()
    assert before is not None
    assert after is not None
    assert sorted(before[0].strip("{}").split(",")) == sorted(after[0].strip("{}").split(","))


def test_the_tables_look_the_same_after_a_rebuild(store: EventStore) -> None:
    class Rich(JobEvents):
        tables = (
            *JobEvents.tables,
            "CREATE TABLE seen (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial)",
            "CREATE VIEW totals AS SELECT log_id, sum(events) AS events FROM job_events GROUP BY log_id",
        )

    query = (
        "SELECT c.relkind::text, c.relname::text, coalesce(pg_get_indexdef(c.oid), '') FROM pg_class c"
        " WHERE relnamespace = 'public'::regnamespace AND relname ~ 'job_events|seen|totals' ORDER BY 1, 2"
    )
    append(store, "job", "x")
    Runner(store, Rich()).catch_up()
    before = rows(store, query)
    rebuild_projection(store, Rich())
    rebuild_projection(store, Rich())
    assert rows(store, query) == before
    assert rows(store, "SELECT events FROM totals") == [(1,)]
