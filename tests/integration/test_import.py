"""Imports into a real log: through the command line, twice, interrupted, cut off, and the real history of a bank."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventstore.events import NewEvent
from eventstore.store import EventStore
from eventstore.verify import verify
from projections.importing import ImportInterrupted, ImportStopped, import_file
from projections.importing.mapping import event_id_of
from projections.progress import Progress
from projections.snapshots import list_jobs
from tests.support.cli import Cli, cli, log, store
from tests.support.files import HOUSE, Row, at, write_csv, write_ndjson, write_xes
from tests.support.sessions import Watcher, holding_log

__all__ = ["cli", "log", "store"]

ROOT = Path(__file__).resolve().parents[2]


def many(cases: int) -> list[Row]:
    """Cases of ten events each, interleaved in time."""
    return [
        (str(case), f"a{step % 4}", "complete" if step % 2 else "start", at(step * 60 + case * 0.0001), f"r{case % 5}")
        for step in range(10)
        for case in range(cases)
    ]


def contents(log_store: EventStore) -> list[tuple[object, ...]]:
    return [
        (e.position, e.job_id, e.version, e.event_id, e.type, e.step, e.attempt, e.actor, e.applied, e.reason, e.ppm)
        for page in log_store.replay()
        for e in page
    ]


@pytest.fixture
def other(shared_database: str) -> Iterator[EventStore]:
    """A second log."""
    with EventStore(shared_database, log=f"log-{uuid.uuid4().hex[:12]}", projection=Progress()) as opened:
        opened.create_log()
        yield opened


@pytest.fixture
def watcher(shared_database: str) -> Iterator[Watcher]:
    opened = Watcher(shared_database)
    yield opened
    opened.close()


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_tells_what_became_of_every_event(cli: Cli, tmp_path: Path) -> None:
    path = str(write_ndjson(tmp_path / "house.ndjson.gz", HOUSE))
    said = cli("import", path)
    assert "17 events of 2 jobs imported" in said.lines[0]
    assert [line.split() for line in said.lines[1:]] == [
        ["applied", "15"],
        ["rejected", "2", "step_ended", "2"],
        ["known", "0"],
    ]
    again = cli("import", path, "--json").json
    assert (again["read"], again["known"], again["applied"], again["rejected"]) == (17, 17, 0, {})


def test_checking_a_file_changes_nothing(cli: Cli, store: EventStore, tmp_path: Path) -> None:
    said = cli("import", str(write_xes(tmp_path / "house.xes", HOUSE)), "--check")
    assert "checked, nothing appended" in said.out
    assert store.head().position == 0


def test_columns_zone_and_prefix_are_options(cli: Cli, store: EventStore, tmp_path: Path) -> None:
    rows = [("1", "sign", "START", "2011-10-01 02:00:00", "林")]
    path = write_csv(tmp_path / "订单.csv", rows, header=("编号", "事", "状态", "时间", "人"), delimiter="\t")
    names = {"case": "编号", "activity": "事", "transition": "状态", "time": "时间", "resource": "人"}
    options = [part for name, column in names.items() for part in (f"--{name}", column)]
    cli("import", str(path), *options, "--zone", "+02:00", "--prefix", "order:")
    (event,) = store.read_log()
    assert (event.job_id, event.type, event.step, event.actor) == ("order:1", "step.started", "sign", "林")
    assert event.occurred_at is not None
    assert event.occurred_at.isoformat() == "2011-10-01T00:00:00+00:00"


def test_a_bad_file_is_told_in_one_line_with_its_place_and_exit_code_2(
    cli: Cli, store: EventStore, tmp_path: Path
) -> None:
    path = write_ndjson(tmp_path / "a.ndjson", [*HOUSE, ("1", "a\x1b[2J", "start", at(0), None)])
    said = cli("import", str(path), code=2)
    assert said.err.startswith(f"headway: {path}, line 18: activity: text without control characters")
    assert "\x1b" not in said.err
    assert len(said.err.splitlines()) == 1
    assert store.head().position == 0


def test_a_zone_that_there_is_not_and_a_file_that_is_not_there_are_told(cli: Cli, tmp_path: Path) -> None:
    assert "no such zone: 'Mars'" in cli("import", "x.csv", "--zone", "Mars", code=2).err
    assert "nowhere.csv': No such file" in cli("import", str(tmp_path / "nowhere.csv"), code=1).err
    assert "Is a directory" in cli("import", str(tmp_path), code=1).err


# -- nothing lost, nothing twice --------------------------------------------------------------------------------------


def test_the_jobs_of_a_history_have_its_times_and_people(store: EventStore, tmp_path: Path) -> None:
    import_file(store, str(write_xes(tmp_path / "house.xes", HOUSE)))
    jobs = {job.job_id: job for job in list_jobs(store)}
    assert jobs["house:7"].created_at.isoformat() == "2011-10-01T00:00:00+00:00"
    assert jobs["house:7"].updated_at.isoformat() == "2011-10-01T00:01:10+00:00"
    assert {job.status for job in jobs.values()} == {"running"}
    assert {event.actor for event in store.read_job("house:9")} == {"bob", "林", "cy", None}


def test_an_import_that_was_interrupted_anywhere_goes_on(store: EventStore, other: EventStore, tmp_path: Path) -> None:
    path = str(write_ndjson(tmp_path / "many.ndjson", many(450)))
    assert import_file(other, path).settled == 4_500
    for stop in (1_000, 2_000, 3_000):

        def interrupt(phase: str, done: int, total: int | None, stop: int = stop) -> None:
            if phase == "appending" and done >= stop:
                raise KeyboardInterrupt

        with pytest.raises(ImportInterrupted) as stopped:
            import_file(store, path, progress=interrupt)
        assert stopped.value.report.settled == store.head().position >= stop
    report = import_file(store, path)
    assert report.known + report.applied + sum(report.rejected.values()) == 4_500
    assert contents(store) == contents(other)


class Interrupted:
    """A store whose user presses Ctrl-C while the second call is made ready, the first being on its way."""

    def __init__(self, inner: EventStore) -> None:
        self._inner, self._calls = inner, 0

    def prepare_many(self, events: Any, *, checked: bool = False) -> Any:
        self._calls += 1
        if self._calls == 2:
            raise KeyboardInterrupt
        return self._inner.prepare_many(events, checked=checked)

    def submit(self, events: Any) -> Any:
        return self._inner.submit(events)


def test_what_was_on_its_way_at_ctrl_c_is_waited_for_and_counted(store: EventStore, tmp_path: Path) -> None:
    with pytest.raises(ImportInterrupted) as stopped:
        import_file(Interrupted(store), str(write_ndjson(tmp_path / "many.ndjson", many(250))))
    assert stopped.value.report.settled == store.head().position == 1_000


def test_what_was_on_its_way_at_ctrl_c_and_failed_is_left_to_the_next_import(
    store: EventStore, shared_database: str, tmp_path: Path
) -> None:
    path = str(write_ndjson(tmp_path / "many.ndjson", many(250)))
    with holding_log(shared_database, store.log), pytest.raises(ImportInterrupted) as stopped:
        import_file(Interrupted(store), path)
    assert stopped.value.report.settled == 0
    assert import_file(store, path).settled == 2_500


def test_ctrl_c_while_the_file_is_read_leaves_nothing(store: EventStore, tmp_path: Path) -> None:
    def interrupt(phase: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    for phase_file in (write_ndjson(tmp_path / "many.ndjson", many(150)), write_xes(tmp_path / "many.xes", many(150))):
        with pytest.raises(KeyboardInterrupt):
            import_file(store, str(phase_file), progress=interrupt)
    assert store.head().position == 0


def test_connections_that_are_cut_again_and_again_change_nothing(
    store: EventStore, other: EventStore, watcher: Watcher, tmp_path: Path
) -> None:
    path = str(write_ndjson(tmp_path / "many.ndjson", many(450)))
    cuts = Counter[str]()

    def cut(phase: str, done: int, total: int | None) -> None:
        if phase == "appending":
            cuts[phase] += bool(watcher.kill_writers())

    report = import_file(store, path, progress=cut)
    assert cuts["appending"] >= 3
    assert (report.known, report.settled) == (0, 4_500)
    import_file(other, path)
    assert contents(store) == contents(other)
    assert verify(store).events == 4_500


def test_a_log_that_stays_locked_stops_the_import_and_the_next_one_goes_on(
    store: EventStore, shared_database: str, tmp_path: Path
) -> None:
    path = str(write_ndjson(tmp_path / "many.ndjson", many(250)))
    with holding_log(shared_database, store.log), pytest.raises(ImportStopped) as stopped:
        import_file(store, path, patience=0.0)
    assert stopped.value.retryable
    assert "import the same file again" in str(stopped.value)
    assert store.head().position == 0
    assert import_file(store, path).settled == 2_500


def test_two_imports_of_one_file_at_the_same_time_add_every_event_once(
    store: EventStore, other: EventStore, shared_database: str, tmp_path: Path
) -> None:
    path = str(write_ndjson(tmp_path / "many.ndjson", many(300)))
    second = EventStore(shared_database, log=store.log, projection=Progress())
    begun = []

    def meanwhile(phase: str, done: int, total: int | None) -> None:
        if phase == "appending" and not begun:
            begun.append(import_file(second, path))

    with second:
        first = import_file(store, path, progress=meanwhile)
    import_file(other, path)
    assert contents(store) == contents(other)
    assert first.applied + begun[0].applied + sum(first.rejected.values()) + sum(begun[0].rejected.values()) == 3_000
    assert first.settled == begun[0].settled == 3_000


def test_an_id_that_somebody_took_for_something_else_stops_the_import(store: EventStore, tmp_path: Path) -> None:
    path = write_ndjson(tmp_path / "a.ndjson", [("1", "x", "start", "1970-01-01T00:00:01Z", None)])
    taken = uuid.UUID(bytes=event_id_of("a:1", "x", "start", 1_000_000, None, 0))
    store.append("a:1", [NewEvent(type="step.noted", step="x", data={"level": "info", "message": "?"}, event_id=taken)])
    with pytest.raises(ImportStopped, match="is taken") as stopped:
        import_file(store, str(path))
    assert not stopped.value.retryable


def test_an_import_beside_other_jobs_touches_only_its_own(store: EventStore, tmp_path: Path) -> None:
    store.append("own", [NewEvent(type="step.progressed", step="x", data={"percent": 40})])
    import_file(store, str(write_ndjson(tmp_path / "house.ndjson", HOUSE)))
    assert len(store.read_job("own")) == 1
    assert {job.job_id for job in list_jobs(store)} == {"own", "house:7", "house:9"}


# -- the real one -----------------------------------------------------------------------------------------------------


def real(name: str) -> str:
    """BPI Challenge 2012 (van Dongen, 4TU.ResearchData): the folder is named by HEADWAY_HISTORIES, or is a folder
    `data` beside or near this project."""
    folder = os.environ.get("HEADWAY_HISTORIES")
    found = sorted(Path(folder).glob(name) if folder else ROOT.parent.glob(f"*/data/{name}"))
    if not found:
        pytest.skip(f"{name} is not here; HEADWAY_HISTORIES names its folder")
    return str(found[0])


def test_the_real_history_is_read_as_a_whole() -> None:
    for name in ("bpic2012.xes.gz", "bpic2012.ndjson.gz"):
        report = import_file(None, real(name))
        assert (report.read, report.jobs, report.repeated, report.left_out) == (262_200, 13_087, 0, 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_event_of_the_real_history_is_accounted_for(store: EventStore) -> None:
    report = import_file(store, real("bpic2012.xes.gz"))
    assert (report.read, report.jobs, report.known) == (262_200, 13_087, 0)
    assert report.applied == 259_852
    assert report.rejected == {"step_ended": 2_346, "already": 2}
    types: Counter[str] = Counter()
    reasons: Counter[str | None] = Counter()
    actors = 0
    for page in store.replay():
        types.update(event.type for event in page)
        reasons.update(event.reason for event in page)
        actors += sum(event.actor is not None for event in page)
    assert types["step.started"] == 71_376
    assert types["step.completed"] == 164_506
    assert types["step.added"] + types["step.noted"] == 26_318
    assert sum(types.values()) == 262_200
    assert actors == 244_190
    assert reasons == {None: 259_852, "step_ended": 2_346, "already": 2}
    again = import_file(store, real("bpic2012.ndjson.gz"))
    assert (again.known, again.applied, again.rejected) == (262_200, 0, {})
    assert store.head().position == 262_200
