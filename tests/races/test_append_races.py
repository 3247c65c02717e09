"""Appends that meet: scripted with locks that PostgreSQL shows, never with sleeps."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from eventstore import committer as committing
from eventstore import connections, epochs, log_writer, statements
from eventstore.errors import (
    EventIdConflict,
    FoldVersionMismatch,
    OutcomeUnknown,
    StoreBusy,
    StoreClosed,
    StoreUnavailable,
    WrongExpectedVersion,
)
from eventstore.events import LOG_JOB, NewEvent
from eventstore.store import MAX_COMMITTERS, EventStore
from eventstore.verify import verify
from projections.progress import Progress
from tests.support.proxy import proxy_to
from tests.support.sessions import Doing, Watcher, holding_log, wait_until


def noted(message: str = "x", **fields: Any) -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message}, **fields)


def progressed(percent: float) -> NewEvent:
    return NewEvent(type="step.progressed", step="s", data={"percent": percent})


@pytest.fixture
def log(shared_database: str) -> str:
    name = f"log-{uuid.uuid4().hex[:12]}"
    with EventStore(shared_database, log=name, pool_size=1) as store:
        store.create_log()
    return name


@pytest.fixture
def stores(shared_database: str, log: str) -> Iterator[list[EventStore]]:
    """Five stores over one log, as five processes would have them."""
    opened = [EventStore(shared_database, log=log, pool_size=2) for _ in range(5)]
    yield opened
    for store in opened:
        store.close()


@pytest.fixture
def watcher(shared_database: str) -> Iterator[Watcher]:
    watcher = Watcher(shared_database)
    yield watcher
    watcher.close()


def dense(store: EventStore) -> list[str]:
    """The messages of the log, after a look at positions, versions and chain."""
    events = store.read_log()
    assert [e.position for e in events] == list(range(1, len(events) + 1))
    versions: dict[str, int] = {}
    for event in events:
        versions[event.job_id] = versions.get(event.job_id, 0) + 1
        assert event.version == versions[event.job_id]
    assert verify(store).events == len(events)
    return [str(e.data.get("message")) for e in events]


# -- two writers of one log -------------------------------------------------------------------------------------------


def test_two_writers_that_meet_leave_no_gap(stores, shared_database, log, watcher):
    first, second = stores[:2]
    first.append("a", [noted("1")])
    second.append("a", [noted("2")])
    with holding_log(shared_database, log):
        doing = [Doing(lambda s=s: s.append("a", [noted("3"), noted("4")])) for s in (first, second)]
        watcher.until_waiting(2)
    answers = [d.result() for d in doing]
    assert sorted(a.position for answer in answers for a in answer) == [3, 4, 5, 6]
    assert dense(first) == ["1", "2", "3", "4", "3", "4"]


def test_after_a_lost_compare_the_slow_path_stays_until_eight_calm_batches(stores):
    first, second = stores[:2]
    first.append("a", [noted()])
    second.append("a", [noted()])
    committer = first.committer()
    assert committer._writer.calm == log_writer.CALM
    for calm in [0, *range(1, log_writer.CALM + 1), log_writer.CALM]:
        first.append("a", [noted()])
        assert committer._writer.calm == calm
    dense(first)


def test_writers_in_turn_see_each_others_versions_and_percentages(shared_database, log):
    """A cached state that is old would give a wrong version, or would take a regression for progress."""
    with (
        EventStore(shared_database, log=log, projection=Progress(), pool_size=2) as first,
        EventStore(shared_database, log=log, projection=Progress(), pool_size=2) as second,
    ):
        with pytest.raises(FoldVersionMismatch):  # the log was made for another fold
            first.append("a", [noted()])
        with psycopg.connect(shared_database) as conn:
            conn.execute("UPDATE logs SET fold_version = %s WHERE name = %s", (Progress.fold_version, log))
        plan = NewEvent(type="job.planned", data={"steps": [{"step": "s"}]})
        assert first.append("a", [plan])[0].version == 1
        for turn in range(12):
            higher, lower = (first, second) if turn % 3 else (second, first)
            up = higher.append("a", [progressed(turn * 5 + 5)])[0]
            down = lower.append("a", [progressed(turn * 5 + 4)])[0]
            assert (up.version, up.applied, up.percent) == (2 * turn + 2, True, turn * 5 + 5)
            assert (down.version, down.applied, down.reason) == (2 * turn + 3, False, "regression")
            assert down.percent == turn * 5 + 5
        dense(first)


@pytest.mark.parametrize("senders", [1, 5])
def test_fifty_concurrent_sends_of_one_id_append_one_event(stores, shared_database, log, watcher, senders):
    for store in stores[:senders]:
        store.append("a", [noted("warm")])
    event = noted("one", event_id=uuid.uuid4())
    with holding_log(shared_database, log):
        doing = [Doing(lambda s=stores[n % senders]: s.append("a", [event])[0]) for n in range(50)]
        watcher.until_waiting(senders)
    answers = [d.result() for d in doing]
    assert sum(not a.duplicate for a in answers) == 1
    assert len({(a.position, a.version, a.hash) for a in answers}) == 1
    assert dense(stores[0]).count("one") == 1


def test_a_bad_call_does_not_fail_the_others_of_its_batch(stores, shared_database, log, watcher):
    store = stores[0]
    known = noted("known", event_id=uuid.uuid4())
    store.append("a", [known])
    with holding_log(shared_database, log):
        ahead = Doing(lambda: store.append("a", [noted("ahead")]))
        watcher.until_waiting()
        wrong = store.submit(store.prepare("a", [noted("wrong")]), 7)
        good = store.submit(store.prepare("b", [noted("good"), noted("good")]))
        clash = store.submit(store.prepare("a", [noted("clash", event_id=known.event_id)]))
        again = store.submit(store.prepare("a", [known]))
        last = store.submit(store.prepare("a", [noted("last")]), 2)
    ahead.result()
    with pytest.raises(WrongExpectedVersion):
        wrong.wait()
    with pytest.raises(EventIdConflict):
        clash.wait()
    assert [a.version for a in good.wait()] == [1, 2]
    assert again.wait()[0].duplicate
    assert last.wait()[0].version == 3
    assert dense(store) == ["known", "ahead", "good", "good", "last"]


def test_what_gathers_while_one_append_is_in_flight_is_one_batch(stores, shared_database, log, watcher):
    store = stores[0]
    batches: list[int] = []
    store.on_append(lambda head, events: batches.append(len(events)))
    store.append("a", [noted()])
    with holding_log(shared_database, log):
        first = Doing(lambda: store.append("a", [noted()]))
        watcher.until_waiting()
        calls = [store.submit(store.prepare(f"job-{n}", [noted()])) for n in range(300)]
        big = store.submit(store.prepare("big", [noted()] * 900))
    first.result()
    for call in [*calls, big]:
        call.wait()
    store.close()
    assert batches == [1, 1, 300, 900]


# -- answers that get lost --------------------------------------------------------------------------------------------


def test_a_session_killed_while_it_waits_is_tried_again(stores, shared_database, log, watcher):
    store = stores[0]
    store.append("a", [noted("1")])
    with holding_log(shared_database, log):
        doing = Doing(lambda: store.append("a", [noted("2")]))
        for _ in range(2):
            (pid,) = watcher.until_waiting()
            watcher.kill(pid)
            wait_until(lambda pid=pid: pid not in watcher.waiting(), "the session is gone")
        watcher.until_waiting()
    answer = doing.result()[0]
    assert (answer.position, answer.duplicate) == (2, False)
    assert dense(store) == ["1", "2"]


@pytest.mark.parametrize("slow", [False, True])
def test_an_append_whose_answer_was_lost_is_answered_with_its_first_position(shared_database, log, slow):
    with proxy_to(shared_database) as proxy, EventStore(proxy.url, log=log, pool_size=2) as store:
        first = noted("1", event_id=uuid.uuid4())
        store.append("a", [first])
        if slow:
            store.append("a", [first])
        proxy.lose_answers(1)
        answers = store.append("a", [noted("2"), noted("3")])
        assert proxy.lost.acquire(blocking=False)
        assert [(a.position, a.duplicate) for a in answers] == [(2, False), (3, False)]
        assert store.append("a", [noted("4")])[0].position == 4
        assert dense(store) == ["1", "2", "3", "4"]


def test_a_lost_answer_stays_unknown_when_the_retry_is_refused(shared_database, log, watcher):
    """Written, answer lost; then the log's row is held, so the retry can't look. It must not say "not written"."""
    event = noted("2", event_id=uuid.uuid4())
    with proxy_to(shared_database) as proxy, EventStore(proxy.url, log=log, pool_size=2) as store:
        store.append("a", [noted("1")])
        proxy.lose_answers(1)
        with psycopg.connect(shared_database, application_name="headway next") as following:
            with holding_log(shared_database, log):
                doing = Doing(lambda: store.append("a", [event]))
                watcher.until_waiting(1)
                lock = partial(following.execute, "SELECT 1 FROM logs WHERE name = %s FOR UPDATE", (log,))
                locking = Doing(lock)
                watcher.until_waiting(2)
            locking.result()
            with pytest.raises(OutcomeUnknown) as caught:
                doing.result()
            assert caught.value.retryable
        again = store.append("a", [event])[0]
        assert (again.position, again.duplicate) == (2, True)
        assert dense(store) == ["1", "2"]


def test_nothing_is_sent_and_nothing_is_unknown_when_the_server_is_away():
    with EventStore("postgresql://nobody@127.0.0.1:1/none", log="default") as store:
        store._log_ids["default"] = 1
        with pytest.raises(StoreUnavailable):
            store.append("a", [noted()], timeout=0.3)


# -- a log that somebody holds ----------------------------------------------------------------------------------------


def test_a_held_log_is_busy_and_other_logs_are_not(stores, shared_database, log, watcher):
    """Also the queue's bound and the deadlines: they all need the same held row."""
    store = stores[0]
    other = store.for_log(f"{log}-b")
    other.create_log()
    store.append("a", [noted("1")])
    other.append("a", [noted("1")])
    with holding_log(shared_database, log):
        held = Doing(lambda: store.append("a", [noted("refused")]))
        watcher.until_waiting()
        for n in range(2, 7):
            assert other.append("a", [noted(str(n))])[0].position == n
        assert not held.done
        with pytest.raises(StoreBusy) as caught:
            held.result()
        assert caught.value.retryable
    assert store.append("a", [noted("2")])[0].position == 2
    assert dense(store) == ["1", "2"]
    assert len(dense(other)) == 6


