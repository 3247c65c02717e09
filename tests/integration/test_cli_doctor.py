"""`doctor` on real servers that are ill in one way each: it names what is wrong and what to do."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import redis

from eventstore import lease
from eventstore.store import EventStore
from tests.conftest import with_database
from tests.support.cli import Cli, reporter
from tests.support.servers import embedded_servers


def findings(cli: Cli, *args: str, code: int = 0, **environ: str) -> dict[str, dict[str, Any]]:
    """What doctor found by name of the check. `code` 1: something is wrong."""
    told = cli("doctor", "--json", *args, code=code, **environ).json
    assert told["ok"] is (code == 0)
    for finding in told["findings"]:
        assert finding["level"] == "ok" or finding["advice"], finding
    return {finding["check"]: finding for finding in told["findings"]}


def level(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: finding["level"] for name, finding in found.items() if finding["level"] != "ok"}


@pytest.fixture
def doctored(own: EventStore, database_url: str) -> Cli:
    return Cli(DATABASE_URL=database_url)


def test_a_sound_set_up_has_nothing_wrong_and_warns_of_what_is_missing(doctored: Cli) -> None:
    found = findings(doctored)
    assert level(found) == {"relay": "warn", "redis": "warn"}
    assert found["relay"]["advice"] == "headway relay"
    looked_at = {"version", "fsync", "full_page_writes", "synchronous_commit", "encoding", "ctype", "clock", "schema"}
    assert looked_at | {"guards", "long transactions", "connections", "log"} <= set(found)


def test_people_get_a_mark_a_text_and_an_advice(doctored: Cli) -> None:
    said = doctored("doctor").out
    assert "✓ fsync " in said
    assert "! relay " in said
    assert "→ headway relay" in said
    assert said.endswith("0 wrong, 2 to look at\n")


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    said = Cli(DATABASE_URL="postgresql://u:s3cret@127.0.0.1:1/d", REDIS_URL="redis://:s3cret@127.0.0.1:1/0")
    found = findings(said, code=1)
    assert level(found) == {"postgresql": "bad", "redis": "bad"}
    assert "s3cret" not in str(found)
    assert "postgresql://u:***@127.0.0.1:1/d" in found["postgresql"]["text"]


def test_a_variable_that_is_wrong_or_unknown_is_named(doctored: Cli) -> None:
    assert findings(doctored, code=1, HEADWAY_LOG="Ä")["settings"]["text"].startswith("HEADWAY_LOG: ")
    found = findings(doctored, HEADWAY_POOLSIZE="3")
    assert "HEADWAY_POOLSIZE" in found["settings"]["text"]


def test_tables_that_are_missing_or_newer_are_told_apart(empty_database_url: str) -> None:
    cli = Cli(DATABASE_URL=empty_database_url)
    assert findings(cli, code=1)["schema"]["advice"] == "headway migrate"
    cli("migrate")
    assert "schema" not in level(findings(cli))
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "upgrade this program" in findings(cli, code=1)["schema"]["advice"]


def test_a_log_that_was_never_created_is_told(doctored: Cli) -> None:
    assert findings(doctored, "--log", "eu", code=1)["log"]["advice"] == "headway logs create eu"


def test_a_log_that_folds_otherwise_is_told(doctored: Cli, database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        conn.execute("UPDATE logs SET fold_version = 99")
    assert level(findings(doctored, code=1))["fold"] == "bad"


@pytest.mark.parametrize(
    "breach",
    ["ALTER TABLE events DISABLE TRIGGER events_immutable", "ALTER TABLE events ENABLE TRIGGER events_not_truncated",
     "DROP TRIGGER events_immutable ON events"],
)  # fmt: skip
def test_a_guard_of_the_history_that_is_off_is_wrong(doctored: Cli, database_url: str, breach: str) -> None:
    with psycopg.connect(database_url) as conn:
        conn.execute(breach.encode())
    assert level(findings(doctored, code=1))["guards"] == "bad"


def test_a_long_transaction_is_named_with_its_process(
    doctored: Cli, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.cli.checks.LONG_IDLE", 0)
    with psycopg.connect(database_url, application_name="sleepy\x1bone") as idle:
        idle.execute("SELECT 1")
        pid = idle.info.backend_pid
        found = findings(doctored)["long transactions"]
    assert found["level"] == "warn"
    assert f"pid {pid} (sleepy" in found["text"]
    assert f"pg_terminate_backend({pid})" in found["advice"]


def test_the_clocks_are_compared(doctored: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from api.cli import checks

    class Late:
        time = staticmethod(lambda: time.time() - 90)

    monkeypatch.setattr(checks, "time", Late)
    found = findings(doctored)["clock"]
    assert (found["level"], found["text"]) == ("warn", "the database's clock is 1m 30s ahead of this machine's")


@contextmanager
def made(url: str, options: str) -> Iterator[str]:
    name = f"headway_odd_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 {options}'.encode())
        yield with_database(url, name)
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def test_an_encoding_that_cannot_hold_every_language_is_wrong(servers: tuple[str, str]) -> None:
    with made(servers[0], "ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'") as url:
        found = findings(Cli(DATABASE_URL=url), code=1)
    assert level(found)["encoding"] == "bad"


def test_ctype_c_is_warned_of(servers: tuple[str, str]) -> None:
    with made(servers[0], "ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C'") as url:
        found = findings(Cli(DATABASE_URL=url), code=1)
    assert level(found) == {"ctype": "warn", "schema": "bad", "redis": "warn"}


def test_a_server_that_may_lose_what_it_acknowledged_is_wrong() -> None:
    off = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    with embedded_servers(valkey=False, options=off) as odd:
        cli = Cli(DATABASE_URL=odd.database_url)
        cli("migrate")
        found = findings(cli, code=1)
        assert level(found) == {"fsync": "bad", "full_page_writes": "bad", "relay": "warn", "redis": "warn"}
        assert "each append sets it on for itself" in found["synchronous_commit"]["text"]
        assert "turn it on" in cli("append", "b", "job.started", code=4).err
        cli("append", "b", "job.started", HEADWAY_ALLOW_UNSAFE="1")


def test_a_relay_is_shown_with_how_far_it_is(own: EventStore, doctored: Cli) -> None:
    report = reporter(own)
    with own.database.session() as conn:
        lease.acquire(conn, own.log_id(), "relay:redis-streams", "host:1:x\x1b", seconds=60)
    report("b", "job.started")
    found = findings(doctored)["relay"]
    assert found["level"] == "ok"
    assert found["text"] == r"relay:redis-streams at 0, 1 behind, led by host:1:x\x1b"


@contextmanager
def configured(url: str, name: str, value: str) -> Iterator[None]:
    with redis.from_url(url, decode_responses=True) as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        try:
            yield
        finally:
            client.config_set(name, before)


@pytest.mark.parametrize(("policy", "expected"), [("allkeys-lru", "bad"), ("volatile-ttl", "ok"), ("noeviction", "ok")])
def test_a_redis_that_may_drop_a_stream_is_wrong(doctored: Cli, redis_url: str, policy: str, expected: str) -> None:
    with configured(redis_url, "maxmemory-policy", policy):
        found = findings(doctored, code=expected == "bad", REDIS_URL=redis_url)
    assert found["eviction"]["level"] == expected
    assert found["redis version"]["text"].startswith(("Valkey ", "Redis "))


def test_a_redis_that_is_nearly_full_is_warned_of(doctored: Cli, redis_url: str) -> None:
    with configured(redis_url, "maxmemory", "1100000"):
        assert findings(doctored, REDIS_URL=redis_url)["redis memory"]["level"] == "warn"
