"""Embedded servers as processes see them: adopted, kept, and gone when the last user is gone, however it went."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from api.embedded import janitor
from tests.support.embedded_users import (
    User,
    add,
    as_every_user,
    kill,
    pid_of,
    processes,
    rows,
    wait_until,
    works,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the checks read /proc")


@as_every_user
def test_a_second_process_adopts_the_servers_and_they_end_with_the_last(
    folder: Path, user: Callable[..., User]
) -> None:
    first, second = user(folder), user(folder)
    said = first.ask("start")
    noted = json.loads((folder / "servers.json").read_text())
    add(said["database_url"], 1)
    assert second.ask("start") == said
    assert json.loads((folder / "servers.json").read_text()) == noted
    first.ask("close")
    assert rows(said["database_url"]) == [1]
    second.ask("close")
    wait_until(lambda: not processes(folder))
    assert second.ask("running") is None
    assert rows(first.ask("start")["database_url"]) == [1]
    assert pid_of(folder, "postgres") != noted["postgres"]["pid"]


@as_every_user
def test_a_killed_user_leaves_no_orphan_and_takes_nothing_from_the_others(
    folder: Path, user: Callable[..., User]
) -> None:
    first, second = user(folder), user(folder)
    said = first.ask("start")
    second.ask("start")
    first.kill()
    assert second.ask("ensure_running") == said
    add(said["database_url"], 1)
    second.kill()
    wait_until(lambda: not processes(folder))


@as_every_user
def test_a_killed_janitor_is_replaced_by_who_starts_next(folder: Path, user: Callable[..., User]) -> None:
    first, second = user(folder), user(folder)
    first.ask("start")
    killed = pid_of(folder, "janitor")
    kill(killed)
    first.kill()
    assert len(processes(folder)) > 1
    second.ask("start")
    assert pid_of(folder, "janitor") != killed
    second.kill()
    wait_until(lambda: not processes(folder))


def test_a_killed_janitor_is_replaced_by_who_closes(folder: Path, user: Callable[..., User]) -> None:
    only = user(folder)
    only.ask("start")
    kill(pid_of(folder, "janitor"))
    only.ask("close")
    wait_until(lambda: not processes(folder))


def test_starters_at_once_end_with_one_server(folder: Path, user: Callable[..., User]) -> None:
    users = [user(folder) for _ in range(4)]
    for one in users:
        one.tell("start")
    answers = [one.answer() for one in users]
    assert [answer == answers[0] for answer in answers] == [True] * 4
    working, unseen = janitor.workers(str(folder / "postgres"), ("postgres",))
    servers = {worker.pid for worker in working if worker.parent not in {other.pid for other in working}}
    assert (servers, unseen) == ({pid_of(folder, "postgres")}, False)
    assert sum("janitor.py watch" in command for command in processes(folder).values()) == 1


@as_every_user
def test_up_keeps_the_servers_until_down(folder: Path, user: Callable[..., User]) -> None:
    one = user(folder)
    assert one.ask("down") is False
    said = one.ask("up")
    one.kill()
    other = user(folder)
    assert other.ask("up") == other.ask("running") == said
    wait_until(lambda: sum("janitor.py keep" in command for command in processes(folder).values()) == 1)
    assert other.ask("down") is True
    assert other.ask("running") is None
    assert other.ask("down") is False
    wait_until(lambda: not processes(folder))


def test_down_tells_who_still_uses_the_servers(folder: Path, user: Callable[..., User]) -> None:
    one, other = user(folder), user(folder)
    said = one.ask("up")
    other.ask("start")
    refused = one.ask("down")
    assert refused["error"] == "StillInUse"
    assert f"1 other process still uses them (pid {other.process.pid})" in refused["text"]
    assert works(said["database_url"])
    assert one.ask("down") is False
    other.kill()
    wait_until(lambda: not processes(folder))


def test_down_ends_what_a_killed_janitor_left(folder: Path, user: Callable[..., User]) -> None:
    first, second = user(folder), user(folder)
    first.ask("start")
    kill(pid_of(folder, "janitor"))
    first.kill()
    assert second.ask("down") is True
    assert second.ask("running") is None


def test_a_forked_child_goes_on_using_the_servers_and_a_started_program_does_not(
    folder: Path, user: Callable[..., User]
) -> None:
    parent = user(folder)
    parent.ask("start")
    child = parent.ask("fork")
    program = parent.ask("spawn")
    parent.ask("close")
    parent.kill()
    add(user(folder).ask("running")["database_url"], 1)
    kill(child)
    wait_until(lambda: not processes(folder))
    kill(program)
