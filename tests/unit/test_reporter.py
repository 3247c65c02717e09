"""What a job says is what is sent; nothing that goes wrong with sending reaches the job."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import headway
from headway.report import Known, Outgoing


class Refused(Exception):
    code = "invalid_event"
    retryable = False


class Away(Exception):
    retryable = True


class Wire:
    """A transport that keeps what it is sent, and can be closed like a gate."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.calls: list[list[bytes]] = []
        self.known: Known | None = None
        self.open = threading.Event()
        self.open.set()
        self.away = 0
        self.refuse: set[str] = set()
        self.entered = threading.Event()
        self.closed = False

    def look(self, job_id: str) -> Known | None:
        return self.known

    def send(self, events: Sequence[Outgoing]) -> None:
        self.entered.set()
        self.open.wait()
        self.calls.append([event.event_id for event in events])
        if self.away:
            self.away -= 1
            raise Away("nobody answers")
        if bad := [event for event in events if event.type in self.refuse]:
            raise Refused(f"{bad[0].type} is not for this log")
        self.sent += events

    def close(self) -> None:
        self.closed = True

    def forked(self) -> None:
        pass

    def said(self) -> list[str]:
        assert headway.flush(10)
        return [f"{e.type} {e.step or ''}".strip() for e in self.sent]

    def one(self, kind: str) -> Outgoing:
        assert headway.flush(10)
        (found,) = [e for e in self.sent if e.type == kind]
        return found


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    headway.connect(wire, rate=1000)
    yield wire
    wire.open.set()
    headway.close(10)


def test_a_job_with_steps_says_what_happens_in_order(wire: Wire) -> None:
    plan = [headway.step_def("fetch", label="取", range=(0, 30)), headway.step_def("store", range=(30, 100))]
    with headway.job("import:42", title="Import", kind="import", plan=plan) as job:
        with job.step("fetch") as step:
            step.progress(50, message="half")
            step.note("careful", "warning", rows=3)
        job.skip("store", "nothing new")
    assert wire.said() == [
        "job.planned", "job.started", "step.started fetch", "step.progressed fetch", "step.noted fetch",
        "step.completed fetch", "step.skipped store", "job.completed",
    ]  # fmt: skip
    assert wire.sent[0].data == {
        "title": "Import",
        "kind": "import",
        "auto_complete": False,
        "steps": [{"step": "fetch", "label": "取", "range": [0, 30]}, {"step": "store", "range": [30, 100]}],
    }
    assert [e.seq for e in wire.sent if e.step == "fetch"] == [0, 1, 2, 3]
    assert {e.attempt for e in wire.sent if e.step == "fetch"} == {1}
    assert len({e.event_id for e in wire.sent}) == len(wire.sent)


def test_the_last_value_goes_before_the_end_of_a_step_however_many_came(wire: Wire) -> None:
    headway.connect(wire, rate=0.001)
    with headway.job("j") as job, job.step("s") as step:
        for percent in range(1000):
            step.progress(percent / 10)
    assert wire.said()[-3:] == ["step.progressed s", "step.completed s", "job.completed"]
    assert [e.data["percent"] for e in wire.sent if e.type == "step.progressed"] == [0, 99.9]


def test_the_last_value_of_a_step_that_nobody_ended_goes_before_the_end_of_the_job(wire: Wire) -> None:
    headway.connect(wire, rate=0.001)
    with headway.job("j") as job:
        step = job.step("s").start()
        step.progress(1)
        step.progress(2)
    assert wire.said()[-3:] == ["step.progressed s", "step.progressed s", "job.completed"]


def test_held_values_are_sent_by_themselves_when_their_time_comes(wire: Wire) -> None:
    headway.connect(wire, rate=20)
    with headway.job("j") as job, job.step("s") as step:
        step.progress(1)
        headway.flush(10)
        wire.entered.clear()
        step.progress(2)
        assert wire.entered.wait(10)


