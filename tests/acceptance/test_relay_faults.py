"""What may happen to relays, to Redis and to what stands between (rows R1-R5, R9, R10, R12, R14), on real servers.

After each fault the stream must be the log: same order, no gap, no duplicate.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator

import psycopg
import pytest
import redis

from eventstore.publishers.redis_streams import RedisStreams
from eventstore.relay import Relay, start_relay
from eventstore.store import EventStore
from eventstore.wire import stream_key
from tests.support.relays import (
    OwnValkey,
    append,
    check,
    noted,
    own_valkey,
    published,
    relays,
    until,
    until_published,
)

KEY = stream_key("default", 1)
KILL_LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = 'headway listen' AND datname = current_database()
"""


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url) as made:
        made.create_log("default")
        yield made


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as made:
        yield made


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    with own_valkey() as made:
        yield made


class Writer:
    """Appends single events in a thread, to see what a fault does in the middle of a load."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._stop = threading.Event()
        self.last = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.last = self._store.append("job:live", [noted()])[0].position

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("point", ["after read", "before publish", "after publish", "before checkpoint"])
@pytest.mark.parametrize("count", [1, 2])
def test_r1_a_relay_killed_at_any_point_is_followed_without_duplicate_or_gap(
    store: EventStore, client: redis.Redis, database_url: str, redis_url: str, point: str, count: int
) -> None:
    append(store, 6_500)
    with relays((database_url, redis_url, point, count)) as (victim,):
        assert victim.process.wait(timeout=30) == -signal.SIGKILL
    append(store, 10)
    with relays((database_url, redis_url)):
        until_published(client, 6_510)
    check(store, client)


@pytest.mark.parametrize("number", [2, 3])
def test_r2_several_relays_at_once_make_one_stream(
    store: EventStore, client: redis.Redis, database_url: str, redis_url: str, number: int
) -> None:
    append(store, 3_000)
    with relays(*[(database_url, redis_url)] * number), Writer(store) as writer:
        until(lambda: writer.last > 3_300)
        until_published(client, 3_300)
    with relays((database_url, redis_url)):
        until_published(client, writer.last)
    check(store, client)


def test_r2_relays_that_ignore_the_lease_still_make_one_stream(
    store: EventStore, client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lease all three publish all the time: what protects the stream is the comparison alone."""
    monkeypatch.setattr("eventstore.lease.ACQUIRE", _always("SELECT position, hash8, epoch FROM checkpoints"))
    monkeypatch.setattr("eventstore.lease.RENEW_SQL", _always("UPDATE checkpoints SET position = position"))
    with psycopg.connect(store.database.url) as conn:
        conn.execute("INSERT INTO checkpoints (log_id, name) VALUES (1, 'relay:redis-streams')")
    append(store, 5_000)
    three = [Relay(store, [RedisStreams(redis_url)]) for _ in range(3)]
    with start_relay(three[0]), start_relay(three[1]), start_relay(three[2]), Writer(store) as writer:
        until(lambda: all(line.leading and line.position > 5_200 for relay in three for line in relay.progress))
        until(lambda: writer.last > 5_400)
    with start_relay(three[0]):
        until_published(client, writer.last)
    check(store, client)


def _always(sql: str) -> str:
    """A statement that takes the lease's parameters and ignores all but the log."""
    return sql + " WHERE log_id = %(log_id)s AND %(owner)s::text IS NOT NULL"


def test_r1_when_the_leader_is_killed_another_takes_over(
    store: EventStore, client: redis.Redis, database_url: str, redis_url: str
) -> None:
    with relays((database_url, redis_url)) as (leader,):
        until_published(client, append(store, 5))
        with relays((database_url, redis_url)):
            leader.end()
            until_published(client, append(store, 5))
            with psycopg.connect(database_url) as conn:
                row = conn.execute("SELECT lease_owner FROM checkpoints WHERE lease_deadline > now()").fetchone()
            assert row is not None
            assert f":{leader.process.pid}:" not in row[0]
    check(store, client)


