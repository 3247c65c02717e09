"""A worker's reports in a real log: complete, in order, once, and never in the job's way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg.sql
import pytest

import headway
from eventstore.events import RecordedEvent
from eventstore.store import EventStore
from projections.progress import Progress
from projections.snapshots import JobSnapshot, read_snapshot
from tests.conftest import with_database

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log("default")
        yield store


@pytest.fixture
def reporter(database_url: str, store: EventStore) -> Iterator[headway.Reporter]:
    yield headway.connect(database_url)
    headway.close(10)


def snapshot(store: EventStore, job_id: str) -> JobSnapshot:
    assert headway.flush(10)
    found = read_snapshot(store, job_id)
    assert found is not None
    return found


def history(store: EventStore, job_id: str) -> list[RecordedEvent]:
    assert headway.flush(10)
    return store.read_job(job_id)


def run_worker(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A worker of its own, which does not wait for anything at its end."""
    return subprocess.run(
        [sys.executable, "-c", "import sys, os, headway\n" + code, *arguments],
        capture_output=True, text=True, check=False, timeout=60, cwd=ROOT,
    )  # fmt: skip


def test_plan_steps_attempts_and_percentages_arrive_as_they_were_reported(
    store: EventStore, reporter: headway.Reporter
) -> None:
    plan = [headway.step_def("取", label="取数据", range=(0, 30)), headway.step_def("store", range=(30, 100))]
    with headway.job("import:42", title="三月", kind="import", plan=plan) as job:
        with job.step("取") as step:
            for _ in step.track(range(10)):
                pass
        for attempt in job.attempts("store", 2, wait=0):
            with attempt as step:
                step.progress(50, message="正在写入…")
                if step.attempt == 1:
                    raise ConnectionError("the host hung up")
    job_now = snapshot(store, "import:42")
    assert (job_now.status, job_now.percent, job_now.rejected, job_now.title) == ("completed", 100.0, 0, "三月")
    assert [(s.step, s.label, s.status, s.attempt) for s in job_now.steps] == [
        ("取", "取数据", "completed", 1),
        ("store", None, "completed", 2),
    ]
    failed = job_now.steps[1].attempts[0]
    assert failed.status == "failed"
    assert "the host hung up" in (failed.error_stack or "")
    assert failed.worker == f"{socket.gethostname()}:{os.getpid()}"


def test_a_process_that_ends_right_after_its_job_leaves_everything_in_the_log(
    store: EventStore, database_url: str
) -> None:
    code = (
        "headway.connect(sys.argv[1])\n"
        "with headway.job('j') as job, job.step('s') as step:\n"
        "    for done in range(5000): step.progress(done=done, total=5000)\n"
    )
    done = run_worker(code, database_url)
    assert (done.returncode, done.stderr) == (0, "")
    job = read_snapshot(store, "j")
    assert job is not None
    assert (job.status, job.rejected) == ("completed", 0)
    assert [e.data["done"] for e in store.read_job("j") if e.type == "step.progressed"][-1] == 4999


def test_an_exception_that_nobody_catches_is_in_the_log_when_the_process_is_gone(
    store: EventStore, database_url: str
) -> None:
    code = "headway.connect(sys.argv[1])\nwith headway.job('j') as job, job.step('s') as step: 1 / 0\n"
    done = run_worker(code, database_url)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    job = read_snapshot(store, "j")
    assert job is not None
    assert job.status == "failed"
    assert "division by zero" in (job.step("s").error_stack or "")  # type: ignore[union-attr]


def test_a_job_that_is_started_again_after_kill_9_goes_on_with_a_new_attempt(
    store: EventStore, database_url: str
) -> None:
    code = (
        "import signal\n"
        "headway.connect(sys.argv[1])\n"
        "with headway.job('j', plan=['a', 'b']) as job:\n"
        "    with job.step('a') as step: step.progress(50)\n"
        "    with job.step('b') as step:\n"
        "        step.progress(60)\n"
        "        if sys.argv[2] == 'die':\n"
        "            headway.flush(20)\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        step.progress(70)\n"
    )
    assert run_worker(code, database_url, "die").returncode == -signal.SIGKILL
    before = read_snapshot(store, "j")
    assert before is not None
    assert (before.status, before.percent) == ("running", 80.0)
    assert run_worker(code, database_url, "live").returncode == 0
    after = read_snapshot(store, "j")
    assert after is not None
    assert (after.status, [s.attempt for s in after.steps]) == ("completed", [2, 2])
    rejected = [(e.type, e.reason) for e in store.read_job("j") if not e.applied]
    assert rejected == [("job.planned", "already"), ("job.started", "already")]
    ppm = [e.ppm for e in store.read_job("j")]
    assert ppm == sorted(ppm)