def test_an_exception_fails_step_and_job_with_its_stack_and_goes_on(wire: Wire) -> None:
    def deep(password: str) -> None:
        raise ValueError("no such host postgresql://app:hunter2@db/shop")

    with pytest.raises(ValueError, match="no such host"), headway.job("j") as job, job.step("s"):
        deep("s3cr3t-in-a-local")
    error = wire.one("step.failed").data["error"]
    assert error["type"] == "ValueError"
    assert error["message"] == "no such host postgresql://app:[redacted]@db/shop"
    assert "in deep" in error["stack"]
    assert "hunter2" not in error["stack"]
    assert "s3cr3t-in-a-local" not in str([e.data for e in wire.sent]).replace('deep("s3cr3t-in-a-local")', "")
    assert wire.one("job.failed").data["error"]["message"] == error["message"]


def test_the_next_try_at_a_step_is_a_new_attempt(wire: Wire) -> None:
    with headway.job("j") as job:
        for attempt in job.attempts("deploy", 3, wait=0):
            with attempt as step:
                if step.attempt < 3:
                    raise OSError(f"try {step.attempt}")
    deploy = [e for e in wire.sent if e.step == "deploy"] if headway.flush() else []
    assert [(e.type, e.attempt, e.seq) for e in deploy] == [
        ("step.started", 1, 0), ("step.failed", 1, 1), ("step.started", 2, 0), ("step.failed", 2, 1),
        ("step.started", 3, 0), ("step.completed", 3, 1),
    ]  # fmt: skip
    assert "retry_at" in deploy[1].data
    assert wire.said()[-1] == "job.completed"


def test_the_last_attempt_raises(wire: Wire) -> None:
    with pytest.raises(OSError), headway.job("j") as job:
        for attempt in job.attempts("deploy", 2, wait=0):
            with attempt:
                raise OSError("always")
    assert "retry_at" not in wire.sent[-2].data if headway.flush() else False
    assert wire.said()[-2:] == ["step.failed deploy", "job.failed"]


def test_attempts_go_on_from_what_the_log_knows_and_a_failed_job_is_opened_again(wire: Wire) -> None:
    wire.known = Known(status="failed", attempts={"s": 4})
    with headway.job("j") as job, job.step("s"):
        pass
    assert wire.said() == ["job.reopened", "step.started s", "step.completed s", "job.completed"]
    assert [e.attempt for e in wire.sent] == [None, 5, 5, None]


