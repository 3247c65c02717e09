"""A rebuild swaps the tables under readers and appenders: scripted moments of the gate."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import psycopg
import pytest

from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections import rebuild as rebuilding
from projections.progress import Progress
from projections.rebuild import rebuild
from projections.snapshots import JobSnapshot, read_snapshot
from tests.support.sessions import wait_until
from tests.support.step_table import fill, rows


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


def waiting_for_a_lock(url: str, like: str) -> bool:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query ~ %s",
            (like,),
        ).fetchone()
    return row is not None and row[0] > 0


def test_a_reader_that_waits_at_the_gate_sees_the_new_tables_whole(
    store: EventStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reader: BEGIN, snapshot, waits for the tables. Gate: folds the tail, renames, commits. Had the reader's snapshot
    been taken before the gate's commit, it would see the new tables without their last rows."""
    fill(store, random.Random(1), jobs=3, events=300)
    store.append("tail", [NewEvent(type="job.progressed", data={"percent": 1})])
    seen: list[JobSnapshot | None] = []
    reader = threading.Thread(target=lambda: seen.append(read_snapshot(store, "tail")))
    swapping = rebuilding.swap

    def before_the_gate(step: rebuilding.Step) -> None:
        if step.phase == "gate" and step.done == 0 and store.head().position == 301:
            store.append("tail", [NewEvent(type="job.progressed", data={"percent": 42})])

    def swap(conn, tables) -> None:  # type: ignore[no-untyped-def]
        reader.start()
        wait_until(lambda: waiting_for_a_lock(database_url, "jobs|INSERT INTO events"), "the reader waits at the gate")
        swapping(conn, tables)

    monkeypatch.setattr(rebuilding, "swap", swap)
    rebuild(store, processes=1, progress=before_the_gate)
    reader.join()
    assert seen[0] is not None
    assert (seen[0].percent, seen[0].version) == (42, 2)
    assert seen[0].cursor.startswith("0001_0000000000000302")


def test_an_append_that_waits_at_the_gate_lands_in_the_new_tables(
    store: EventStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, random.Random(2), jobs=3, events=300)
    late = threading.Thread(target=lambda: store.append("late", [NewEvent(type="job.progressed", data={"percent": 7})]))
    swapping = rebuilding.swap

    def swap(conn, tables) -> None:  # type: ignore[no-untyped-def]
        late.start()
        wait_until(lambda: waiting_for_a_lock(database_url, "jobs|INSERT INTO events"), "the append waits at the gate")
        swapping(conn, tables)

    monkeypatch.setattr(rebuilding, "swap", swap)
    rebuild(store, processes=1)
    late.join()
    snapshot = read_snapshot(store, "late")
    assert snapshot is not None
    assert snapshot.percent == 7
    monkeypatch.setattr(rebuilding, "swap", swapping)
    before = rows(database_url)
    rebuild(store, processes=1, verify=True)
    assert rows(database_url) == before


def test_an_append_on_the_slow_path_holds_the_logs_row_and_does_not_deadlock_with_the_gate(
    store: EventStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appender: locks the log's row, then waits for the tables. Gate: has the tables, and must not want the row."""
    fill(store, random.Random(3), jobs=3, events=300)
    store.committer()._writer.calm = 0  # somebody else appended: the next batches take the slow path
    late = threading.Thread(
        target=lambda: store.append("job-1", [NewEvent(type="job.noted", data={"level": "info", "message": "x"})])
    )
    swapping = rebuilding.swap

    def swap(conn, tables) -> None:  # type: ignore[no-untyped-def]
        late.start()
        wait_until(lambda: waiting_for_a_lock(database_url, "jobs|INSERT INTO events"), "the append waits at the gate")
        swapping(conn, tables)

    monkeypatch.setattr(rebuilding, "swap", swap)
    with psycopg.connect(database_url, autocommit=True) as conn:
        before = conn.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
        rebuild(store, processes=1)
        late.join()
        assert (
            conn.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
            == before
        )
    assert store.head().position == 301


def test_a_gate_that_is_busy_lets_appends_through_and_is_tried_again(store: EventStore, database_url: str) -> None:
    fill(store, random.Random(4), jobs=3, events=300)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM jobs")
        tries: list[int] = []

        def gate(step: rebuilding.Step) -> None:
            if step.phase == "gate" and step.done == 0:
                tries.append(len(store.append("job-1", [NewEvent(type="job.started")])))
                if len(tries) == 3:
                    reader.rollback()

        rebuild(store, processes=1, progress=gate)
    assert len(tries) >= 3
    before = rows(database_url)
    rebuild(store, processes=1, verify=True)
    assert rows(database_url) == before
