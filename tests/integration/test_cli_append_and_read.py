"""The command line on a real database: append, tail, jobs, show, logs, verify, and what each says of wrong input."""

from __future__ import annotations

import json
import uuid

import psycopg
import pytest

from eventstore.schema import SCHEMA_VERSION
from eventstore.store import EventStore
from tests.support.cli import Cli, Report, reporter

PLAN = {
    "title": "项目初始化",
    "kind": "init",
    "steps": [{"step": "repo", "label": "创建仓库", "weight": 3}, {"step": "push", "label": "Push"}],
}
EVIL = "\x1b[2J\x1b]52;c;aGk=\x07\rok \u202egnp [red]"
SHOWN = r"\x1b[2J\x1b]52;c;aGk=\x07\x0dok \u202egnp [red]"


# -- append ---------------------------------------------------------------------------------------------------------


def test_an_event_from_a_shell_is_told_its_position_and_that_it_counted(cli: Cli) -> None:
    said = cli("append", "build:1", "job.planned", "--data", json.dumps(PLAN))
    assert said.out == "position 1, applied, job at 0.0 %\n"
    said = cli(
        "append", "build:1", "step.progressed", "--step", "repo", "--done", "2", "--total", "4", "--unit", "files"
    )
    assert said.out == "position 2, applied, job at 37.5 %\n"


def test_a_report_that_does_not_count_is_kept_and_is_no_failure(cli: Cli) -> None:
    cli("append", "b", "step.progressed", "--step", "s", "--percent", "40")
    said = cli("append", "b", "step.progressed", "--step", "s", "--percent", "30")
    assert said.out == "position 2, not applied (regression), job at 0.0 %\n"
    assert [event["applied"] for event in cli("tail", "--json").records] == [True, False]


def test_an_answer_as_json_has_what_the_wire_has(cli: Cli) -> None:
    said = cli("append", "b", "job.started", "--json").json
    assert set(said) == {"event_id", "position", "version", "applied", "reason", "percent", "duplicate", "cursor"}
    assert said["cursor"] == cli("tail", "--json").json["cursor"]


def test_the_same_event_id_twice_changes_nothing(cli: Cli) -> None:
    again = ("append", "b", "job.started", "--event-id", str(uuid.uuid4()))
    cli(*again)
    assert cli(*again).out == "position 1, applied, was there already, job at 0.0 %\n"
    assert len(cli("tail").lines) == 1


def test_an_event_id_with_another_content_is_refused(cli: Cli) -> None:
    one = str(uuid.uuid4())
    cli("append", "b", "job.started", "--event-id", one)
    assert "a new event a new id" in cli("append", "b", "job.completed", "--event-id", one, code=1).err


def test_an_expected_version_decides(cli: Cli) -> None:
    cli("append", "b", "job.started", "--expected", "no-job")
    cli("append", "b", "job.noted", "--data", '{"level": "info"}', "--message", "m", "--expected", "1")
    said = cli("append", "b", "job.completed", "--expected", "1", code=1)
    assert "is at version 2, expected 1" in said.err
    said = cli("append", "b", "job.completed", "--expected", "no-job", code=1)
    assert "is at version 2, expected no job" in said.err
    cli("append", "b", "job.completed", "--expected", "one", code=2)


def test_data_comes_from_a_file_or_from_standard_input(cli: Cli, tmp_path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN), encoding="utf-8")
    cli("append", "a", "job.planned", "--data", f"@{tmp_path / 'plan.json'}")
    cli("append", "b", "job.planned", "--data", "-", typed=json.dumps(PLAN).encode())
    assert [event["data"] for event in cli("tail", "--json").records] == [PLAN, PLAN]
    assert "No such file" in cli("append", "c", "job.planned", "--data", "@/nowhere", code=2).err


@pytest.mark.parametrize(
    "text", ["正在推送 … 100 %", "a 'quoted' \"text\"", "emoji 👩‍👩‍👧", "tab\tline\nbreak", EVIL, "\\x1b"]
)
def test_a_message_goes_through_byte_for_byte(cli: Cli, text: str) -> None:
    cli("append", "b", "step.started", "--step", "步骤 ✓", "--message", text)
    event = cli("tail", "--json").json
    assert (event["step"], event["data"]["message"]) == ("步骤 ✓", text)