def test_a_job_that_completed_before_is_warned_about_once(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    wire.known = Known(status="completed", attempts={})
    for _ in range(3):
        with headway.job("j"):
            pass
    assert headway.flush()
    assert ["continues=" in r.getMessage() for r in caplog.records] == [True]


@pytest.mark.parametrize(
    ("error", "ends"),
    [(KeyboardInterrupt(), "cancelled"), (SystemExit(), "cancelled"), (SystemExit(0), "cancelled"),
     (SystemExit(3), "failed"), (SystemExit("no"), "failed"), (asyncio.CancelledError(), "cancelled")],
)  # fmt: skip
def test_an_interruption_ends_step_and_job_and_goes_on(wire: Wire, error: BaseException, ends: str) -> None:
    with pytest.raises(type(error)), headway.job("j") as job, job.step("s"):
        raise error
    assert wire.said()[-2:] == [f"step.{ends} s", f"job.{ends}"]


def test_track_counts_what_is_done_with_its_total(wire: Wire) -> None:
    with headway.job("j") as job, job.step("s") as step:
        assert list(step.track(["a", "b"], unit="files")) == ["a", "b"]
    progress = [e.data for e in wire.sent if e.type == "step.progressed"] if headway.flush() else []
    assert progress[0] == {"done": 0, "total": 2, "unit": "files"}
    assert progress[-1] == {"done": 2, "total": 2, "unit": "files"}


def test_track_of_something_without_a_length_counts_without_a_total(wire: Wire) -> None:
    with headway.job("j") as job, job.step("s"):
        for item in headway.track(letter for letter in "abc"):
            if item == "c":
                break
    assert wire.one("step.completed")
    assert [e.data for e in wire.sent if e.type == "step.progressed"][-1] == {"done": 2}


def test_a_loop_that_breaks_has_reported_what_was_done(wire: Wire) -> None:
    headway.connect(wire, rate=0.001)
    with pytest.raises(KeyError), headway.job("j") as job, job.step("s") as step:
        for item in step.track(range(100)):
            if item == 40:
                raise KeyError(item)
    assert headway.flush()
    assert [e.data["done"] for e in wire.sent if e.type == "step.progressed"] == [0, 40]


@pytest.mark.anyio
async def test_the_same_objects_work_in_asynchronous_code(wire: Wire) -> None:
    async def rows() -> Any:
        for row in range(3):
            yield row

    @headway.step("load {table}")
    async def load(table: str) -> str:
        return headway.current_step().name

    async with headway.job("j") as job:
        async with job.step("s") as step:
            assert [row async for row in step.track(rows(), total=3)] == [0, 1, 2]
            assert headway.current_step() is step
        assert await load("orders") == "load orders"
        async for attempt in job.attempts("t", 2, wait=0):
            async with attempt as again:
                if again.attempt == 1:
                    raise OSError
    assert wire.said()[-5:] == ["step.completed load orders", "step.started t", "step.failed t", "step.started t",
                                "step.completed t", "job.completed"][-5:]  # fmt: skip


def test_a_decorated_function_is_a_job_at_each_call(wire: Wire) -> None:
    @headway.job("nightly:{day}", title="Night of {day}")
    def nightly(day: str, rows: int = 3) -> int:
        headway.current_job().note("hello")
        return rows

    assert nightly("monday") == 3
    assert nightly("tuesday", rows=4) == 4
    assert headway.flush()
    assert [e.job_id for e in wire.sent if e.type == "job.completed"] == ["nightly:monday", "nightly:tuesday"]
    assert wire.sent[0].data["title"] == "Night of monday"


def test_where_no_step_runs_the_current_step_takes_everything_and_says_nothing(wire: Wire) -> None:
    step = headway.current_step()
    assert not step
    step.progress(5)
    step.note("nothing")
    with step.wait():
        pass
    assert list(headway.track([1, 2])) == [1, 2]
    with headway.step("alone"):
        pass
    assert wire.said() == []


def test_waiting_is_ended_by_the_end_of_its_block(wire: Wire) -> None:
    with headway.job("j") as job, job.step("s") as step, step.wait("approval", until=60):
        pass
    assert wire.said()[1:5] == ["step.started s", "step.waiting s", "step.resumed s", "step.completed s"]
    assert wire.one("step.waiting").data["until"].endswith("Z")


@pytest.mark.parametrize(
    "percent", [float("nan"), float("inf"), -1, 101, "50", True, None, [], 10**400], ids=lambda p: str(p)[:9]
)
def test_a_wrong_percentage_is_one_warning_and_no_report(
    wire: Wire, caplog: pytest.LogCaptureFixture, percent: Any
) -> None:
    with headway.job("j") as job, job.step("s") as step:
        step.progress(percent)
        step.progress(percent)
    assert wire.said() == ["job.started", "step.started s", "step.completed s", "job.completed"]
    assert len(caplog.records) == 1


def test_in_strict_mode_a_wrong_argument_raises(wire: Wire) -> None:
    headway.connect(wire, strict=True)
    with headway.job("j") as job, job.step("s") as step:
        with pytest.raises(headway.Misuse, match="percent: a number from 0 to 100; given 101"):
            step.progress(101)
        with pytest.raises(headway.Misuse, match="done"):
            step.progress(total=5)
    with pytest.raises(headway.Misuse, match="job_id"), headway.job("../.."):
        pass


def test_a_job_id_that_the_log_would_refuse_costs_the_reports_and_not_the_job(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    worked = False
    with headway.job("a/b") as job, job.step("s") as step:
        step.progress(5)
        worked = True
    assert worked
    assert wire.said() == []
    assert "job_id" in caplog.text


def test_texts_that_no_log_takes_are_made_so_that_it_does(wire: Wire) -> None:
    with headway.job("j") as job, job.step(" a\nb ") as step:
        step.note("\0 \udc80 " + "长" * 10_000, level="error", why=object(), n=float("nan"), deep={1: {2}})
        step.progress(5, metadata={"k": "v" * 100_000, "m": 1})
    noted = wire.one("step.noted")
    assert noted.step == "a b"
    assert noted.data["message"].startswith("\\x00 \\udc80 长")
    assert len(noted.data["message"].encode()) <= 8 * 1024
    assert noted.data["data"]["n"] is None
    assert noted.data["data"]["deep"] == {"1": [2]}
    assert wire.one("step.progressed").data["metadata"] == {"…": "2 more left out"}


def test_what_is_changed_after_it_was_reported_is_reported_as_it_was(wire: Wire) -> None:
    wire.open.clear()
    facts = {"rows": [1]}
    with headway.job("j") as job, job.step("s") as step:
        step.progress(5, metadata=facts)
        facts["rows"].append(2)
    wire.open.set()
    assert wire.one("step.progressed").data["metadata"] == {"rows": [1]}


def test_a_call_that_failed_is_repeated_with_the_same_ids(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    wire.away = 3
    with headway.job("j"):
        pass
    assert wire.said() == ["job.started", "job.completed"]
    first = wire.calls[0]
    assert all(call[: len(first)] == first for call in wire.calls[:4])
    assert [r.getMessage() for r in caplog.records] == [
        "headway: the log can't be reached, reports wait: nobody answers",
        "headway: the log is back, what waited was sent",
    ]


def test_a_refused_report_costs_none_of_its_neighbours(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    wire.refuse = {"step.noted"}
    wire.open.clear()
    with headway.job("j") as job, job.step("s") as step:
        step.note("a")
        step.note("b")
        step.progress(5)
    wire.open.set()
    assert wire.said() == ["job.started", "step.started s", "step.progressed s", "step.completed s", "job.completed"]
    assert len(caplog.records) == 1
    reporter = headway.connect(Wire())
    assert reporter.counts.dropped == 0


def test_while_the_log_is_away_a_step_has_one_report_on_its_way_and_one_waiting(wire: Wire) -> None:
    reporter = headway.connect(wire, rate=1_000_000)
    wire.open.clear()
    with headway.job("j") as job, job.step("s") as step:
        for done in range(20_000):
            step.progress(done=done)
        assert reporter.counts.waiting <= 4
    wire.open.set()
    assert wire.said()[-2:] == ["step.completed s", "job.completed"]
    assert [e.data["done"] for e in wire.sent if e.type == "step.progressed"] == [0, 19_999]


def test_the_queue_is_bounded_and_what_it_refuses_is_counted(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    reporter = headway.Reporter(wire, max_queued=10)
    wire.open.clear()
    job = headway.Job(reporter, "j").start()
    assert wire.entered.wait(10)
    for number in range(100):
        job.note(str(number))
    assert reporter.counts.waiting <= 21
    assert reporter.counts.dropped >= 79
    wire.open.set()
    assert reporter.close(10)
    assert sum("newer ones are dropped" in r.getMessage() for r in caplog.records) == 1


def test_closing_while_the_log_is_away_gives_up_with_one_line(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    wire.open.clear()
    with headway.job("j"):
        pass
    assert not headway.close(0.05)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "headway: 2 reports could not be sent before the end and are lost"
    ]


def test_without_a_connection_a_job_works_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    headway.close(10)
    headway._told.clear()
    for _ in range(2):
        with headway.job("j") as job, job.step("s") as step:
            step.progress(5)
    assert ["headway.connect" in r.getMessage() for r in caplog.records] == [True]


def test_importing_the_package_imports_no_database_driver_and_no_web_framework() -> None:
    code = (
        "import sys, headway\n"
        "with headway.job('j') as job, job.step('s') as step: step.progress(5)\n"
        "heavy = {'sqlalchemy', 'psycopg', 'redis', 'alembic', 'rich', 'click', 'litestar', 'anyio', 'asyncio', 'ssl',"
        " 'eventstore', 'projections', 'api'}\n"
        "found = heavy & {name.partition('.')[0] for name in sys.modules}\n"
        "sys.exit(', '.join(sorted(found)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
