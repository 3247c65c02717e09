"""A runner keeps a projection up to date: each event once, in order, read after write, one runner at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from eventstore.checkpoints import Checkpoints
from eventstore.errors import InvalidFilter
from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.applying import LeaseLost
from projections.progress import Progress
from projections.projection import Events, Projection, ProjectionError, ProjectionOutdated
from projections.runner import NotCaughtUp, Runner, Turn, start_runner, wait_for
from tests.support.read_models import JobEvents, append, counted, in_log, rows
from tests.support.sessions import Doing, Watcher, wait_until


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


def test_a_runner_takes_the_whole_log_in_batches_and_each_event_once(store: EventStore) -> None:
    for number in range(5):
        append(store, f"job-{number % 3}", *["x"] * 450)
    projection = JobEvents()
    assert Runner(store, projection).catch_up() == 2_250
    assert projection.batches == [1_000, 1_000, 250]
    assert counted(store) == in_log(store)
    assert Runner(store, projection).catch_up() == 0
    assert counted(store) == in_log(store)


def test_who_appended_reads_its_writes_after_waiting_for_its_position(store: EventStore) -> None:
    with start_runner(Runner(store, JobEvents())) as runner:
        for number in range(1, 30):
            runner.wait_for(append(store, "job", "x"))
            assert counted(store) == {"job": number}


def test_another_process_may_wait_for_a_position_too(store: EventStore, database_url: str) -> None:
    with start_runner(Runner(store, JobEvents())), EventStore(database_url) as elsewhere:
        position = append(store, "job", "x")
        wait_for(elsewhere, JobEvents(), position)
        assert counted(elsewhere) == {"job": 1}


def test_waiting_for_what_nobody_does_says_how_far_it_is(store: EventStore) -> None:
    runner = Runner(store, JobEvents())
    append(store, "job", "x", "x")
    runner.catch_up()
    append(store, "job", "x")
    with pytest.raises(NotCaughtUp, match="at position 2, not at 3") as caught:
        runner.wait_for(3, timeout=0)
    assert (caught.value.position, caught.value.reached) == (3, 2)


def test_appends_of_another_process_are_noticed(store: EventStore, database_url: str) -> None:
    with start_runner(Runner(store, JobEvents())) as runner, EventStore(database_url, projection=Progress()) as other:
        runner.wait_for(append(store, "job", "x"))
        runner.wait_for(append(other, "job", "x"))
        assert counted(store) == {"job": 2}


def test_without_notifications_it_polls(database_url: str) -> None:
    with EventStore(database_url, projection=Progress(), pgbouncer=True) as store:
        store.create_log()
        with start_runner(Runner(store, JobEvents())) as runner:
            with EventStore(database_url, projection=Progress()) as other:
                runner.wait_for(append(other, "job", "x", "x"))
            assert counted(store) == {"job": 2}


def test_lag_is_the_events_not_taken_and_the_age_of_the_oldest(store: EventStore) -> None:
    runner = Runner(store, JobEvents())
    assert (runner.lag().events, runner.lag().seconds) == (0, 0)
    append(store, "job", "x", "x", "x")
    first = runner.lag()
    assert first.events == 3
    assert 0 < first.seconds < 3_600
    assert runner.lag().seconds > first.seconds
    runner.catch_up()
    assert (runner.lag().events, runner.lag().seconds) == (0, 0)


def test_a_projection_may_see_only_what_counted(store: EventStore) -> None:
    class Applied(JobEvents):
        applied_only = True

    for percent in (10, 5, 20):
        store.append("job", [NewEvent(type="job.progressed", data={"percent": percent})])
    assert Runner(store, Applied()).catch_up() == 3
    assert counted(store) == {"job": 2}
    assert rows(store, "SELECT position FROM checkpoints") == [(3,)]


def test_events_of_the_log_itself_are_not_shown(store: EventStore, database_url: str) -> None:
    append(store, "job", "x")
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("UPDATE logs SET timeline = '000000AA'")
    with EventStore(database_url, projection=Progress()) as again:
        append(again, "job", "x")
        assert "headway.log" in in_log(again)
    Runner(store, JobEvents()).catch_up()
    assert counted(store) == {"job": 2}


def test_each_log_has_its_own_checkpoint_in_shared_tables(store: EventStore) -> None:
    other = store.for_log("other")
    other.create_log()
    append(store, "job", "x")
    append(other, "job", "x", "x")
    Runner(store, JobEvents()).catch_up()
    Runner(other, JobEvents()).catch_up()
    assert (counted(store), counted(other)) == ({"job": 1}, {"job": 2})


def test_a_second_runner_waits_and_takes_over_when_the_first_ends(store: EventStore) -> None:
    first, second = Runner(store, JobEvents()), Runner(store, JobEvents())
    append(store, "job", "x")
    assert first.turn() is Turn.MORE
    assert second.turn() is Turn.FOLLOWING
    first.close()
    append(store, "job", "x")
    assert second.turn() is Turn.MORE
    assert counted(store) == {"job": 2}
    second.close()


def test_a_runner_that_slept_through_its_lease_can_not_commit(store: EventStore, database_url: str) -> None:
    stale, second = Runner(store, JobEvents()), Runner(store, JobEvents())
    append(store, "job", "x")
    assert stale.turn() is Turn.MORE
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("UPDATE checkpoints SET lease_deadline = clock_timestamp() - interval '1 s'")
    append(store, "job", "x")
    assert second.turn() is Turn.MORE
    append(store, "job", "x")
    with pytest.raises(LeaseLost):
        stale._batch()
    assert stale.turn() is Turn.FOLLOWING
    assert counted(store) == {"job": 2}
    for runner in (second, stale):
        runner.close()


def test_two_runners_of_one_name_never_work_at_once(store: EventStore, database_url: str) -> None:
    """The first is inside its handler when the second, which believes that it leads, begins: it waits for the row."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow(JobEvents):
        def handle(self, conn: sa.Connection, events: Events) -> None:
            inside.set()
            assert go_on.wait(15)
            super().handle(conn, events)

    append(store, "job", "x")
    first, second = Runner(store, Slow()), Runner(store, JobEvents())
    second._owner = first._owner
    working = Doing(first.turn)
    assert inside.wait(15)
    watcher = Watcher(database_url)
    behind = Doing(second.turn)
    watcher.until_waiting(1)
    assert counted(store) == {}
    go_on.set()
    assert working.result() is Turn.MORE
    assert behind.result() in (Turn.IDLE, Turn.MORE)
    assert counted(store) == {"job": 1}
    watcher.close()
    for runner in (first, second):
        runner.close()