def test_deadlines_say_what_is_known(stores, shared_database, log, watcher):
    store = stores[0]
    store.append("a", [noted("1")])
    taken, queued = noted("taken", event_id=uuid.uuid4()), noted("queued", event_id=uuid.uuid4())
    with holding_log(shared_database, log):
        first = Doing(lambda: store.append("a", [taken], timeout=0.3))
        watcher.until_waiting()
        with pytest.raises(StoreBusy):
            store.append("a", [queued], timeout=0.1)
        with pytest.raises(OutcomeUnknown):
            first.result()
    assert store.append("a", [taken])[0].position == 2
    assert dense(store) == ["1", "taken"]


def test_the_queue_is_bounded_and_what_it_took_is_appended(stores, shared_database, log, watcher):
    store = stores[0]
    store.append("a", [noted()])
    events = store.prepare("b", [noted()])
    with holding_log(shared_database, log):
        first = Doing(lambda: store.append("a", [noted()]))
        watcher.until_waiting()
        calls = [store.submit(store.prepare("b", [noted()] * 1_000)) for _ in range(10)]
        with pytest.raises(StoreBusy, match="10000 events wait"):
            store.submit(events)
        assert store.committer().queued == 10_000
    first.result()
    for call in calls:
        assert len(call.wait()) == 1_000
    assert store.submit(events).wait()[0].position == 10_003
    assert verify(store).events == 10_003