def test_a_failed_job_that_is_started_again_is_opened_again(store: EventStore, reporter: headway.Reporter) -> None:
    with pytest.raises(OSError), headway.job("j", plan=["a"]) as job, job.step("a"):
        raise OSError("once")
    assert snapshot(store, "j").status == "failed"
    with headway.job("j", plan=["a"]) as job, job.step("a"):
        pass
    again = snapshot(store, "j")
    assert (again.status, again.percent) == ("completed", 100.0)
    assert [(e.type, e.reason) for e in history(store, "j") if not e.applied] == [("job.planned", "already")]
    assert [a.status for a in again.steps[0].attempts] == ["failed", "completed"]


def test_a_rolled_back_transaction_of_the_job_takes_no_report_with_it(
    store: EventStore, reporter: headway.Reporter, database_url: str
) -> None:
    with (
        pytest.raises(psycopg.errors.DivisionByZero),
        headway.job("j") as job,
        job.step("s") as step,
        psycopg.connect(database_url) as conn,
    ):
        step.progress(40)
        conn.execute("SELECT 1 / 0")
    assert [e.type for e in history(store, "j")][-3:] == ["step.progressed", "step.failed", "job.failed"]


def test_no_secret_reaches_the_database(store: EventStore, reporter: headway.Reporter, database_url: str) -> None:
    with pytest.raises(RuntimeError), headway.job("j", title="with token=tok-hunter2") as job, job.step("s") as step:
        step.note("password=pw-hunter2", url="redis://:url-hunter2@cache/0")
        step.progress(5, message="Bearer bearer-hunter2-0123456789", metadata={"api_key": "key-hunter2"})
        raise RuntimeError("Authorization: Basic YmFzaWM6aHVudGVyMg==")
    assert len(history(store, "j")) == 7
    with psycopg.connect(database_url) as conn:
        for table in ("events", "jobs", "steps", "attempts"):
            query = psycopg.sql.SQL("SELECT row(t)::text FROM {} t").format(psycopg.sql.Identifier(table))
            for (text,) in conn.execute(query).fetchall():
                assert "hunter2" not in text
                assert "YmFzaWM6aHVudGVyMg" not in text


def test_connections_that_are_cut_again_and_again_cost_no_report_and_double_none(
    store: EventStore, reporter: headway.Reporter, database_url: str
) -> None:
    """FAULTS C1, P1: each cut leaves the sender in doubt; the ids decide."""
    mine = psycopg.connect(database_url, autocommit=True)
    with mine, headway.job("j") as job:
        for number in range(60):
            job.note(str(number))
            if number % 6 == 0:
                mine.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
    assert headway.flush(30)
    notes = [e.data["message"] for e in store.read_job("j") if e.type == "job.noted"]
    assert notes == [str(number) for number in range(60)]
    assert reporter.counts.dropped == 0


