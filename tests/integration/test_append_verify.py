"""A rewritten history is found, and its first bad position named. The guards refuse it in the first place."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from eventstore import chain
from eventstore import verify as verifying
from eventstore.errors import ChainBroken, NoSuchLog, StoreUnavailable
from eventstore.events import NewEvent
from eventstore.store import EventStore
from eventstore.verify import verify
from tests.unit.test_chain import second_leaf

EVENTS = 120


@pytest.fixture(scope="module")
def history(shared_database: str) -> Iterator[EventStore]:
    """A log of 120 events of 7 jobs, with all columns in use, between two other logs."""
    with EventStore(shared_database, log="tampered", pool_size=2) as store:
        for name in ("before", "tampered", "after"):
            store.create_log(name)
        for turn in range(12):
            for log in ("before", "tampered", "after"):
                store.for_log(log).append_many([(f"job:{n % 7}", event(turn * 10 + n)) for n in range(10)])
        with psycopg.connect(shared_database, autocommit=True) as conn:
            conn.execute("ALTER TABLE events DISABLE TRIGGER USER")
            conn.execute("CREATE TABLE kept_events AS SELECT * FROM events")
            conn.execute("CREATE TABLE kept_logs AS SELECT * FROM logs")
        yield store


def event(n: int) -> NewEvent:
    if n % 3 == 0:
        return NewEvent(type="job.noted", data={"message": f"正在 {n}"})
    return NewEvent(
        type="step.progressed", step=f"推送 {n % 4}", attempt=1 + n % 2, seq=n, data={"percent": n / 4}, actor="w"
    )


@pytest.fixture
def conn(history: EventStore, shared_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection with the guards down; what it did is undone after the test."""
    with psycopg.connect(shared_database, autocommit=True) as conn:
        yield conn
        restore(conn)


def restore(conn: psycopg.Connection[Any]) -> None:
    with conn.transaction():
        conn.execute("DELETE FROM events")
        conn.execute("INSERT INTO events SELECT * FROM kept_events")
        conn.execute("UPDATE logs SET (name, head, head_hash) = (k.name, k.head, k.head_hash) FROM kept_logs k"
                     " WHERE k.log_id = logs.log_id")  # fmt: skip


def log_id(history: EventStore) -> int:
    return history.log_id()


def broken(store: EventStore, position: int, what: str, **options: Any) -> None:
    with pytest.raises(ChainBroken) as caught:
        verify(store, **options)
    assert caught.value.position == position, str(caught.value)
    assert re.search(what, caught.value.what), str(caught.value)


def test_a_history_that_nobody_touched_verifies(history):
    told: list[tuple[int, int]] = []
    verified = verify(history, progress=lambda done, total: told.append((done, total)))
    assert verified.events == EVENTS
    assert verified.head.position == EVENTS
    assert verified.head.hash == history.head().hash
    assert verified.seconds > 0
    assert told == [(EVENTS, EVENTS)]


def test_it_verifies_page_by_page_and_from_any_position(history, monkeypatch):
    monkeypatch.setattr(verifying, "PAGE", 7)
    told: list[int] = []
    assert verify(history, progress=lambda done, total: told.append(done)).events == EVENTS
    assert told == [*range(7, EVENTS, 7), EVENTS]
    for after in (1, 6, 7, 8, EVENTS - 1, EVENTS):
        assert verify(history, after=after).events == EVENTS - after


def test_an_empty_log_verifies_and_a_missing_one_is_named(history):
    history.create_log("empty")
    assert verify(history.for_log("empty")).events == 0
    with pytest.raises(NoSuchLog):
        verify(history.for_log("never-made"))


def test_a_server_that_is_away_is_unavailable():
    with pytest.raises(StoreUnavailable):
        verify(EventStore("postgresql://nobody@127.0.0.1:1/none"))


def test_the_stored_hashes_are_those_of_the_design(history, shared_database):
    with psycopg.connect(shared_database) as conn:
        rows = conn.execute(
            "SELECT salt, data::text, hash FROM events WHERE log_id = %s ORDER BY position", (log_id(history),)
        ).fetchall()
    running = bytes(32)
    for recorded, (salt, text, stored) in zip(history.read_log(), rows, strict=True):
        leaf = second_leaf(
            "tampered",
            {
                "position": recorded.position, "job_id": recorded.job_id, "version": recorded.version,
                "event_id": str(recorded.event_id), "type": recorded.type, "step": recorded.step,
                "attempt": recorded.attempt, "seq": recorded.seq, "applied": recorded.applied,
                "reason": recorded.reason, "percent": recorded.ppm, "actor": recorded.actor,
                "occurred_us": recorded.occurred_us, "recorded_us": recorded.recorded_us,
                "salt": salt.hex(), "data": text,
            },
        )  # fmt: skip
        running = hashlib.sha256(running + leaf).digest()
        assert running == stored == recorded.hash