def test_r3_a_relay_that_wakes_with_a_stale_batch_changes_nothing(
    store: EventStore, client: redis.Redis, database_url: str, redis_url: str
) -> None:
    append(store, 2_500)
    with relays((database_url, redis_url, "before publish", 2, signal.SIGSTOP)) as (sleeper,):
        until(sleeper.stopped)
        before = published(client)
        assert 0 < before < 2_500
        with relays((database_url, redis_url)):
            until_published(client, append(store, 500))
            sleeper.send(signal.SIGCONT)
            until_published(client, append(store, 500))
        # The one that slept is alone now: it must find its place in what the other one published.
        until_published(client, append(store, 500))
    check(store, client)


@pytest.mark.parametrize(
    "loss", ["FLUSHALL", f"DEL {KEY}", f"XTRIM {KEY} MAXLEN 0", f"XDEL {KEY} 1500-0", f"XADD {KEY} MAXLEN 0 * a b"]
)
def test_r4_what_was_lost_from_redis_is_filled_again(
    store: EventStore, client: redis.Redis, redis_url: str, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, 1_500)
    with start_relay(Relay(store, [RedisStreams(redis_url)])) as relay:
        until_published(client, 1_500)
        client.execute_command(*loss.split())
        until_published(client, append(store, 3))
        assert sum(line.reseeds for line in relay.progress) == 1
        check(store, client)
    assert len([r for r in caplog.records if "filled again" in r.message]) == 1


def test_r4_a_loss_is_found_while_nothing_is_appended(store: EventStore, client: redis.Redis, redis_url: str) -> None:
    append(store, 20)
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 20)
        client.flushall()
        until_published(client, 20)
    check(store, client)


def test_r4_a_stream_cut_to_its_newest_entries_goes_on(store: EventStore, client: redis.Redis, redis_url: str) -> None:
    append(store, 300)
    with start_relay(Relay(store, [RedisStreams(redis_url)])) as relay:
        until_published(client, 300)
        client.xtrim(KEY, maxlen=5, approximate=False)
        until_published(client, append(store, 3))
        assert relay.progress[0].reseeds == 0
    check(store, client, first=296)


def test_r4_a_loss_while_no_relay_ran_is_filled_again_and_told(
    store: EventStore, client: redis.Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, 50)
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 50)
    client.flushall()
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 50)
    check(store, client)
    assert "it lost everything" in caplog.text


def test_r4_a_stream_that_lost_its_end_goes_on_where_it_stands(
    store: EventStore, client: redis.Redis, redis_url: str
) -> None:
    """As after a failover to a replica that lagged (R7)."""
    append(store, 50)
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 50)
    entries = client.xrange(KEY)
    client.delete(KEY)
    for entry_id, fields in entries[:40]:
        client.xadd(KEY, fields, id=entry_id)
    with start_relay(Relay(store, [RedisStreams(redis_url)])) as relay:
        until_published(client, 50)
        assert relay.progress[0].published == 10
    check(store, client)


def test_r5_after_a_kill_of_redis_that_kept_nothing_the_stream_is_there_again(
    store: EventStore, valkey: OwnValkey, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, 500)
    with start_relay(Relay(store, [RedisStreams(valkey.url)])) as relay, Writer(store) as writer:
        until_published(valkey.client, 500)
        for _ in range(2):
            valkey.kill()
            until(lambda: relay.progress[0].error)
            alone = writer.last
            until(lambda: writer.last > alone + 20)  # noqa: B023 - appends go on without Redis
            valkey.start()
            until_published(valkey.client, alone + 20)
    with start_relay(Relay(store, [RedisStreams(valkey.url)])):
        until_published(valkey.client, writer.last)
    check(store, valkey.client)
    losses = [r for r in caplog.records if r.levelno >= logging.WARNING and "can't go on" in r.message]
    returns = [r for r in caplog.records if "goes on after" in r.message]
    assert (len(losses), len(returns)) == (2, 2)