def test_an_older_program_is_refused_once_a_newer_version_is_live(store: EventStore) -> None:
    class Second(JobEvents):
        version = 2

    append(store, "job", "x", "x")
    Runner(store, JobEvents()).catch_up()
    Runner(store, Second()).catch_up()
    with pytest.raises(ProjectionOutdated, match="version 2 is live, this program has version 1"):
        Runner(store, JobEvents()).catch_up()
    assert counted(store) == {"job": 2}


def test_a_new_version_starts_from_the_beginning_in_new_tables(store: EventStore) -> None:
    class Second(JobEvents):
        version = 2
        tables = ("CREATE TABLE job_events (log_id smallint, job_id text, events int, last int, extra int DEFAULT 7,"
                  " PRIMARY KEY (log_id, job_id))",)  # fmt: skip

    other = store.for_log("other")
    other.create_log()
    append(store, "job", "x", "x")
    append(other, "job", "x")
    Runner(store, JobEvents()).catch_up()
    Runner(store, Second()).catch_up()
    assert (counted(store), counted(other)) == ({"job": 2}, {"job": 1})
    assert rows(store, "SELECT DISTINCT extra FROM job_events") == [(7,)]
    assert counted(store, "headway_old_job_events") == {"job": 2}
    assert {name for (name,) in rows(store, "SELECT name FROM checkpoints")} == {
        "projection:job_events:v1:old",
        "projection:job_events:v2",
    }


