"""Real writers, real faults: nothing acknowledged is lost, nothing stands twice, nobody sees a gap."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from eventstore.errors import UnsafeDurability
from eventstore.events import NewEvent
from eventstore.migrate import migrate
from eventstore.store import EventStore
from eventstore.verify import verify
from projections.progress import Progress
from tests.support.checker import Call, calls_of, violations
from tests.support.cluster import Cluster, cluster
from tests.support.sessions import Watcher
from tests.support.writers import Note, writers

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """A cluster that commits without waiting for the disk unless it is told otherwise, and writes its log late."""
    options = {"synchronous_commit": "off", "wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
    with cluster(options) as started:
        migrate(started.url)
        yield started


def check(url: str, log: str, notes: list[Note], *, progress: bool = False) -> list[Call]:
    """Compare; returns the calls."""
    calls = calls_of(notes)
    with EventStore(url, log=log, pool_size=1, projection=Progress() if progress else None) as store:
        events = [event for page in store.replay() for event in page]
        assert violations(calls, events) == []
        assert verify(store).events == len(events)
        shown: dict[str, int] = {}
        for event in events:
            assert event.ppm >= shown.get(event.job_id, 0), "the overall percentage fell"
            shown[event.job_id] = event.ppm
    assert not [note.error for note in notes if note.error]
    return calls


def create(url: str, log: str, *, progress: bool = False) -> None:
    with EventStore(url, log=log, pool_size=1, projection=Progress() if progress else None) as store:
        store.create_log()


def test_four_processes_on_shared_jobs_make_one_dense_log(database_url, tmp_path):
    create(database_url, "shared", progress=True)
    with writers(database_url, log="shared", folder=tmp_path, jobs=3, progress=True) as load:
        load.until_answered(400)
        calls = check(database_url, "shared", load.stop(), progress=True)
    assert all(call.answered for call in calls)
    assert any(len(call.answers) > 1 for call in calls), "nobody sent twice: the run says nothing"


def test_p1_killed_sessions_lose_nothing_and_double_nothing(database_url, tmp_path):
    create(database_url, "killed")
    watcher, killed = Watcher(database_url), 0
    with writers(database_url, log="killed", folder=tmp_path) as load:
        for _ in range(6):
            load.until_answered(15)
            killed += watcher.kill_writers()
        load.until_answered(15)
        calls = check(database_url, "killed", load.stop())
    watcher.close()
    assert killed >= 6
    assert all(call.answered for call in calls)


def test_a_killed_writer_loses_nothing_that_it_was_told(database_url, tmp_path):
    create(database_url, "writer")
    with writers(database_url, log="writer", folder=tmp_path) as load:
        for process in load.processes[:3]:
            load.until_answered(25)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        calls = check(database_url, "writer", load.stop())
    assert sum(call.answered is None for call in calls) <= 3


def test_p2_p3_a_server_that_is_stopped_at_once_or_killed_lost_nothing_that_it_acknowledged(own, tmp_path):
    create(own.url, "crashed")
    with writers(own.url, log="crashed", folder=tmp_path) as load:
        for crash in (own.stop_immediately, own.kill):
            load.until_answered(40)
            crash()
            own.start()
        load.until_answered(40)
        calls = check(own.url, "crashed", load.stop())
    assert any(call.tries > 1 for call in calls), "no call met the crash: the run says nothing"


@pytest.mark.parametrize("path", ["fast", "turn", "slow"])
def test_p7_an_append_is_on_disk_whatever_role_database_or_session_say(own, path):
    """A crash loses what the server did not flush: with the setting off, all commits since the last flush."""
    log = f"pinned-{path}"
    create(own.url, log)
    with psycopg.connect(own.url, autocommit=True) as conn:
        conn.execute("ALTER ROLE headway SET synchronous_commit = off")
        conn.execute("ALTER DATABASE headway SET synchronous_commit = off")
        conn.execute("CREATE TABLE IF NOT EXISTS unpinned (log text)")
    with EventStore(own.url + "&options=-c%20synchronous_commit%3Doff", log=log, pool_size=1) as store:
        with store.database.session() as conn:
            assert conn.execute("SHOW synchronous_commit").fetchone() == ("off",)
        known = NewEvent(type="job.noted", data={"message": "known"}, event_id=uuid.uuid4())
        store.append("a", [known])
        new = NewEvent(type="job.noted", data={"message": "acknowledged"})
        if path == "turn":
            store.committer()._writer.calm = 0
        store.append("a", [known, new] if path == "slow" else [new])
        with psycopg.connect(own.url, autocommit=True) as conn:
            conn.execute("INSERT INTO unpinned VALUES (%s)", (log,))
        own.stop_immediately()
        own.start()
        with psycopg.connect(own.url) as conn:
            kept = conn.execute("SELECT count(*) FROM unpinned WHERE log = %s", (log,)).fetchone()
            assert kept == (0,), "the setting has no effect here: the test says nothing"
        assert verify(store).events == 2
        assert store.append("a", [new])[0].position == 3


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_p8_a_server_that_may_lose_or_tear_is_refused(setting, tmp_path: Path):
    with cluster({setting: "off"}) as unsafe:
        migrate(unsafe.url)
        create(unsafe.url, "default")
        with EventStore(unsafe.url) as store:
            with pytest.raises(UnsafeDurability, match=f"{setting} = off"):
                store.append("a", [NewEvent(type="job.started")])
            assert store.head().position == 0
        with EventStore(unsafe.url, allow_unsafe=True) as store:
            assert store.append("a", [NewEvent(type="job.started")])[0].position == 1
