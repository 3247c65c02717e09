"""How the store reaches PostgreSQL: the URL's own options, hostile defaults, poolers, sessions that are killed."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from eventstore.connections import Database
from eventstore.errors import StoreUnavailable
from eventstore.events import NewEvent
from eventstore.store import EventStore
from eventstore.verify import verify
from tests.support.sessions import Watcher


def noted(message: str = "x", **fields: Any) -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message}, **fields)


@pytest.fixture
def store(shared_database: str) -> Iterator[EventStore]:
    with EventStore(shared_database, log=f"log-{uuid.uuid4().hex[:12]}", pool_size=2) as store:
        store.create_log()
        yield store


def test_the_urls_own_options_are_kept(database_url):
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA elsewhere")
    url = psycopg.conninfo.make_conninfo(database_url, options="-c search_path=elsewhere -c statement_timeout=77s")
    with EventStore(url) as store, store.database.session() as conn:
        assert conn.execute("SHOW search_path").fetchone() == ("elsewhere",)
        assert conn.execute("SHOW statement_timeout").fetchone() == ("77s",)
        assert conn.execute("SHOW default_transaction_isolation").fetchone() == ("read committed",)


@pytest.mark.parametrize("pgbouncer", [False, True])
def test_hostile_defaults_of_a_database_change_nothing(database_url, pgbouncer):
    """As behind a transaction pooler, where a session's own settings can't be relied upon."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        name = conn.info.dbname
        for setting in (
            "default_transaction_isolation = 'serializable'", "synchronous_commit = off", "lock_timeout = '1ms'",
            "DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Shanghai'", "bytea_output = 'escape'",
            "IntervalStyle = 'sql_standard'",
            "extra_float_digits = 0", "plan_cache_mode = 'force_custom_plan'", "default_transaction_deferrable = on",
        ):  # fmt: skip
            conn.execute(f'ALTER DATABASE "{name}" SET {setting}')  # type: ignore[arg-type]
    stores = [EventStore(database_url, pool_size=2, pgbouncer=pgbouncer) for _ in range(2)]
    stores[0].create_log()
    event = noted("正在", event_id=uuid.uuid4())

    def write(store: EventStore, name: str) -> None:
        for n in range(15):
            assert store.append(name, [noted(str(n))])[0].version == n + 1

    threads = [threading.Thread(target=write, args=(store, f"job-{n}")) for n, store in enumerate(stores * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = stores[0].append("last", [event])[0]
    assert stores[1].append("last", [event])[0].position == first.position == 61
    assert [e.position for page in stores[0].replay(page=10) for e in page] == list(range(1, 62))
    assert stores[0].read_log(60)[0].data["message"] == "正在"
    assert abs(stores[0].read_log(60)[0].recorded_us - stores[0].head().now_us) < 60_000_000
    assert verify(stores[0]).events == 61
    for store in stores:
        store.close()


def test_a_read_only_database_is_unavailable_and_says_why(database_url):
    with EventStore(database_url, pool_size=1) as store:
        store.create_log()
        with psycopg.connect(database_url, autocommit=True) as conn:
            conn.execute(f'ALTER DATABASE "{conn.info.dbname}" SET default_transaction_read_only = on')  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable, match="read-only"):
            store.append("a", [noted()])


def test_killed_sessions_are_replaced_by_the_pool(store, shared_database):
    watcher = Watcher(shared_database)
    store.append("a", [noted()])
    assert store.head().position == 1
    for n in range(2, 5):
        assert watcher.kill_writers() >= 2
        assert store.head().position == n - 1
        assert store.append("a", [noted()])[0].position == n
    watcher.close()


def test_a_replay_whose_session_is_killed_is_unavailable_and_the_next_one_works(store, shared_database):
    watcher = Watcher(shared_database)
    for _ in range(3):
        store.append_many([(f"job-{n}", noted("x" * 2_000)) for n in range(1_000)])
    replay = store.replay(page=50)
    next(replay)
    assert watcher.kill_writers()
    with pytest.raises(StoreUnavailable):
        list(replay)
    assert sum(map(len, store.replay())) == 3_000
    watcher.close()


def test_no_error_shows_the_password():
    with EventStore("postgresql://somebody:hunter2@127.0.0.1:1/none", log="default") as store:
        for action in (store.head, store.logs, store.create_log, lambda: verify(store)):
            with pytest.raises(StoreUnavailable) as caught:
                action()
            assert "hunter2" not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"
            assert caught.value.retryable


def test_threads_that_start_together_share_one_pool(shared_database):
    for _ in range(20):
        database = Database(shared_database)
        gate = threading.Barrier(8)
        engines = []

        def first_use(
            database: Database = database, gate: threading.Barrier = gate, engines: list[Any] = engines
        ) -> None:
            gate.wait()
            engines.append(database.engine)

        threads = [threading.Thread(target=first_use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, engines))) == 1