EDITS = {
    "job_id": "job_id || 'x'",
    "version": "version + 1000",
    "event_id": "gen_random_uuid()",
    "type": "type || 'x'",
    "step": "coalesce(step || 'x', 'x')",
    "attempt": "coalesce(attempt + 1, 1)",
    "seq": "coalesce(seq + 1, 1)",
    "data": "concat(data::text, ' ')::json",
    "salt": "set_byte(salt, 15, get_byte(salt, 15) # 1)",
    "applied": "not applied, reason = 'x'",
    "reason": "'x', applied = false",
    "percent": "percent + 1",
    "actor": "coalesce(actor || 'x', '')",
    "occurred_at": "coalesce(occurred_at + interval '1 microsecond', recorded_at)",
    "recorded_at": "recorded_at - interval '1 microsecond'",
    "hash": "set_byte(hash, 31, 255 - get_byte(hash, 31))",
}


@pytest.mark.parametrize("column", EDITS)
@pytest.mark.parametrize("position", [1, 60, EVENTS])
def test_an_edited_column_is_found(history, conn, column, position):
    edit = f"UPDATE events SET {column} = {EDITS[column]} WHERE log_id = %s AND position = %s"
    conn.execute(edit, (log_id(history), position))
    broken(history, position, "not the one that was appended")


def test_every_column_of_the_table_is_under_test(conn):
    columns = conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0"
    ).fetchall()
    assert {name for (name,) in columns} == {*EDITS, "log_id", "position"}


@pytest.mark.parametrize("position", [1, 60, EVENTS])
def test_a_deleted_event_is_found(history, conn, position):
    conn.execute("DELETE FROM events WHERE log_id = %s AND position = %s", (log_id(history), position))
    broken(history, position, "missing")


def test_a_cut_tail_is_found_by_the_head_of_the_log(history, conn):
    conn.execute("DELETE FROM events WHERE log_id = %s AND position > 100", (log_id(history),))
    broken(history, 101, "missing")


def test_a_cut_tail_with_a_rewound_head_and_the_old_hash_is_found(history, conn):
    conn.execute("DELETE FROM events WHERE log_id = %s AND position > 100", (log_id(history),))
    conn.execute("UPDATE logs SET head = 100 WHERE log_id = %s", (log_id(history),))
    broken(history, 100, "another hash")


def test_an_edited_head_is_found(history, conn):
    conn.execute("UPDATE logs SET head_hash = sha256('x') WHERE log_id = %s", (log_id(history),))
    broken(history, EVENTS, "another hash")


def test_an_event_beyond_the_head_is_found(history, conn):
    insert(conn, log_id(history), EVENTS + 1)
    broken(history, EVENTS + 1, "after the head")


def test_a_log_that_was_renamed_is_found(history, conn):
    conn.execute("UPDATE logs SET name = 'renamed' WHERE log_id = %s", (log_id(history),))
    broken(history.for_log("renamed"), 1, "not the one that was appended")


@pytest.mark.parametrize("position", [1, 60, EVENTS])
def test_an_inserted_event_is_found(history, conn, position):
    shift(conn, log_id(history), position)
    insert(conn, log_id(history), position)
    conn.execute("UPDATE logs SET head = head + 1 WHERE log_id = %s", (log_id(history),))
    broken(history, position, "not the one that was appended|version")


@pytest.mark.parametrize(("first", "second"), [(1, 2), (60, 61), (3, EVENTS)])
def test_swapped_events_are_found(history, conn, first, second):
    for old, new in ((first, 900), (second, first), (900, second)):
        conn.execute("UPDATE events SET position = %s WHERE log_id = %s AND position = %s", (new, log_id(history), old))
    broken(history, first, "not the one that was appended")


def test_a_time_that_is_no_time_is_found(history, conn):
    assert history.read_log(6)[0].occurred_us is None
    conn.execute("UPDATE events SET occurred_at = 'infinity' WHERE log_id = %s AND position = 7", (log_id(history),))
    broken(history, 7, "not the one that was appended")


def test_a_foreign_event_with_a_right_hash_but_a_wrong_version_is_found(history, conn):
    """Somebody who writes a whole new chain from a position on must still count the job's versions."""
    forge(conn, log_id(history), 100, "version = version + 1000")
    broken(history, 100, "version")