def test_r8_a_stream_of_another_history_is_replaced(
    store: EventStore, client: redis.Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, 10)
    for position in range(1, 15):  # ahead of the log
        client.xadd(KEY, {"job": "j", "cursor": f"0001_{position:016d}_deadbeef", "event": "{}"}, id=f"{position}-0")
    with start_relay(Relay(store, [RedisStreams(redis_url)])) as relay:
        until(lambda: relay.progress and relay.progress[0].published == 10)
        check(store, client)
        client.delete(KEY)
        client.xadd(KEY, {"job": "j", "cursor": f"0001_{7:016d}_deadbeef", "event": "{}"}, id="7-0")  # another hash
        until(lambda: relay.progress[0].reseeds == 2 and relay.progress[0].lag == 0)
        until_published(client, 10)
    check(store, client)


@pytest.mark.parametrize("running", [True, False])
def test_r9_a_foreign_entry_with_the_largest_id_is_found_and_the_stream_replaced(
    store: EventStore, client: redis.Redis, redis_url: str, running: bool, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, 30)
    relay = Relay(store, [RedisStreams(redis_url)])
    with start_relay(relay):
        until_published(client, 30)
        if running:
            client.xadd(KEY, {"x": "y"}, id="9223372036854775807-0")
            until(lambda: published(client) == 30)
            append(store, 5)
    if not running:
        client.xadd(KEY, {"x": "y"}, id="9223372036854775807-0")
        append(store, 5)
    with start_relay(relay):
        until(lambda: published(client) == 35)
    check(store, client)
    assert len([r for r in caplog.records if "9223372036854775807-0" in r.message]) == 1


def test_r9_a_key_of_another_type_is_replaced(store: EventStore, client: redis.Redis, redis_url: str) -> None:
    append(store, 30)
    client.set(KEY, "not a stream")
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until(lambda: client.type(KEY) == b"stream" and published(client) == 30)
    check(store, client)


REFUSALS = {
    "OOM": (["CONFIG SET maxmemory 1"], ["CONFIG SET maxmemory 0"]),
    "READONLY": (["REPLICAOF 127.0.0.1 1"], ["REPLICAOF NO ONE"]),
    "MASTERDOWN": (
        ["CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1"],
        ["REPLICAOF NO ONE"],
    ),
    "NOPERM": (["ACL SETUSER default -@all +ping +acl +xrevrange +hello +client"], ["ACL SETUSER default +@all"]),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_r10_a_redis_that_refuses_is_tried_again_and_nothing_is_skipped(
    store: EventStore, valkey: OwnValkey, refusal: str, caplog: pytest.LogCaptureFixture
) -> None:
    begin, end = REFUSALS[refusal]
    append(store, 10)
    with start_relay(Relay(store, [RedisStreams(valkey.url)])) as relay:
        until_published(valkey.client, 10)
        for command in begin:
            valkey.client.execute_command(*command.split())
        append(store, 10)
        until(lambda: relay.progress[0].error)
        append(store, 10)
        for command in end:
            valkey.client.execute_command(*command.split())
        until_published(valkey.client, 30)
        until(lambda: relay.progress[0].error is None)
    check(store, valkey.client)
    warnings = [r.message for r in caplog.records if r.name == "headway.relay" and r.levelno >= logging.WARNING]
    assert len(warnings) == 2, warnings


def test_r10_a_redis_that_asks_for_another_password_is_tried_again(store: EventStore, valkey: OwnValkey) -> None:
    append(store, 10)
    valkey.client.config_set("requirepass", "new")
    with start_relay(Relay(store, [RedisStreams(valkey.url)])) as relay:
        until(lambda: relay.progress and relay.progress[0].error)
        valkey.client.execute_command("AUTH", "new")
        valkey.client.config_set("requirepass", "")
        until_published(valkey.client, 10)
    check(store, valkey.client)


def test_r10_a_redis_that_hangs_is_found_and_does_not_publish_twice_when_it_wakes(
    store: EventStore, valkey: OwnValkey
) -> None:
    append(store, 10)
    with start_relay(Relay(store, [RedisStreams(valkey.url)])) as relay:
        until_published(valkey.client, 10)
        valkey.send(signal.SIGSTOP)
        append(store, 10)
        until(lambda: relay.progress[0].error)
        append(store, 10)
        valkey.send(signal.SIGCONT)
        until_published(valkey.client, 30)
    check(store, valkey.client)


def test_r10_a_redis_that_still_loads_its_data_is_waited_for(store: EventStore) -> None:
    with own_valkey("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024") as valkey:
        append(store, 500)
        with start_relay(Relay(store, [RedisStreams(valkey.url)])) as relay:
            until_published(valkey.client, 500)
            valkey.client.mset({f"other:{n}": n for n in range(1_000)})
            valkey.client.save()
            valkey.kill()
            append(store, 10)
            valkey.start(wait=False)
            until(lambda: "loading" in (relay.progress[0].error or ""))
            until_published(valkey.client, 510)
            assert relay.progress[0].reseeds == 0
        check(store, valkey.client)


@pytest.mark.parametrize(
    "column", ["occurred_at = 'infinity'", "occurred_at = '-infinity'", "occurred_at = '0044-03-15 BC'"]
)
def test_r12_a_poison_row_is_published_with_its_position_and_stops_nothing(
    store: EventStore, client: redis.Redis, redis_url: str, column: str
) -> None:
    append(store, 3)
    with psycopg.connect(store.database.url, autocommit=True) as conn:
        conn.execute("ALTER TABLE events DISABLE TRIGGER events_immutable")
        conn.execute(f"UPDATE events SET {column} WHERE position = 2".encode())
        conn.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER events_immutable")
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 3)
        until_published(client, append(store, 2))
    check(store, client)


