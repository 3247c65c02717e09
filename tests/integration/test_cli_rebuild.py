"""`rebuild`: read models made anew, reported as a job, refused when they differ."""

from __future__ import annotations

import psycopg

from eventstore.store import EventStore
from tests.support.cli import Cli, Report
from tests.support.step_table import rows


def test_a_rebuild_keeps_the_step_table_and_reports_itself_as_a_job(
    cli: Cli, report: Report, store: EventStore
) -> None:
    for percent in (10, 20, 15):
        report("b", "step.progressed", "推送", percent=percent)
    before = [row for row in rows(store.database.url)["steps"] if "推送" in row[0]]
    said = cli("rebuild", "--verify", "--json").json
    assert (said["ok"], said["name"], said["verified"]) == (True, "progress", True)
    assert [row for row in rows(store.database.url)["steps"] if "推送" in row[0]] == before
    (job,) = [job for job in cli("jobs", "--json").records if job["job_id"].startswith("headway.rebuild:")]
    assert (job["status"], job["percent"], job["steps_done"]) == ("completed", 100, 1)
    assert cli("rebuild", "--rollback").out.startswith("progress rolled back")


def test_a_difference_ends_with_1_names_the_row_and_leaves_it(cli: Cli, report: Report, store: EventStore) -> None:
    report("b", "step.progressed", "a", percent=10)
    with psycopg.connect(store.database.url, autocommit=True) as conn:
        conn.execute("UPDATE steps SET message = E'edited \\x1b[2J' WHERE step = 'a'")
    said = cli("rebuild", "--verify", code=1)
    assert "steps b · a" in said.err
    assert "\x1b[2J" not in said.err
    found = cli("rebuild", "--verify", "--json", code=1).json
    assert [difference["table"] for difference in found["differences"]] == ["steps"]
    cli("rebuild", "--discard")
    cli("rebuild")
    assert "edited" not in str(rows(store.database.url)["steps"])


def test_a_name_that_nobody_brings_ends_with_3(cli: Cli, store: EventStore) -> None:
    assert "there is no projection 'nope'" in cli("rebuild", "nope", code=3).err