def test_a_table_that_is_somebody_elses_is_not_touched(store: EventStore, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE job_events (mine int)")
    with pytest.raises(ProjectionError, match="a table job_events in the schema public already"):
        Runner(store, JobEvents()).catch_up()
    assert rows(store, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'headway%%'") == [(0,)]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", "Steps", "Odd.name: a-z"),
        ("name", "s" * 41, "Odd.name: a-z"),
        ("name", "progress", "not `progress`"),
        ("version", 0, "Odd.version: a whole number"),
        ("tables", "CREATE TABLE t ()", "Odd.tables: a tuple"),
        ("tables", (), "Odd.tables: a tuple"),
    ],
    ids=str,
)
def test_a_projection_that_breaks_the_rules_is_refused(store: EventStore, field: str, value: object, said: str) -> None:
    Odd = type("Odd", (JobEvents,), {field: value})
    with pytest.raises(ProjectionError, match=said):
        Runner(store, Odd())


@pytest.mark.parametrize(
    "tables",
    [
        ("CREATE TABLE public.elsewhere (n int)",),
        ("CREATE TABLE t (n int)", "CREATE TYPE mood AS ENUM ('good')"),
        ("CREATE TABLE t (n inz)",),
    ],
    ids=["with a schema", "more than tables", "wrong SQL"],
)
def test_statements_that_make_something_else_are_refused(store: EventStore, tables: tuple[str, ...]) -> None:
    class Odd(JobEvents):
        pass

    Odd.tables = tables
    with pytest.raises(ProjectionError, match="its statements"):
        Runner(store, Odd()).catch_up()
    assert rows(store, "SELECT to_regclass('t')::text, to_regclass('elsewhere')::text") == [(None, None)]


def test_a_handler_that_ends_the_transaction_is_told_off(store: EventStore) -> None:
    class Commits(JobEvents):
        def handle(self, conn: sa.Connection, events: Events) -> None:
            super().handle(conn, events)
            conn.execute(sa.text("COMMIT"))

    append(store, "job", "x")
    with pytest.raises(ProjectionError, match="leave commit and rollback to the runner"):
        Runner(store, Commits()).catch_up()


def test_a_handler_sees_the_log_and_a_connection_in_read_committed(store: EventStore) -> None:
    seen: list[tuple[object, ...]] = []

    class Looks(Projection):
        name = "looks"
        tables = ("CREATE TABLE looks (n int)",)

        def handle(self, conn: sa.Connection, events: Events) -> None:
            seen.append((events.log, events.log_id, conn.execute(sa.text("SHOW transaction_isolation")).scalar()))
            conn.execute(sa.text("INSERT INTO looks VALUES (:n)"), {"n": len(events)})

    append(store, "job", "x")
    Runner(store, Looks()).catch_up()
    assert seen == [("default", store.log_id(), "read committed")]
    assert rows(store, "SELECT n FROM public.looks") == [(1,)]


def test_an_outage_is_waited_out_with_one_line_at_loss_and_return(
    store: EventStore, database_url: str, servers: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "headway.projections")
    name = sql.Identifier(conninfo_to_dict(database_url)["dbname"])
    watcher = Watcher(database_url)

    def said() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name == "headway.projections"]

    with start_runner(Runner(store, JobEvents())) as runner, psycopg.connect(servers[0], autocommit=True) as admin:
        runner.wait_for(append(store, "job", "x"))
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        watcher.kill_writers()
        wait_until(said, "the loss is told")
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
        wait_until(lambda: len(said()) >= 2, "the return is told")
        runner.wait_for(append(store, "job", "x"))
    watcher.close()
    assert counted(store) == {"job": 2}
    assert [("can't go on" in line, "goes on after" in line) for line in said()] == [(True, False), (False, True)]
    assert rows(store, "SELECT count(*) FROM parked") == [(0,)]


def test_the_lease_is_given_back_at_the_end(store: EventStore) -> None:
    with start_runner(Runner(store, JobEvents())) as runner:
        runner.wait_for(append(store, "job", "x"))
    assert rows(store, "SELECT lease_owner FROM checkpoints") == [(None,)]


def test_the_checkpoint_of_a_projection_is_listed_but_not_moved_by_hand(store: EventStore) -> None:
    Runner(store, JobEvents()).catch_up()
    checkpoints = Checkpoints(store)
    assert [consumer.name for consumer in checkpoints.list()] == ["projection:job_events:v1"]
    for move in (lambda name: checkpoints.reset(name, 0), checkpoints.delete):
        with pytest.raises(InvalidFilter, match="those go with tables"):
            move("projection:job_events:v1")