def test_r12_a_missing_row_is_told_and_stops_nothing(
    store: EventStore, client: redis.Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, 5)
    with psycopg.connect(store.database.url, autocommit=True) as conn:
        conn.execute("ALTER TABLE events DISABLE TRIGGER events_immutable")
        conn.execute("DELETE FROM events WHERE position IN (3, 5)")
        conn.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER events_immutable")
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 4)
        append(store, 2)
        until_published(client, 7)
    assert [entry_id for entry_id, _ in client.xrange(KEY)] == [b"1-0", b"2-0", b"4-0", b"6-0", b"7-0"]
    assert "position 3 is missing" in caplog.text


def test_r14_events_arrive_after_the_listen_connection_died(
    store: EventStore, client: redis.Redis, redis_url: str, database_url: str
) -> None:
    """The relay is in another process than the appends: nothing is handed over, NOTIFY and polling is all it has."""
    with relays((database_url, redis_url)), psycopg.connect(database_url, autocommit=True) as conn:
        until_published(client, append(store, 3))
        for _ in range(3):
            until(lambda: conn.execute(KILL_LISTENERS).fetchone())
            until_published(client, append(store, 3))
    check(store, client)


def test_p1_a_relay_whose_connections_to_postgresql_are_killed_goes_on(
    store: EventStore, client: redis.Redis, redis_url: str, database_url: str
) -> None:
    everybody = KILL_LISTENERS.replace("= 'headway listen'", "LIKE 'headway%%' AND pid <> pg_backend_pid()")
    with relays((database_url, redis_url)), psycopg.connect(database_url, autocommit=True) as conn:
        until_published(client, append(store, 30))
        for _ in range(3):
            conn.execute(everybody.encode())
            until_published(client, append(store, 30))
    check(store, client)


def test_r14_events_arrive_without_any_notification(
    store: EventStore, client: redis.Redis, redis_url: str, database_url: str
) -> None:
    with EventStore(database_url, pgbouncer=True) as reader, start_relay(Relay(reader, [RedisStreams(redis_url)])):
        for _ in range(3):
            until_published(client, append(store, 3))
    check(store, client)