def test_closing_a_store_appends_what_is_queued(stores, shared_database, log, watcher):
    store = stores[0]
    with holding_log(shared_database, log):
        calls = [store.submit(store.prepare("a", [noted(str(n))])) for n in range(3)]
        watcher.until_waiting()
        committer = store.committer()
        closing = Doing(store.close)
        wait_until(lambda: committer._closing, "the store closes")
        with pytest.raises(StoreClosed):
            committer.submit(calls[0])
    closing.result()
    assert [call.wait()[0].position for call in calls] == [1, 2, 3]
    assert dense(stores[1]) == ["0", "1", "2"]


def test_a_closed_store_stays_closed(stores, log):
    store, other = stores[0], stores[0].for_log(log)
    store.append("a", [noted()])
    other.close()
    for action in (store.head, store.read_log, store.create_log, lambda: store.append("a", [noted()])):
        with pytest.raises(StoreClosed):
            action()
    store.close()
    assert stores[1].head().position == 1


def test_a_server_that_hangs_does_not_hold_up_the_end(database_url, caplog):
    watcher = Watcher(database_url)
    with EventStore(database_url, pool_size=1) as store, psycopg.connect(database_url, autocommit=True) as conn:
        store.create_log()
        conn.execute(
            "CREATE TABLE hanging AS SELECT 600 AS seconds; CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN PERFORM pg_sleep(seconds) FROM hanging; RETURN NULL; END $$"
        )
        conn.execute("CREATE TRIGGER hang BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION hang()")
        call, committer = store.submit(store.prepare("a", [noted()])), store.committer()
        hanging = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        (pid,) = wait_until(lambda: conn.execute(hanging).fetchone(), "the append hangs")
        Doing(lambda: store.close(timeout=0.1)).result()
        assert "still on its way" in caplog.text
        assert committer.running
        conn.execute("DELETE FROM hanging")
        watcher.kill(pid)
        assert call.wait()[0].position == 1
        assert committer.join(15)
    watcher.close()