@pytest.mark.parametrize(
    ("args", "field"),
    [
        (["a/b", "job.started"], "job_id"),
        (["../..", "job.started"], "job_id"),
        (["abc\n", "job.started"], "job_id"),
        (["'; drop table", "job.started"], "job_id"),
        (["é", "job.started"], "job_id"),
        (["x" * 9_616, "job.started"], "job_id"),
        (["b", "job.begun"], "type"),
        (["b", "step.started"], "step"),
        (["b", "step.started", "--step", " x"], "step"),
        (["b", "step.started", "--step", "x\x1b"], "step"),
        (["b", "step.started", "--step", "\udcff"], "step"),
        (["b", "step.progressed", "--step", "s", "--percent", "101"], "data.percent"),
        (["b", "step.progressed", "--step", "s", "--percent", "nan"], "data.percent"),
        (["b", "step.progressed", "--step", "s", "--percent", "-1"], "data.percent"),
        (["b", "step.progressed", "--step", "s", "--done", "-1"], "data.done"),
        (["b", "step.progressed", "--step", "s"], "data.percent"),
        (["b", "step.started", "--step", "s", "--attempt", "0"], "attempt"),
        (["b", "step.started", "--step", "s", "--message", "ä" * 5_000], "data.message"),
        (["b", "step.failed", "--step", "s"], "data.error"),
    ],
)
def test_wrong_input_is_refused_by_field_with_what_was_given_and_nothing_is_written(
    cli: Cli, store: EventStore, args: list[str], field: str
) -> None:
    said = cli("append", *args, code=2)
    assert said.err.startswith(f"headway: {field}: ")
    assert "; given " in said.err
    assert len(said.err) < 500
    assert all(character.isprintable() or character == "\n" for character in said.err)
    assert store.head().position == 0


@pytest.mark.parametrize(
    "args",
    [
        ["b"],
        ["b", "job.started", "--percent", "much"],
        ["b", "job.started", "--event-id", "1"],
        ["b", "job.started", "--data", "{"],
        ["b", "job.started", "--data", "[1]"],
        ["b", "job.started", "--data", '{"percent": NaN}'],
        ["b", "job.started", "--message", "m", "--data", '{"message": "n"}'],
        ["b", "job.started", "--nonsense"],
    ],
)
def test_wrong_usage_ends_with_2_and_says_where_help_is(cli: Cli, args: list[str]) -> None:
    assert "Try 'headway append --help' for help." in cli("append", *args, code=2).err


# -- tail -----------------------------------------------------------------------------------------------------------


def test_tail_goes_on_from_any_cursor(cli: Cli, report: Report) -> None:
    for number in range(5):
        report("b", "step.progressed", "s", percent=number)
    every = cli("tail", "--json").records
    assert [event["position"] for event in every] == [1, 2, 3, 4, 5]
    for event in every:
        for cursor in (event["cursor"], str(event["position"])):
            assert cli("tail", "--json", "--after", cursor).records == every[event["position"] :]
    assert cli("tail", "--json", "--after", "-1").records == every
    assert cli("tail", "--after", "now").out == ""
    assert cli("tail", "--json", "-n", "2").records == every[3:]


@pytest.mark.parametrize("cursor", ["abc", "1e3", "+5", " 5", "-2", "9007199254740993", "0001_1_x", "1\n"])
def test_garbage_is_no_cursor(cli: Cli, cursor: str) -> None:
    assert cli("tail", "--after", cursor, code=2).err.startswith("headway: cursor: ")


def test_a_cursor_ahead_of_the_log_is_told_and_not_waited_for(cli: Cli, report: Report) -> None:
    report("b", "job.started")
    assert "(ahead); go on from 0001_0000000000000001_" in cli("tail", "--after", "7", "--follow", code=1).err


def test_tail_shows_the_jobs_that_are_asked_for(cli: Cli, report: Report) -> None:
    for job in ("build:1", "test:1", "build:2", "x"):
        report(job, "job.started")
        report(job, "job.completed")

    def jobs(*wanted: str) -> list[str]:
        args = [word for name in wanted for word in ("--job", name)]
        return [event["job_id"] for event in cli("tail", "--json", *args).records]

    assert jobs("build:1") == ["build:1"] * 2
    assert jobs("x", "test:1") == ["test:1"] * 2 + ["x"] * 2
    assert jobs("build:*", "x") == ["build:1"] * 2 + ["build:2"] * 2 + ["x"] * 2
    assert jobs("none") == []
    cli("tail", "--job", "a/b", code=2)