@pytest.mark.parametrize("seed", range(60))
def test_any_random_change_is_found_at_its_position(history, conn, seed):
    seeded = random.Random(seed)
    here = log_id(history)
    position = seeded.randint(1, EVENTS)
    match seeded.choice(["edit", "edit", "delete", "swap", "insert", "hash"]):
        case "edit":
            column = seeded.choice(sorted(EDITS))
            conn.execute(
                f"UPDATE events SET {column} = {EDITS[column]} WHERE log_id = %s AND position = %s", (here, position)
            )
        case "delete":
            conn.execute("DELETE FROM events WHERE log_id = %s AND position = %s", (here, position))
        case "swap":
            other = position % EVENTS + 1
            for old, new in ((position, 900), (other, position), (900, other)):
                conn.execute("UPDATE events SET position = %s WHERE log_id = %s AND position = %s", (new, here, old))
            position = min(position, other)
        case "insert":
            shift(conn, here, position)
            insert(conn, here, position)
        case _:
            conn.execute("UPDATE events SET hash = sha256(salt) WHERE log_id = %s AND position = %s", (here, position))
    broken(history, position, ".")
    assert verify(history.for_log("before")).events == verify(history.for_log("after")).events == EVENTS


def shift(conn: psycopg.Connection[Any], log: int, position: int) -> None:
    conn.execute("UPDATE events SET position = position + 10000 WHERE log_id = %s AND position >= %s", (log, position))
    conn.execute("UPDATE events SET position = position - 9999 WHERE log_id = %s AND position > 10000", (log,))


def insert(conn: psycopg.Connection[Any], log: int, position: int) -> None:
    conn.execute(
        "INSERT INTO events SELECT log_id, %s, job_id, version + 1000, gen_random_uuid(), type, step, attempt, seq,"
        " data, salt, applied, reason, percent, actor, occurred_at, recorded_at, hash FROM kept_events"
        " WHERE log_id = %s AND position = 5",
        (position, log),
    )


def forge(conn: psycopg.Connection[Any], log: int, position: int, change: str) -> None:
    """Change the last events and give them, and the head, hashes that fit."""
    conn.execute(f"UPDATE events SET {change} WHERE log_id = %s AND position >= %s", (log, position))
    rows = conn.execute(
        "SELECT position, job_id, version, event_id, type, step, attempt, seq, applied, reason, percent, actor,"
        " (extract(epoch FROM recorded_at) * 1000000)::bigint, salt, data::text FROM events WHERE log_id = %s"
        " AND position >= %s ORDER BY position",
        (log, position),
    ).fetchall()
    found = conn.execute("SELECT hash FROM events WHERE log_id = %s AND position = %s", (log, position - 1)).fetchone()
    running = found[0] if found else chain.GENESIS
    for at, job, version, ident, kind, step, attempt, seq, applied, reason, ppm, actor, recorded, salt, text in rows:
        leaf = chain.leaf(
            b"tampered", at, job, version, ident.bytes, kind, step, attempt, seq, applied, reason, ppm, actor, None,
            recorded, chain.digest(salt, text.encode()),
        )  # fmt: skip
        running = chain.link(running, leaf)
        conn.execute("UPDATE events SET hash = %s WHERE log_id = %s AND position = %s", (running, log, at))
    conn.execute("UPDATE logs SET head_hash = %s WHERE log_id = %s", (running, log))


# -- the guards -------------------------------------------------------------------------------------------------------

REWRITES = (
    "UPDATE events SET percent = 0",
    "UPDATE events SET percent = 0 WHERE false",
    "DELETE FROM events",
    "DELETE FROM events WHERE position = 1",
    "TRUNCATE events",
    "TRUNCATE events CASCADE",
    "INSERT INTO events SELECT * FROM events ON CONFLICT (log_id, position) DO UPDATE SET percent = 0",
    "MERGE INTO events e USING events s ON s.position = e.position AND s.log_id = e.log_id WHEN MATCHED THEN DELETE",
)


def test_the_guards_refuse_every_rewrite_even_as_superuser_in_replica_mode(database_url):
    with EventStore(database_url) as store:
        store.create_log()
        store.append("a", [NewEvent(type="job.started")])
        with psycopg.connect(database_url, autocommit=True) as conn:
            for role in ("origin", "replica", "local"):
                conn.execute("SELECT set_config('session_replication_role', %s, false)", (role,))
                for statement in REWRITES:
                    with pytest.raises(pg.InsufficientPrivilege, match="immutable"):
                        conn.execute(statement)
        assert verify(store).events == 1


@pytest.mark.parametrize(
    "bad",
    [
        "percent = 1000001", "percent = -1", "job_id = 'a/b'", "job_id = E'a\\n'", "version = 0", "position = 0",
        "attempt = 0", "seq = -1", "applied = false", "reason = 'x'", "recorded_at = 'infinity'", "hash = 'x'",
        "salt = 'x'",
    ],
)  # fmt: skip
def test_the_checks_refuse_a_row_that_no_append_would_write(history, conn, bad):
    with pytest.raises(pg.CheckViolation):
        conn.execute(f"UPDATE events SET {bad} WHERE log_id = %s AND position = 10", (log_id(history),))
