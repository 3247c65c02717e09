"""Runners that are killed or stopped, a server that crashes: each event counts once, and nothing is parked."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore.migrate import migrate
from eventstore.store import EventStore
from projections.progress import Progress
from projections.runner import Runner, start_runner
from tests.support.cluster import Cluster, cluster
from tests.support.read_models import JobEvents, append, counted, in_log, rows
from tests.support.runner_process import running
from tests.support.sessions import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


def fill(store: EventStore, calls: int = 7) -> None:
    for number in range(calls):
        append(store, f"job-{number % 3}", *["x"] * 500)


@pytest.mark.parametrize("point", ["before effect", "after effect", "after checkpoint"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_runner_killed_around_its_effect_counts_each_event_once(store: EventStore, point: str, count: int) -> None:
    fill(store)
    with running("runner", store.database.url, point, count) as process:
        assert process.wait(30) == -signal.SIGKILL
    done = rows(store, "SELECT position FROM checkpoints")[0][0]
    assert done == 1_000 * (count - 1)
    assert sum(counted(store).values()) == done
    Runner(store, JobEvents()).catch_up()
    assert counted(store) == in_log(store)
    assert rows(store, "SELECT count(*) FROM parked") == [(0,)]


def test_another_process_takes_over_from_a_killed_one_without_a_gap_or_a_repetition(store: EventStore) -> None:
    with running("runner", store.database.url, "after effect", 4), running("runner", store.database.url):
        for _ in range(4):
            fill(store, 3)
        Runner(store, JobEvents()).wait_for(store.head().position, timeout=30)
    assert counted(store) == in_log(store)


def test_a_runner_suspended_in_its_transaction_can_not_commit_when_it_wakes(store: EventStore) -> None:
    """It holds the checkpoint until the server ends its session; the next one then works, and the first one follows."""
    fill(store)
    with running("runner", store.database.url, "after effect", 2, signal.SIGSTOP) as suspended:
        wait_until(lambda: _stopped(suspended.pid), "the runner is suspended")
        with store.database.session() as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND state = 'idle in transaction'"
            )
            conn.execute("UPDATE checkpoints SET lease_deadline = clock_timestamp()")
        with start_runner(Runner(store, JobEvents())) as second:
            second.wait_for(store.head().position)
            assert counted(store) == in_log(store)
            suspended.send_signal(signal.SIGCONT)
            second.wait_for(append(store, "job-0", "x"))
            assert counted(store) == in_log(store)


def test_a_rebuild_killed_at_any_moment_goes_on_and_readers_never_see_it(store: EventStore) -> None:
    fill(store)
    Runner(store, JobEvents()).catch_up()
    for point, count in (("after effect", 1), ("after checkpoint", 2), ("after effect", 2)):
        with running("rebuild", store.database.url, point, count) as process:
            assert process.wait(30) == -signal.SIGKILL
        assert counted(store) == in_log(store)
        with store.database.session() as conn:
            conn.execute("UPDATE projection_tables SET lease_deadline = clock_timestamp()")
    with running("rebuild", store.database.url) as process:
        assert process.wait(30) == 0
    assert counted(store) == in_log(store)
    assert counted(store, "headway_old_job_events") == in_log(store)


def test_readers_never_see_an_empty_or_mixed_table_while_rebuilds_and_appends_go_on(store: EventStore) -> None:
    fill(store, 4)
    stop, seen, wrong = threading.Event(), [0], []

    def read() -> None:
        with store.database.session() as conn:
            while not stop.is_set():
                (total,) = conn.execute("SELECT coalesce(sum(events), 0) FROM job_events").fetchone() or (0,)
                if total < seen[0]:
                    wrong.append((seen[0], total))
                seen[0] = total

    with start_runner(Runner(store, JobEvents())) as runner:
        runner.wait_for(store.head().position)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for _ in range(4):
                append(store, "job-0", *["x"] * 50)
                with running("rebuild", store.database.url) as process:
                    while process.poll() is None:
                        append(store, "job-1", "x")
                    assert process.returncode == 0
            runner.wait_for(store.head().position)
        finally:
            stop.set()
            reader.join()
    assert wrong == []
    assert counted(store) == in_log(store)


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    with cluster() as started:
        migrate(started.url)
        yield started


def test_a_server_that_crashes_under_a_runner_is_waited_for_and_each_event_counts_once(own: Cluster) -> None:
    with EventStore(own.url, projection=Progress()) as store:
        store.create_log()
        with start_runner(Runner(store, JobEvents())) as runner:
            for crash in (own.stop_immediately, own.kill):
                fill(store, 4)
                crash()
                own.start()
                fill(store, 2)
                runner.wait_for(store.head().position, timeout=30)
                assert counted(store) == in_log(store)
            assert runner.lag().parked == 0


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