def test_what_somebody_typed_does_not_act_on_the_terminal(cli: Cli, report: Report) -> None:
    report("b", "job.planned", title=EVIL, kind="k", steps=[{"step": "s", "label": EVIL}])
    report("b", "step.started", "s", message=EVIL)
    report("b", "step.failed", "s", error={"message": EVIL, "type": EVIL, "stack": f"line 1\n{EVIL}\nline 3"})
    report("b", "job.failed", error={"message": EVIL})
    for command in (["tail"], ["show", "b"], ["jobs"], ["watch", "b"]):
        said = cli(*command, code=1 if command[0] == "watch" else 0)
        assert SHOWN in said.out
        assert all(character.isprintable() or character == "\n" for character in said.out)


# -- jobs and show --------------------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_and_filtered(cli: Cli, report: Report) -> None:
    report("build:1", "job.planned", **PLAN)
    report("build:1", "step.completed", "repo")
    report("build:2", "job.failed", error={"message": "no"})
    report("x", "job.started")

    def ids(*args: str) -> list[str]:
        return [job["job_id"] for job in cli("jobs", "--json", *args).records]

    assert ids() == ["x", "build:2", "build:1"]
    assert ids("--status", "failed") == ["build:2"]
    assert ids("--kind", "init") == ids("--prefix", "build:1") == ["build:1"]
    assert ids("--limit", "2") == ["x", "build:2"]
    last = cli("jobs", "--json", "--limit", "2").records[-1]["first_position"]
    assert ids("--before", str(last)) == ["build:1"]
    table = cli("jobs", "--prefix", "build:1").lines
    assert table[0].split() == ["JOB", "STATUS", "STEPS", "AGE", "TITLE"]
    assert table[1].startswith("build:1  ▸ running  ███████░░░   75.0 %    1/2")
    assert table[1].endswith("项目初始化")
    cli("jobs", "--status", "done", code=2)


def test_an_empty_list_of_jobs_says_so_beside_the_output(cli: Cli) -> None:
    said = cli("jobs")
    assert (said.out, said.err) == ("", "no jobs\n")


def test_show_has_steps_attempts_and_errors_with_stacks(cli: Cli, report: Report) -> None:
    report("b", "job.planned", **PLAN)
    report("b", "step.failed", "repo", error={"type": "GitError", "message": "gone", "stack": "line 1\n  line 2"})
    report("b", "step.started", "repo")
    report("b", "step.progressed", "repo", done=1, total=4, unit="files", message="正在")
    said = cli("show", "b")
    assert "创建仓库, attempt 1: GitError: gone\nline 1\n  line 2\n" in said.out
    assert "1/4 files  正在" in said.out
    snapshot = cli("show", "b", "--json").json
    assert [step["step"] for step in snapshot["steps"]] == ["repo", "push"]
    assert [attempt["status"] for attempt in snapshot["steps"][0]["attempts"]] == ["failed", "running"]
    assert snapshot["cursor"] == cli("tail", "--json", "-n", "1").json["cursor"]


def test_wide_characters_keep_the_columns_straight(cli: Cli, report: Report) -> None:
    from rich.cells import cell_len

    report("b", "job.planned", **PLAN)
    lines = [line for line in cli("show", "b").lines if "pending" in line and "%" in line][-2:]
    assert len({cell_len(line.partition("·")[0]) for line in lines}) == 1


def test_what_is_not_there_ends_with_3(cli: Cli, log: str) -> None:
    assert (
        cli("show", "nobody", code=3).err
        == f"headway: there is no job 'nobody' in the log {log}; `headway jobs` lists them\n"
    )
    assert "--wait waits for it" in cli("watch", "nobody", code=3).err
    for command in (["tail"], ["jobs"], ["show", "b"], ["verify"], ["append", "b", "job.started"]):
        assert "headway logs create" in cli(*command, "--log", "none", code=3).err
    cli("show", "a/b", code=2)


# -- logs and verify ------------------------------------------------------------------------------------------------


