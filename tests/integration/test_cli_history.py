"""The command line for audit and time travel, on a real database: what it answers, and what it says of wrong input."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from freezegun import freeze_time

from api.cli.moments import parse_time
from api.cli.time_travel import chart
from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.as_of import Point
from tests.support.cli import Cli, Report

EVIL = "\x1b[2J\x1b]52;c;aGk=\x07\rok \u202egnp [red]"
SHOWN = r"\x1b[2J\x1b]52;c;aGk=\x07\x0dok \u202egnp [red]"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def history(store: EventStore, report: Report) -> EventStore:
    """A job with a step that failed once, with a report that did not count; another job; reports by two actors."""
    report("build:1", "job.planned", title="项目", steps=[{"step": "repo"}, {"step": "push", "label": "推送"}])
    store.append("build:1", [NewEvent(type="step.started", step="push", actor="ci", data={"worker": "w1"})])
    store.append(
        "build:1",
        [NewEvent(type="step.progressed", step="push", actor="ci", data={"percent": 40, "message": "正在推送代码"})],
    )
    store.append("build:1", [NewEvent(type="step.progressed", step="push", actor="anna", data={"percent": 30})])
    error = {"type": "OSError", "message": "disk FULL", "stack": "Traceback\n  File push.py\nOSError: disk FULL"}
    report("build:1", "step.failed", "push", error=error, retry_at="2027-01-01T00:00:00Z")
    report("build:1", "step.started", "push", worker="w2")
    report("build:1", "step.completed", "push")
    report("test:1", "job.noted", level="info", message="100 % of it")
    return store


def positions(said: Any) -> list[int]:
    return [event["position"] for event in said.records]


# -- audit ----------------------------------------------------------------------------------------------------------


def test_audit_tells_who_reported_what_when(cli: Cli, history: EventStore) -> None:
    lines = cli("audit").lines
    assert len(lines) == 8
    assert lines[2].endswith("build:1  step.progressed  push  40 %  正在推送代码  by ci")
    assert lines[3].endswith("push  30 %  not applied: regression  by anna")
    assert cli("audit", "--json").records == cli("tail", "--json").records


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--job", "build:1"], [1, 2, 3, 4, 5, 6, 7]),
        (["--prefix", "test:"], [8]),
        (["--type", "step.started", "--type", "job.*"], [1, 2, 6, 8]),
        (["--step", "push", "--actor", "ci"], [2, 3]),
        (["--actor", "ci", "--actor", "anna"], [2, 3, 4]),
        (["--rejected"], [4]),
        (["--applied", "--actor", "anna"], []),
        (["--reason", "regression"], [4]),
        (["--reason", "already"], []),
        (["--text", "推送"], [1, 3]),
        (["--text", "DISK full"], [5]),
        (["--text", "push.py\nos"], [5]),
        (["--text", "%"], [8]),
        (["--since", "1h"], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["--until", "1h"], []),
        (["--since", "2020-01-01", "--until", "2020-01-02T00:00+01:00"], []),
    ],
)
def test_audit_finds_by_every_filter(cli: Cli, history: EventStore, args: list[str], expected: list[int]) -> None:
    said = cli("audit", "--json", *args)
    assert positions(said) == expected
    assert positions(cli("audit", "--json", "--all", *args)) == expected
    if not expected:
        assert said.err == "nothing matches\n"


def test_audit_asks_the_workers_clock_if_it_is_told_to(cli: Cli, store: EventStore) -> None:
    store.append("b", [NewEvent(type="job.started", occurred_at=NOON), NewEvent(type="job.completed")])
    said = cli("audit", "--occurred", "--since", "2026-01-31T11:59Z", "--until", "2026-01-31T12:01Z")
    assert len(said.lines) == 1
    local = NOON.astimezone().strftime("%Y-%m-%d %H:%M:%S.000")
    assert local in said.out
    assert cli("audit", "--until", "2026-01-31T12:01Z").out == ""


def test_pages_go_back_and_forth_by_the_places_that_are_named(cli: Cli, report: Report) -> None:
    for number in range(10):
        report("b", "job.noted", level="info", message=str(number))
    said = cli("audit", "-n", "4", "--json")
    assert positions(said) == [7, 8, 9, 10]
    assert said.err == "earlier ones: --before 7\n"
    said = cli("audit", "-n", "4", "--json", "--before", said.records[0]["cursor"])
    assert positions(said) == [3, 4, 5, 6]
    said = cli("audit", "-n", "4", "--json", "--before", "3")
    assert (positions(said), said.err) == ([1, 2], "")
    said = cli("audit", "-n", "4", "--json", "--after", "2")
    assert (positions(said), said.err) == ([3, 4, 5, 6], "later ones: --after 6\n")
    said = cli("audit", "-n", "9", "--json", "--after", said.records[-1]["cursor"])
    assert (positions(said), said.err) == ([7, 8, 9, 10], "")
    assert positions(cli("audit", "--json", "--after", "2", "--before", "5")) == [3, 4]
    assert positions(cli("audit", "--json", "--all", "--after", "8")) == [9, 10]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--job", "a/b"], "job: "),
        (["--job", "a", "--prefix", "a"], "prefix: "),
        (["--type", "step.begun"], "types: "),
        (["--text", ""], "text: "),
        (["--text", "x" * 1_001], "text: "),
        (["--reason", "no such"], "reasons: "),
        (["--reason", "regression", "--applied"], "reasons: "),
        (["--since", "1h", "--until", "2h"], "until: "),
        (["--since", "soon"], "'--since': 'soon': give a time"),
        (["--until", "30"], "'--until': '30': give a time"),
        (["--since", "2026-02-30"], "'--since'"),
        (["--limit", "0"], "'--limit'"),
        (["--after", "1e3"], "cursor: "),
        (["--before", "x"], "cursor: "),
        (["build:1"], "No such command"),
    ],
)
def test_wrong_filters_are_refused_by_name(cli: Cli, store: EventStore, args: list[str], said: str) -> None:
    assert said in cli("audit", *args, code=2).err


def test_a_place_ahead_of_the_log_is_told(cli: Cli, report: Report) -> None:
    report("b", "job.started")
    for option in ("--after", "--before"):
        assert "(ahead); go on from" in cli("audit", option, "9", code=1).err


# -- attempts -------------------------------------------------------------------------------------------------------


def test_attempts_come_with_worker_verdicts_error_and_stack(cli: Cli, history: EventStore) -> None:
    out = cli("audit", "attempts", "build:1", "push").out
    first, second = out.split("\n\n")
    assert first.startswith("attempt 1  ✗ failed  40.0 %")
    for line in (
        "  worker   w1",
        "  by       ci, anna",
        "  reports  4, not applied: 1 regression (positions 2 to 5)",
        "  error    OSError: disk FULL",
        "    Traceback",
        "      File push.py",
    ):
        assert line in first.splitlines()
    assert second.startswith("attempt 2  ✓ completed  100.0 %")
    assert "  worker   w2" in second.splitlines()


def test_attempts_for_programs_and_as_of_a_place(cli: Cli, history: EventStore) -> None:
    records = cli("audit", "attempts", "build:1", "push", "--json").records
    assert [record["status"] for record in records] == ["failed", "completed"]
    assert records[0]["rejected"] == {"regression": 1}
    assert records[0]["error"] == {"type": "OSError", "message": "disk FULL"}
    assert records[0]["error_stack"].endswith("disk FULL")
    (record,) = cli("audit", "attempts", "build:1", "push", "--json", "--at", "3").records
    assert (record["status"], record["reports"], record["last_position"]) == ("running", 2, 3)
    assert cli("audit", "attempts", "build:1", "repo").err == "nobody tried it yet\n"
    assert "there is no step" in cli("audit", "attempts", "build:1", "none", code=3).err
    assert "there is no step" in cli("audit", "attempts", "nobody", "push", code=3).err
    cli("audit", "attempts", "a/b", "push", code=2)


# -- time travel ----------------------------------------------------------------------------------------------------


def test_show_tells_a_job_as_it_was(cli: Cli, history: EventStore) -> None:
    now = cli("show", "build:1", "--json").json
    assert cli("show", "build:1", "--json", "--at", "8").json == now
    then = cli("show", "build:1", "--json", "--at", "3").json
    assert (then["version"], then["steps"][1]["status"]) == (3, "running")
    assert cli("show", "build:1", "--json", "--at", then["cursor"]).json == then
    assert cli("show", "build:1", "--json", "--at", "now").json == now
    assert "40.0 %" in cli("show", "build:1", "--at", "3").out
    assert "there was no job" in cli("show", "build:1", "--at", "2h", code=3).err
    assert "there was no job" in cli("show", "test:1", "--at", "7", code=3).err
    assert "(ahead)" in cli("show", "build:1", "--at", "99", code=1).err
    assert "(hash)" in cli("show", "build:1", "--at", "0001_0000000000000003_00000000", code=1).err


def test_show_can_ask_the_workers_clock(cli: Cli, store: EventStore) -> None:
    for minute, percent in enumerate((10, 20, 30)):
        moment = NOON + timedelta(minutes=minute)
        store.append("b", [NewEvent(type="job.progressed", data={"percent": percent}, occurred_at=moment)])
    assert cli("show", "b", "--json", "--at", "2026-01-31T12:01Z", "--occurred").json["percent"] == 20
    assert cli("jobs", "--json", "--at", "2026-01-31T12:00:30Z", "--occurred").json["percent"] == 10
    (change,) = [
        record
        for record in cli("diff", "b", "2026-01-31T12:00Z", "2026-01-31T12:02Z", "--occurred", "--json").records
        if record["field"] == "percent"
    ]
    assert (change["before"], change["after"]) == (10, 30)
    for command in (["show", "b"], ["jobs"]):
        assert "--occurred is about times" in cli(*command, "--at", "2", "--occurred", code=2).err


def test_jobs_are_listed_as_they_were(cli: Cli, history: EventStore) -> None:
    assert [job["job_id"] for job in cli("jobs", "--json", "--at", "8").records] == ["test:1", "build:1"]
    assert cli("jobs", "--json", "--at", "8").records == cli("jobs", "--json").records
    then = cli("jobs", "--json", "--at", "5").json
    assert (then["job_id"], then["status"], then["version"]) == ("build:1", "running", 5)
    assert cli("jobs", "--at", "0").err == "no jobs\n"
    assert cli("jobs", "--json", "--at", "8", "--status", "completed").out == ""
    assert [job["job_id"] for job in cli("jobs", "--json", "--at", "8", "--before", "8").records] == ["build:1"]
    assert [job["job_id"] for job in cli("jobs", "--json", "--at", "8", "-n", "1").records] == ["test:1"]
    assert [job["job_id"] for job in cli("jobs", "--json", "--at", "8", "--prefix", "b").records] == ["build:1"]


def test_diff_names_what_changed_and_from_what_to_what(cli: Cli, history: EventStore) -> None:
    out = cli("diff", "build:1", "3", "5").out
    rows = [line.split() for line in out.splitlines()]
    assert ["rejected", "0", "1"] in rows
    assert ["push", "status", "running", "retrying"] in rows
    assert ["error", "–", '{"message":"disk', 'FULL","type":"OSError"}'] in rows
    records = cli("diff", "build:1", "3", "5", "--json").records
    assert {"step": "push", "field": "status", "before": "running", "after": "retrying"} in records
    (error,) = [record for record in records if (record["step"], record["field"]) == ("push", "error")]
    assert error["after"] == {"message": "disk FULL", "type": "OSError"}
    assert cli("diff", "build:1", "5").out == cli("diff", "build:1", "5", "8").out
    assert cli("diff", "build:1", "2h", "now", "--json").out == cli("diff", "build:1", "0", "--json").out
    assert cli("diff", "build:1", "8", "8").err == "nothing changed\n"
    assert "there was no job" in cli("diff", "test:1", "1", "7", code=3).err
    assert "give a time" in cli("diff", "build:1", "soon", code=2).err


def test_curve_draws_the_percentage_and_gives_its_points(cli: Cli, store: EventStore, report: Report) -> None:
    for percent in (10, 10, 5, 60, 90):
        report("b", "job.progressed", percent=percent)
    records = cli("curve", "b", "--json").records
    assert [(record["position"], record["percent"]) for record in records] == [(1, 10), (4, 60), (5, 90)]
    said = cli("curve", "b")
    assert said.lines[0].startswith("100 % │")
    assert "10.0 % to 90.0 % in" in said.lines[-1]
    assert "there is no job" in cli("curve", "none", code=3).err


def test_the_chart_rises_with_the_points_and_never_falls() -> None:
    def at(second: int, percent: float) -> Point:
        moment = NOON + timedelta(seconds=second)
        return Point(position=second + 1, recorded_at=NOON, occurred_at=moment, percent=percent)

    lines = chart([at(0, 0), at(5, 50), at(10, 100)], 11, occurred=True)
    columns = [line[7:].ljust(11) for line in lines[:10]]
    heights = [sum(row[column] == "█" for row in columns) for column in range(11)]
    assert heights == [0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 10]
    assert len({len(line) for line in chart([at(0, 7)], 11, occurred=False)[10:11]}) == 1
    flat = chart([at(0, 7)], 11, occurred=False)
    assert sum("▅" in line for line in flat) == 1


# -- moments --------------------------------------------------------------------------------------------------------


@freeze_time("2026-01-31 12:00:00")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOON),
        ("90s", NOON - timedelta(seconds=90)),
        ("15m", NOON - timedelta(minutes=15)),
        ("2h", NOON - timedelta(hours=2)),
        ("3d", NOON - timedelta(days=3)),
        ("1w", NOON - timedelta(weeks=1)),
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31T13:00+01:00", NOON),
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
        ("2026-01-31 12:00", datetime(2026, 1, 31, 12).astimezone()),
    ],
)
def test_a_time_is_a_date_a_moment_or_how_long_ago(text: str, moment: datetime) -> None:
    parsed = parse_time(text)
    assert parsed == moment
    assert parsed.tzinfo is not None


@pytest.mark.parametrize(
    "text", ["", "soon", "5", "5x", "-5m", "12:00", "2026-13-01", "999999999w", "١٥m", "2026-01-31T"]
)
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="give a time as 2026-01-31"):
        parse_time(text)


# -- what somebody typed --------------------------------------------------------------------------------------------


def test_what_somebody_typed_does_not_act_on_the_terminal(cli: Cli, store: EventStore, report: Report) -> None:
    report("b", "job.planned", title=EVIL, kind="k", steps=[{"step": "s", "label": EVIL}])
    store.append("b", [NewEvent(type="step.started", step="s", actor="\u202eevil", data={"worker": EVIL})])
    report("b", "step.progressed", "s", percent=5, message=EVIL)
    error = {"message": EVIL, "type": EVIL, "stack": f"line 1\n{EVIL}\nline 3"}
    report("b", "step.failed", "s", error=error)
    for command in (
        ["audit"], ["audit", "--all"], ["audit", "attempts", "b", "s"], ["diff", "b", "0"], ["show", "b", "--at", "4"],
        ["jobs", "--at", "4"],
    ):  # fmt: skip
        said = cli(*command)
        assert SHOWN in said.out, command
        assert all(character.isprintable() or character == "\n" for character in said.out)
    assert r"by \u202eevil" in cli("audit").out
    assert json.loads(cli("audit", "--json", "--text", "\x1b[2J").lines[0])["data"]["title"] == EVIL