# -- committers come and go -------------------------------------------------------------------------------------------


def test_an_idle_committer_ends_with_its_connection_and_starts_again(shared_database, log):
    with EventStore(shared_database, log=log, pool_size=1) as store:
        log_id = store.log_id()
        committer = committing.Committer(
            log_id, connect=lambda: store._writer(log_id), projection=store.projection, idle=0.001
        )
        store._committers[log_id] = committer
        for n in range(1, 21):
            assert store.append("a", [noted()])[0].position == n
            while committer.running:
                pass
            assert committer._conn is None
        dense(store)


def test_appends_that_meet_the_end_of_an_idle_committer_are_answered(shared_database, log):
    with EventStore(shared_database, log=log, pool_size=1) as store:
        log_id = store.log_id()
        store._committers[log_id] = committing.Committer(
            log_id, connect=lambda: store._writer(log_id), projection=store.projection, idle=0.0
        )
        for n in range(1, 101):
            assert store.append("a", [noted()])[0].position == n
        dense(store)


def test_more_logs_than_committers_take_turns(shared_database, log):
    """A process with many tenants must not refuse one only because others were active a moment ago."""
    with EventStore(shared_database, log=log, pool_size=2) as store:
        logs = [store.for_log(f"{log}-{n}") for n in range(MAX_COMMITTERS + 4)]
        for each in logs:
            each.create_log()
        for turn in range(1, 4):
            for each in logs:
                assert each.append("a", [noted()])[0].position == turn
        running = [c for c in store._committers.values() if c.running]
        assert len(running) <= MAX_COMMITTERS + 1