def test_logs_are_created_once_and_are_apart(own: EventStore, database_url: str) -> None:
    cli = Cli(DATABASE_URL=database_url)
    assert cli("logs", "create", "eu").out == "created the log eu\n"
    assert cli("logs", "create", "eu").out == "the log eu is there already\n"
    assert cli("logs", "create", "Eu", code=2).err.startswith("headway: log: ")
    cli("append", "b", "job.started", "--log", "eu")
    cli("--log", "eu", "append", "b", "job.completed")
    cli("append", "b", "job.cancelled", HEADWAY_LOG="eu")
    assert [(log["name"], log["events"]) for log in cli("logs", "list", "--json").json] == [("default", 0), ("eu", 3)]
    assert cli("logs", "list").lines[0].split() == ["LOG", "EVENTS", "EPOCH", "CURSOR"]
    assert "--log" in cli("tail", "--log", "É", code=2).err


def test_verify_says_how_much_is_what_was_appended(cli: Cli, report: Report) -> None:
    cursors = [report("b", "step.progressed", "s", percent=number).cursor for number in range(3)]
    assert cli("verify").out.startswith(f"3 events are what was appended, up to {cursors[-1]} (")
    assert cli("verify", "--json", "--after", cursors[0]).json | {"seconds": 0} == {
        "ok": True, "events": 2, "cursor": cursors[-1], "seconds": 0,
    }  # fmt: skip


def test_verify_names_the_first_bad_position_and_ends_with_1(own: EventStore, database_url: str) -> None:
    cli, report = Cli(DATABASE_URL=database_url), reporter(own)
    cursors = [report("b", "step.progressed", "s", percent=number).cursor for number in range(4)]
    with psycopg.connect(database_url) as conn:
        conn.execute("ALTER TABLE events DISABLE TRIGGER USER")
        conn.execute("""UPDATE events SET data = '{"percent":99}' WHERE position = 2""")
        conn.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER events_immutable")
    assert cli("verify", code=1).err.startswith("position 2: ")
    assert cli("verify", "--json", code=1).json["position"] == 2
    wrong = cursors[2][:-8] + "00000000"
    assert "is not on this log's history (hash)" in cli("verify", "--after", wrong, code=1).err


# -- servers that are away, tables that are old ----------------------------------------------------------------------


def test_a_server_that_is_away_ends_with_4_and_no_password_is_told() -> None:
    away = Cli(DATABASE_URL="postgresql://u:s3cret@127.0.0.1:1/d")
    for command in (["tail"], ["jobs"], ["append", "b", "job.started"], ["verify"], ["migrate"], ["logs", "list"]):
        said = away(*command, code=4)
        assert "PostgreSQL can't be reached" in said.err
        assert "s3cret" not in said.err


def test_a_database_without_tables_is_told_what_to_do_then_migrates_and_works(empty_database_url: str) -> None:
    cli = Cli(DATABASE_URL=empty_database_url)
    assert cli("tail", code=4).err == "headway: the database has no tables of Headway yet: run `headway migrate`\n"
    assert cli("migrate").out == f"schema none → {SCHEMA_VERSION}\ncreated the log default\n"
    assert cli("migrate").out == f"schema {SCHEMA_VERSION}, nothing to do\n"
    again = {"before": SCHEMA_VERSION, "after": SCHEMA_VERSION, "created_log": False, "row_security": True}
    assert cli("migrate", "--json").json == again
    cli("append", "b", "job.started")


def test_tables_of_a_newer_version_are_told_apart(database_url: str) -> None:
    cli = Cli(DATABASE_URL=database_url)
    with psycopg.connect(database_url) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "upgrade this program" in cli("tail", code=4).err


def test_a_wrong_variable_ends_with_2_by_name() -> None:
    assert Cli(DATABASE_URL="mysql://h")("tail", code=2).err.startswith("headway: DATABASE_URL: ")
    assert Cli(DATABASE_URL="postgresql://h", HEADWAY_POOL_SIZE="0")("jobs", code=2).err.startswith(
        "headway: HEADWAY_POOL"
    )


def test_a_relay_without_redis_says_which_variable_to_set(cli: Cli) -> None:
    assert "set REDIS_URL" in cli("relay", code=2).err