def test_a_job_runs_to_its_end_while_nobody_answers() -> None:
    """FAULTS C11: a server that accepts and never says a word; the job's code never waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        reporter = headway.connect(f"postgresql://headway@127.0.0.1:{port}/none?connect_timeout=2")
        with headway.job("j") as job, job.step("s") as step:
            for number in range(1_000):
                step.progress(done=number, total=1_000)
                step.note(str(number))
        counts = reporter.counts
        assert counts.sent == counts.dropped == 0
        assert counts.waiting >= 1_000
        assert not headway.close(0.01)


def test_what_waited_for_a_database_arrives_in_order_when_it_is_there(servers: tuple[str, str], template: str) -> None:
    """The database is made after the job has ended: until then nothing can be sent."""
    name = f"headway_late_{os.getpid()}"
    url = with_database(servers[0], name)
    reporter = headway.connect(url)
    with headway.job("j", plan=["s"]) as job, job.step("s") as step:
        for number in range(100):
            step.note(str(number))
    assert not headway.flush(0.05)
    assert reporter.counts.sent == 0
    with psycopg.connect(servers[0], autocommit=True) as conn:
        # The log is made before the sender can see the database: without one its reports would be refused.
        conn.execute(f'CREATE DATABASE "{name}_made" TEMPLATE "{template}"')
        with EventStore(with_database(servers[0], f"{name}_made"), projection=Progress()) as made:
            made.create_log("default")
        conn.execute(f'ALTER DATABASE "{name}_made" RENAME TO "{name}"')
        try:
            assert headway.close(30)
            with EventStore(url, projection=Progress()) as late:
                events = late.read_job("j")
            assert [e.data["message"] for e in events if e.type == "step.noted"] == [str(n) for n in range(100)]
            assert [e.type for e in events][-1] == "job.completed"
            assert all(e.applied for e in events)
        finally:
            conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def work_in_child(number: int) -> None:
    step = headway.current_step()
    step.note(f"child {number}")
    with headway.job(f"child:{number}"):
        pass


def test_children_made_by_fork_report_over_connections_of_their_own(
    store: EventStore, reporter: headway.Reporter
) -> None:
    fork = multiprocessing.get_context("fork")
    with headway.job("j") as job, job.step("s") as step:
        step.note("before")
        assert headway.flush(10)
        children = [fork.Process(target=work_in_child, args=(number,)) for number in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        step.note("after")
    said = [e.data["message"] for e in history(store, "j") if e.type == "step.noted"]
    assert said[0] == "before"
    assert said[-1] == "after"
    assert sorted(said[1:-1]) == ["child 0", "child 1", "child 2"]
    assert {snapshot(store, f"child:{n}").status for n in range(3)} == {"completed"}
    assert snapshot(store, "j").rejected == 0


def test_a_child_that_unwinds_does_not_end_its_parents_job(store: EventStore, reporter: headway.Reporter) -> None:
    pid = -1
    try:
        with headway.job("j") as job, job.step("s"):
            pid = os.fork()
            if pid == 0:
                raise SystemExit(3)
            os.waitpid(pid, 0)
    except SystemExit:
        headway.flush(10)
        os._exit(0)
    assert [e.type for e in history(store, "j")] == [
        "job.started", "step.started", "step.completed", "job.completed",
    ]  # fmt: skip


@pytest.mark.anyio
async def test_a_store_can_be_given_and_asynchronous_jobs_report_to_it(store: EventStore) -> None:
    headway.connect(store)
    async with headway.job("j") as job, job.step("s") as step:
        step.progress(50)
    assert headway.close(10)
    assert [e.type for e in store.read_job("j")] == [
        "job.started", "step.started", "step.progressed", "step.completed", "job.completed",
    ]  # fmt: skip
    assert store.head().position == 5


def test_an_exception_that_closes_the_store_on_its_way_out_is_in_the_log(store: EventStore, database_url: str) -> None:
    with pytest.raises(ZeroDivisionError), EventStore(database_url, projection=Progress()) as given:
        headway.connect(given)
        with headway.job("import:88") as job, job.step("fetch"):
            raise ZeroDivisionError
    assert [event.type for event in store.read_job("import:88")][-2:] == ["step.failed", "job.failed"]
    headway.close()


def test_a_plan_that_breaks_a_rule_is_one_warning_and_the_job_is_tracked_without_it(
    store: EventStore, reporter: headway.Reporter, caplog: pytest.LogCaptureFixture
) -> None:
    plan: list[Any] = [headway.step_def("a", range=(0, 60)), headway.step_def("b", range=(50, 100))]
    with headway.job("j", plan=plan) as job, job.step("a"):
        pass
    assert snapshot(store, "j").status == "completed"
    assert [r.getMessage().startswith("headway: a report was refused") for r in caplog.records] == [True]
    assert "overlap" in caplog.text
    assert reporter.counts.dropped == 1
