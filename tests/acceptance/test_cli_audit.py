"""The installed audit commands as a shell runs them: pipes that close, Ctrl-C, terminals, long searches."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from eventstore.events import NewEvent
from eventstore.store import EventStore
from tests.acceptance.test_cli import EVIL, HEADWAY, environment, finished_job, on_a_terminal, started, store
from tests.support.million import fill

__all__ = ["started", "store"]

EVENTS = 60_000


@pytest.fixture
def long_log(store: EventStore, database_url: str) -> str:
    """A log that one request does not get through, beside the log `default`."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        fill(conn, "long", EVENTS)
    return "long"


@pytest.mark.parametrize("options", [["--all"], ["--all", "--json"], ["--json", "-n", "1000"]])
def test_a_reader_that_leaves_early_is_no_failure(long_log: str, database_url: str, options: list[str]) -> None:
    script = '"$@" | head -n 2; echo "${PIPESTATUS[0]}"'
    said = subprocess.run(
        ["bash", "-c", script, "bash", HEADWAY, "audit", "--log", long_log, *options],
        env=environment(DATABASE_URL=database_url), capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    lines = said.stdout.splitlines()
    assert (len(lines), lines[-1]) == (3, "0")
    assert said.stderr in ("", f"earlier ones: --before {EVENTS - 999}\n")


def test_a_stream_can_be_ended_by_ctrl_c(long_log: str, started: Callable[..., Any]) -> None:
    audit = started("audit", "--all", "--json", "--log", long_log)
    assert json.loads(audit.stdout.readline())["position"] == 1
    audit.send_signal(signal.SIGINT)
    _, err = audit.communicate(timeout=20)
    assert (audit.returncode, err.strip()) == (130, "")


def test_all_of_a_long_log_is_streamed(long_log: str, database_url: str) -> None:
    said = subprocess.run(
        [HEADWAY, "audit", "--log", long_log, "--all", "--json", "--rejected"],
        env=environment(DATABASE_URL=database_url), capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    assert [json.loads(line)["position"] for line in said.stdout.splitlines()] == list(range(20, EVENTS + 1, 20))


def test_a_long_search_shows_how_far_it_got_and_leaves_only_the_answer(long_log: str, database_url: str) -> None:
    code, written = on_a_terminal(
        100, 24, "audit", "--log", long_log, "--text", "message", DATABASE_URL=database_url
    )  # fmt: skip
    assert code == 0
    assert re.search(r"\d+/\d+", written)
    assert written.rstrip().endswith("nothing matches")


def test_a_long_search_is_ended_by_ctrl_c_and_the_terminal_is_as_before(long_log: str, database_url: str) -> None:
    ours, theirs = pty.openpty()
    search = subprocess.Popen(
        [HEADWAY, "audit", "--log", long_log, "--text", "message"], start_new_session=True,
        env=environment(TERM="xterm-256color", DATABASE_URL=database_url), stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    written, asked = b"", False
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 65_536):
            written += chunk
            if not asked and "━".encode() in written and search.poll() is None:
                asked = True  # once: a second one may come when Python has handed its handlers back
                search.send_signal(signal.SIGINT)
    os.close(ours)
    assert search.wait(20) == 130
    assert b"Traceback" not in written
    assert written.count(b"\x1b[?25l") == written.count(b"\x1b[?25h") == 1


COMMANDS = (
    ["audit"],
    ["audit", "--all"],
    ["audit", "--json"],
    ["audit", "attempts", "b", "s1"],
    ["diff", "b", "1"],
    ["diff", "b", "0", "--json"],
    ["curve", "b"],
    ["show", "b", "--at", "3"],
    ["jobs", "--at", "3"],
)


@pytest.mark.parametrize("columns", [30, 100])
def test_on_a_terminal_of_any_width_nothing_that_was_typed_acts_on_it(
    store: EventStore, database_url: str, columns: int
) -> None:
    finished_job(store)
    store.append("b", [NewEvent(type="job.noted", actor="\u202eme", data={"level": "info", "message": EVIL})])
    for command in COMMANDS:
        code, written = on_a_terminal(columns, 24, *command, DATABASE_URL=database_url)
        assert code == 0, (command, written)
        for sign in ("\x1b]52", "\x07", "\x1b[2J", "\x9b", "\u202e"):
            assert sign not in written, command


def test_a_chart_is_as_wide_as_the_terminal(store: EventStore, database_url: str) -> None:
    finished_job(store)
    for columns in (40, 70):
        _, written = on_a_terminal(columns, 24, "curve", "b", DATABASE_URL=database_url)
        axis = next(line for line in written.splitlines() if "└" in line)
        assert len(axis) == columns - 1
