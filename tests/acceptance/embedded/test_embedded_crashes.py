"""Embedded servers, starters and lock files that met a kill -9: what the next one finds."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis

from api import embedded
from api.embedded import janitor, postgres
from tests.support.embedded_users import (
    User,
    add,
    as_every_user,
    bystander,
    kill,
    pid_of,
    processes,
    rows,
    wait_until,
    works,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the checks read /proc")


@as_every_user
def test_a_killed_postgres_is_started_again_with_all_that_was_committed(
    folder: Path, user: Callable[..., User]
) -> None:
    first, second = user(folder), user(folder)
    said = first.ask("start")
    add(said["database_url"], 1)
    kill(pid_of(folder, "postgres"))
    assert first.ask("ensure_running") == said
    add(said["database_url"], 2)
    kill(pid_of(folder, "postgres"))
    assert second.ask("start") == said
    assert rows(said["database_url"]) == [1, 2]


@as_every_user
def test_a_killed_valkey_is_started_again_with_what_it_held(folder: Path, user: Callable[..., User]) -> None:
    first, second = user(folder), user(folder)
    said = first.ask("start", postgres=False)
    assert said["database_url"] == ""
    with redis.from_url(said["redis_url"]) as valkey:
        valkey.set("kept", 1)
    kill(pid_of(folder, "valkey"))
    assert first.ask("ensure_running") == said
    kill(pid_of(folder, "valkey"))
    assert second.ask("start", postgres=False) == said
    with redis.from_url(said["redis_url"]) as valkey:
        assert valkey.get("kept") == b"1"


@as_every_user
def test_a_stale_lock_file_that_names_a_living_process_does_not_stop_a_start(
    folder: Path, user: Callable[..., User]
) -> None:
    one = user(folder)
    said = one.ask("start")
    lines = (folder / "postgres" / "postmaster.pid").read_text().splitlines()
    one.ask("close")
    wait_until(lambda: not processes(folder))
    owner = (folder / "postgres").stat()
    with bystander(folder) as somebody:
        stale = folder / "postgres" / "postmaster.pid"
        stale.write_text("\n".join([str(somebody.pid), *lines[1:], ""]))
        os.chown(stale, owner.st_uid, owner.st_gid)
        assert one.ask("start") == said
        one.kill()
        wait_until(lambda: not processes(folder))
        assert somebody.poll() is None


def test_no_second_postgres_starts_beside_what_is_left_of_a_killed_one(
    fresh: Path, user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "SETTLE", 1.0)
    one = user(fresh)
    said = one.ask("start")
    add(said["database_url"], 1)
    with psycopg.connect(said["database_url"]) as connection:
        (left,) = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
        ).fetchone() or (0,)
    os.kill(left, signal.SIGSTOP)
    kill(pid_of(fresh, "postgres"))
    with pytest.raises(embedded.StartFailed, match=f"still run .pid {left}.") as refused:
        embedded.start(fresh)
    assert "End them and try again." in str(refused.value)
    os.kill(left, signal.SIGCONT)
    assert one.ask("ensure_running") == said
    assert rows(said["database_url"]) == [1]


def test_the_janitor_spares_a_process_that_only_has_the_number_of_a_server(
    folder: Path, user: Callable[..., User]
) -> None:
    one = user(folder)
    one.ask("start", postgres=False)
    with bystander(folder) as somebody:
        noted = json.loads((folder / "servers.json").read_text())
        noted["postgres"] = {"pid": somebody.pid, "started": "1"}
        (folder / "servers.json").write_text(json.dumps(noted))
        one.kill()
        wait_until(lambda: not processes(folder))
        assert somebody.poll() is None


def test_servers_of_a_removed_data_folder_stop_too(fresh: Path, user: Callable[..., User]) -> None:
    one = user(fresh)
    one.ask("start")
    shutil.rmtree(fresh)
    one.kill()
    wait_until(lambda: not processes(fresh))


def test_servers_that_another_container_uses_are_never_doubled(folder: Path, user: Callable[..., User]) -> None:
    here, there = user(folder), user(folder)
    here.ask("start")
    noted = json.loads((folder / "servers.json").read_text())
    (folder / "servers.json").write_text(json.dumps({**noted, "host": "another boot"}))
    assert there.ask("start") == here.ask("running")
    there.ask("close")
    os.kill(noted["valkey"]["pid"], 9)
    wait_until(lambda: not janitor.started_at(noted["valkey"]["pid"]))
    assert there.ask("start")["error"] == "UsedElsewhere"
    here.kill()
    wait_until(lambda: not processes(folder))
    assert works(there.ask("start")["database_url"])


@as_every_user
@pytest.mark.parametrize("moment", ["starting PostgreSQL", "starting Valkey"])
def test_a_starter_killed_on_the_way_leaves_no_orphan_and_the_next_one_starts(
    moment: str, folder: Path, user: Callable[..., User]
) -> None:
    assert user(folder).ask("start", die_at=moment) == "dead"
    wait_until(lambda: not processes(folder))
    assert works(user(folder).ask("start")["database_url"])


def test_a_starter_killed_while_it_makes_the_cluster_leaves_nothing_that_stops_the_next(
    fresh: Path, user: Callable[..., User]
) -> None:
    assert user(fresh).ask("start", die_at="initialising") == "dead"
    (fresh / "postgres.new-half").mkdir()
    assert works(user(fresh).ask("start")["database_url"])
    assert not list(fresh.glob("postgres.new-*"))