def test_committers_that_work_are_not_ended_for_another_log(shared_database, log, watcher):
    names = [f"{log}-{n}" for n in range(MAX_COMMITTERS + 1)]
    with EventStore(shared_database, log=log, pool_size=2) as store:
        for name in names:
            store.create_log(name)
        with psycopg.connect(shared_database) as holder:
            holder.execute("SELECT 1 FROM logs WHERE name = ANY(%s) FOR UPDATE", (names,))
            each = [store.for_log(name) for name in names[:-1]]
            calls = [log.submit(log.prepare("a", [noted()])) for log in each]
            watcher.until_waiting(MAX_COMMITTERS)
            with pytest.raises(StoreBusy, match="logs are being written"):
                store.for_log(names[-1]).append("a", [noted()])
        for call in calls:
            assert call.wait()[0].position == 1
        assert store.for_log(names[-1]).append("a", [noted()])[0].position == 1


# -- what others do to the log's row ----------------------------------------------------------------------------------


def test_an_epoch_begun_elsewhere_is_followed(stores, shared_database, log):
    first, second = stores[:2]
    first.append("a", [noted("1")])
    cursor = first.append("a", [noted("2")])[0].cursor
    with statements.adapt(psycopg.connect(shared_database, autocommit=True)) as conn, conn.transaction():
        statements.lock_log(conn, first.log_id(), (), ())
        epochs.begin_epoch(conn, first.log_id(), *connections.identity(conn), first.projection)
    assert first.head().epoch == 2
    told = first.read_log(2)[0]
    assert (told.job_id, told.type, told.data["common_position"]) == (LOG_JOB, "log.epoch_started", 2)
    answer = first.append("a", [noted("3")])[0]
    assert (answer.epoch, answer.position, answer.version) == (2, 4, 3)
    assert second.resolve(cursor)[1] == 2
    assert second.append("a", [noted("4")])[0].position == 5
    assert verify(first).events == 5


def test_a_log_of_another_server_begins_an_epoch_at_the_first_append(shared_database, log):
    with EventStore(shared_database, log=log, pool_size=1) as store:
        store.append("a", [noted("1")])
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute("UPDATE logs SET timeline = '00000099' WHERE name = %s", (log,))
    stores = [EventStore(shared_database, log=log, pool_size=1) for _ in range(4)]
    gate = threading.Barrier(4)

    def append(store: EventStore) -> Any:
        gate.wait()
        return store.append("a", [noted("x")])[0]

    for doing in [Doing(partial(append, store)) for store in stores]:
        assert doing.result().epoch == 2
    assert [e.type for e in stores[0].read_log(1)].count("log.epoch_started") == 1
    assert verify(stores[0]).events == 6
    for store in stores:
        store.close()


def test_a_fold_of_another_version_is_refused_and_writes_nothing(stores, shared_database, log):
    store = stores[0]
    store.append("a", [noted("1")])
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute("UPDATE logs SET fold_version = 99 WHERE name = %s", (log,))
        with pytest.raises(FoldVersionMismatch) as caught:
            store.append("a", [noted("2")])
        assert (caught.value.ours, caught.value.theirs) == (0, 99)
        conn.execute("UPDATE logs SET fold_version = 0 WHERE name = %s", (log,))
    assert store.append("a", [noted("2")])[0].position == 2
    dense(store)


def test_a_listener_that_fails_fails_no_append(stores, caplog):
    store = stores[0]

    def broken(head: Any, events: Any) -> None:
        raise RuntimeError("a listener of somebody")

    store.on_append(broken)
    for n in range(1, 4):
        assert store.append("a", [noted()])[0].position == n
    assert "append of 1 calls failed" in caplog.text
