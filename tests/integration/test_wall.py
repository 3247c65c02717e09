"""The second wall: what roles may do, and that a reader sees one log whatever the program asks for (A1, A2, A8)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from psycopg import errors as pg

from api import key_table
from eventstore.checkpoints import Checkpoints
from eventstore.connections import Walled
from eventstore.errors import NoSuchLog
from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections import audit, wall
from projections.as_of import curve, job_as_of, jobs_as_of, position_at
from projections.audit_attempts import attempts_of
from projections.conditions import conditions
from projections.eta import estimate
from projections.job_list import jobs_page
from projections.job_status import read_statuses
from projections.parked import list_parked
from projections.places import ensure
from projections.progress import Progress
from projections.projection import Projection
from projections.rebuild import rebuild
from projections.rebuild_projection import rebuild_projection
from projections.snapshots import list_jobs, read_snapshot, read_snapshots
from projections.usual import read_usual
from tests.support.http import serving
from tests.support.keys import bearer
from tests.support.sessions import wait_until
from tests.support.step_table import catalog, fill

THEIRS = "acme-secret"
MOMENT = datetime(2020, 1, 1, tzinfo=UTC)


def two_logs(database_url: str) -> Iterator[EventStore]:
    """Two logs, `ours` and `theirs`; every text of the second one has a word that the first one has not."""
    with EventStore(database_url, log="ours", projection=Progress(), pool_size=4) as opened:
        for log, word in (("ours", "own"), ("theirs", THEIRS)):
            opened.create_log(log)
            there = opened.for_log(log)
            there.append("job", story(word))
            there.append(f"{word}-job", story(word))
            Checkpoints(there).create(f"{word}-consumer")
        opened.for_log("theirs").append("job", [NewEvent(type="job.completed")])
        with opened.database.session() as conn:
            for log_id, word in ((1, "own"), (2, THEIRS)):
                conn.execute("INSERT INTO workers_seen VALUES (%s, %s, now())", (log_id, word))
                conn.execute(
                    "INSERT INTO step_durations SELECT %s, '', %s, 'duration', n, 9 FROM generate_series(1, 9) n",
                    (log_id, word),
                )
                conn.execute(
                    "INSERT INTO parked (log_id, checkpoint, job_id, position, error, tries)"
                    " VALUES (%s, 'projection:x:v1', 'job', 1, %s, 1)", (log_id, word),
                )  # fmt: skip
        yield opened


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    yield from two_logs(database_url)


@pytest.fixture(scope="module")
def unchanged(shared_database: str) -> Iterator[EventStore]:
    """The same for tests that change nothing."""
    yield from two_logs(shared_database)


def story(word: str) -> list[NewEvent]:
    return [
        NewEvent(type="job.started", data={"title": word}),
        NewEvent(type="step.started", step=word, data={"worker": word, "label": word}),
        NewEvent(type="step.progressed", step=word, data={"percent": 40, "message": word}),
        NewEvent(type="step.progressed", step=word, data={"percent": 20, "message": word}),
    ]


class Amnesiac(EventStore):
    """A store whose filter is broken: asked for whatever log, it asks for the second one."""

    def log_id(self) -> int:
        return 2


def broken(store: EventStore, behind: int | None) -> EventStore:
    """A store that asks for `theirs`, behind the wall of a log or before it."""
    other = object.__new__(Amnesiac)
    other.__dict__.update(store.__dict__)
    if behind is not None:
        other.database = Walled(store.database, behind)
    return other


def _job(store: EventStore) -> Any:
    """A snapshot that a reader without the wall had; reads begin with it, so that they get as far as they can."""
    plain = object.__new__(Amnesiac)
    plain.__dict__.update(store._owner.__dict__)
    job = read_snapshot(plain, "job")
    assert job is not None
    return job


READS: dict[str, Callable[[EventStore], Any]] = {
    "head": lambda s: s.head(),
    "logs": lambda s: s.logs(),
    "resolve": lambda s: s.resolve("now"),
    "read_log": lambda s: s.read_log(),
    "read_job": lambda s: s.read_job("job"),
    "read_job_after_position": lambda s: s.read_job_after_position("job", 0, upto=99, limit=99),
    "replay": lambda s: list(s.replay(upto=8)),
    "snapshot": lambda s: read_snapshot(s, "job"),
    "snapshots": lambda s: read_snapshots(s, ["job", f"{THEIRS}-job"]),
    "statuses": lambda s: read_statuses(s, ["job", f"{THEIRS}-job"]),
    "list_jobs": list_jobs,
    "jobs_page": jobs_page,
    "position_at": lambda s: position_at(s, MOMENT + timedelta(days=100_000)),
    "job_as_of": lambda s: job_as_of(s, "job", 4),
    "jobs_as_of": lambda s: list(jobs_as_of(s, 8)),
    "curve": lambda s: list(curve(s, "job")),
    "attempts": lambda s: attempts_of(s, "job", THEIRS),
    "audit": audit.find,
    "audit of a job": lambda s: audit.find(s, audit.audit_filter(job="job")),
    "audit of what was rejected": lambda s: audit.find(s, audit.audit_filter(applied=False)),
    "audit by text": lambda s: audit.find(s, audit.audit_filter(text=THEIRS)),
    "audit stream": lambda s: list(audit.stream(s)),
    "usual": lambda s: read_usual(s, _job(s)),
    "consumers": lambda s: Checkpoints(s).list(),
    "parked": list_parked,
}


def told(read: Callable[[EventStore], Any], store: EventStore) -> str:
    """All that a read lets out."""
    try:
        return repr(msgspec.to_builtins(read(store), enc_hook=repr))
    except NoSuchLog:
        return "no such log"


@pytest.mark.parametrize("name", sorted(READS))
def test_with_the_programs_filter_broken_row_security_alone_lets_nothing_out(unchanged: EventStore, name: str) -> None:
    """A1: the application asks for another tenant's log, in every way that it can read; PostgreSQL gives no row."""
    read = READS[name]
    before, behind = told(read, broken(unchanged, None)), told(read, broken(unchanged, 1))
    traces = (THEIRS, "'theirs'", "2:")
    assert any(trace in before for trace in traces) or before != told(read, unchanged.for_log("ours")), before
    assert THEIRS not in behind
    assert "theirs" not in behind
    assert behind != before


@pytest.mark.parametrize("name", sorted(READS))
def test_behind_the_wall_of_its_own_log_a_read_answers_as_before_it(unchanged: EventStore, name: str) -> None:
    read = READS[name]
    if name == "logs":
        assert [head.name for head in broken(unchanged, 2).logs()] == ["theirs"]
        return
    plain, walled = told(read, broken(unchanged, None)), told(read, broken(unchanged, 2))
    assert unclocked(walled) == unclocked(plain)


def unclocked(text: str) -> str:
    """Without the few numbers that are the clock's."""
    return re.sub(r"now_us'?[:=] ?\d+|'seconds': [0-9.e-]+", "", text)


def test_the_remaining_time_and_the_conditions_are_read_behind_the_wall(unchanged: EventStore) -> None:
    ours = unchanged.walled(unchanged.log_id())
    job = read_snapshot(ours, "job")
    assert job is not None
    later = job.updated_at + timedelta(hours=5)
    assert estimate(ours, job, later) == estimate(unchanged, job, later)
    assert conditions(ours, job, later) == conditions(unchanged, job, later) != []


def test_without_a_log_set_a_reader_sees_nothing(unchanged: EventStore) -> None:
    tables = ("events", "jobs", "steps", "attempts", "logs", "epochs", "checkpoints", "api_keys", "step_durations")
    with unchanged.database.session() as conn, conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL ROLE headway_reader")
        for table in tables:
            assert conn.execute(f"SELECT count(log_id) FROM {table}").fetchone() == (0,), table


def test_a_reader_never_sees_a_secret(unchanged: EventStore) -> None:
    for role in ("headway_reader", "headway_audit", "headway_relay", "headway_append"):
        for column in ("sha256 FROM api_keys", "secret FROM signing_keys"):
            with unchanged.database.session() as conn, pytest.raises(pg.InsufficientPrivilege), conn.transaction():
                conn.execute(f"SET LOCAL ROLE {role}")
                conn.execute(f"SELECT {column}")


REWRITES = (
    "UPDATE events SET data = '{}'",
    "UPDATE events SET applied = applied WHERE false",
    "DELETE FROM events",
    "DELETE FROM events WHERE false",
    "TRUNCATE events",
    "ALTER TABLE events DISABLE TRIGGER ALL",
    "ALTER TABLE events DISABLE ROW LEVEL SECURITY",
    "DROP TABLE events",
)


@pytest.mark.parametrize("statement", REWRITES)
@pytest.mark.parametrize(
    "role", ["headway_append", "headway_relay", "headway_reader", "headway_audit", "headway_server"]
)
def test_no_role_may_rewrite_history(unchanged: EventStore, role: str, statement: str) -> None:
    """A8: UPDATE, DELETE, TRUNCATE, ALTER as append, relay, reader: permission denied, before any trigger."""
    with unchanged.database.session() as conn:
        with pytest.raises(pg.InsufficientPrivilege, match=r"permission denied|must be owner"), conn.transaction():
            conn.execute(f"SET LOCAL ROLE {role}")
            conn.execute(statement)
        assert conn.execute("SELECT count(*) FROM events").fetchone() == (17,)


@pytest.mark.parametrize("role", ["headway_relay", "headway_reader", "headway_audit"])
def test_roles_that_read_add_nothing(unchanged: EventStore, role: str) -> None:
    insert = "INSERT INTO {} SELECT * FROM {} LIMIT 1"
    for table in ("events", "jobs", "steps", "logs", "epochs", "api_keys"):
        with unchanged.database.session() as conn, pytest.raises(pg.InsufficientPrivilege), conn.transaction():
            conn.execute(f"SET LOCAL ROLE {role}")
            conn.execute(insert.format(table, table))


def test_the_relay_moves_its_own_checkpoints_only(store: EventStore) -> None:
    with store.database.session() as conn:
        with conn.transaction():
            conn.execute("SET LOCAL ROLE headway_relay")
            conn.execute("INSERT INTO checkpoints (log_id, name) VALUES (1, 'relay:test')")
            moved = conn.execute("UPDATE checkpoints SET position = 3 WHERE log_id = 1 RETURNING name").fetchall()
        assert moved == [("relay:test",)]
        with pytest.raises(pg.InsufficientPrivilege, match="row-level security"), conn.transaction():
            conn.execute("SET LOCAL ROLE headway_relay")
            conn.execute("INSERT INTO checkpoints (log_id, name) VALUES (1, 'billing')")


@pytest.fixture
def login(store: EventStore, database_url: str) -> Iterator[str]:
    """A login that owns nothing and has only what `GRANT headway_server` gives; the address with it."""
    name = f"app_{random.randrange(10**9)}"
    with store.database.session() as conn:
        conn.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'app' IN ROLE headway_server")
        yield psycopg.conninfo.make_conninfo(database_url, user=name, password="app")
        conn.execute(f"DROP OWNED BY {name}")
        conn.execute(f"DROP ROLE {name}")


def test_a_server_needs_no_more_than_the_servers_role(store: EventStore, login: str) -> None:
    """Append, read behind the wall, keys and checkpoints as a login that owns nothing."""
    with EventStore(login, log="ours", projection=Progress(), pool_size=2) as app:
        (answer,) = app.append("job", [NewEvent(type="step.completed", step="own")])
        walled = app.walled(app.log_id())
        job = read_snapshot(walled, "job")
        assert job is not None
        assert (job.position, job.status) == (answer.position, "running")
        assert THEIRS not in repr(walled.read_log())
        Checkpoints(app).create("billing")
        with store.database.session() as conn:
            key_table.create(conn, 1)
        with app.database.session() as conn:
            with pytest.raises(pg.InsufficientPrivilege):
                key_table.create(conn, 1)
            assert len(key_table.list_keys(conn)) == 1
            assert len(key_table.signing_keys(conn)) == 1
        assert store.head().system_id == app.head().system_id
        assert app.head().epoch == 1


def test_a_whole_server_runs_as_a_login_that_owns_nothing(store: EventStore, login: str, redis_url: str) -> None:
    """API, relay and projections of every log with `headway_server` alone."""
    from projections.projection import checkpoint_of
    from projections.shipped.failures import Failures

    with store.database.session() as conn:
        key = key_table.create(conn, 1)
    name = checkpoint_of(Failures.name, Failures.version)
    with serving(login, redis_url, keyless=False, log="ours") as server:
        event = {"type": "job.failed", "data": {"error": {"type": "E", "message": "m"}}}
        posted = httpx.post(f"{server.url}/v1/jobs/job/events", json=event, headers=bearer(key))
        assert posted.status_code == 201, posted.text
        position = posted.json()["events"][0]["position"]

        def caught_up() -> bool:
            checkpoints = {lag.name: lag.checkpoint.position for lag in Checkpoints(store).list()}
            relayed = max((at for of, at in checkpoints.items() if of.startswith("relay:")), default=0)
            return min(relayed, checkpoints.get(name, 0)) >= position

        wait_until(caught_up, "relay and projections are there")
        assert server.services.walls
        assert httpx.get(f"{server.url}/v1/jobs/job", headers=bearer(key)).json()["status"] == "failed"
    with store.database.session() as conn:
        assert conn.execute("SELECT sum(count) FROM failures WHERE log_id = 1").fetchone() == (1,)


def test_the_wall_stands_behind_pgbouncer_too(store: EventStore, database_url: str) -> None:
    """No session settings, no prepared statements: what a transaction pooler needs."""
    with EventStore(database_url, log="ours", projection=Progress(), pool_size=1, pgbouncer=True) as pooled:
        for _ in range(8):
            assert len(pooled.walled(1).read_log()) == 8
            assert told(READS["snapshot"], broken(pooled, 1)) == "no such log"
            with pooled.database.session() as conn:
                assert conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
                assert conn.execute("SELECT current_user = session_user").fetchone() == (True,)


def test_a_pooled_connection_keeps_no_tenant(database_url: str) -> None:
    """A2: 2,000 reads of 8 tenants, side by side over 4 connections: every row is of who asked, nothing stays set."""
    with EventStore(database_url, log="log-0", projection=Progress(), pool_size=4) as store:
        for n in range(8):
            store.create_log(f"log-{n}")
            store.for_log(f"log-{n}").append("job", story(f"tenant-{n}"))
        walled = [store.for_log(f"log-{n}").walled(n + 1) for n in range(8)]

        def ask(turn: int) -> None:
            n = turn % 8
            job = read_snapshot(walled[n], "job")
            assert job is not None
            assert [step.step for step in job.steps] == [f"tenant-{n}"]
            events = walled[n].read_log()
            assert {event.step for event in events} == {None, f"tenant-{n}"}
            assert len(events) == 4
            if turn % 7 == 0:
                with store.database.session() as conn:
                    row = conn.execute(
                        "SELECT current_user = session_user, current_setting('headway.log_id', true),"
                        " (SELECT count(*) FROM events), current_setting('statement_timeout')"
                    ).fetchone()
                assert row is not None
                assert (row[0], row[1] or "", row[2], row[3]) == (True, "", 32, "0")

        turns = list(range(2_000))
        random.shuffle(turns)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(ask, turns))


def test_a_read_that_fails_leaves_its_connection_clean(unchanged: EventStore) -> None:
    with unchanged.database.session() as conn:
        pid = conn.info.backend_pid
    walled = unchanged.walled(1).database
    with pytest.raises(pg.DivisionByZero), walled.session() as conn:
        assert conn.info.backend_pid == pid
        conn.execute("SELECT 1/0").fetchone()
    with pytest.raises(KeyError), walled.session() as conn:
        raise KeyError
    with unchanged.database.session() as conn:
        assert conn.info.backend_pid == pid
        assert conn.execute("SELECT current_user = session_user").fetchone() == (True,)


def test_nothing_is_written_from_behind_the_wall(unchanged: EventStore) -> None:
    statements = (
        "INSERT INTO epochs SELECT * FROM epochs",
        "CREATE TABLE mine (n int)",
        "SELECT nextval('logs_log_id_seq')",
    )
    for statement in statements:
        with pytest.raises((pg.ReadOnlySqlTransaction, pg.InsufficientPrivilege)), \
                unchanged.walled(1).database.session() as conn:  # fmt: skip
            conn.execute(statement)


def test_a_rebuild_carries_policies_and_grants_over_also_those_that_somebody_added(
    store: EventStore, database_url: str
) -> None:
    fill(store, random.Random(1), jobs=3, events=60)
    with store.database.session() as conn:
        conn.execute("CREATE POLICY mine ON steps AS RESTRICTIVE FOR SELECT TO headway_audit USING (step <> 'hidden')")
        conn.execute("GRANT SELECT (job_id, status) ON jobs TO headway_owner WITH GRANT OPTION")
        conn.execute("GRANT SELECT ON attempts TO PUBLIC")
    before = policies(database_url), catalog(database_url)
    rebuild(store, processes=1)
    assert (policies(database_url), catalog(database_url)) == before
    assert told(READS["snapshots"], broken(store, 1)) == "no such log"


def policies(url: str) -> list[Any]:
    with psycopg.connect(url) as conn:
        columns = conn.execute(
            "SELECT attrelid::regclass::text, attname, attacl::text FROM pg_attribute WHERE attacl IS NOT NULL"
            " AND attrelid IN ('jobs'::regclass, 'steps'::regclass, 'attempts'::regclass) ORDER BY 1, 2"
        ).fetchall()
        return (
            columns
            + conn.execute(
                "SELECT tablename, policyname, permissive, roles::text, cmd, qual, with_check FROM pg_policies"
                " WHERE schemaname = 'public' AND tablename IN ('jobs', 'steps', 'attempts', 'counted') ORDER BY 1, 2"
            ).fetchall()
        )


class Counted(Projection):
    """A projection of a user's own."""

    name, version = "counted", 1
    tables = (
        "CREATE TABLE counted (log_id smallint, job_id text, n int, PRIMARY KEY (log_id, job_id))",
        "CREATE VIEW counted_most AS SELECT log_id, max(n) AS most FROM counted GROUP BY log_id",
    )

    def handle(self, conn: Any, events: Any) -> None:
        import sqlalchemy as sa

        add = sa.text(
            "INSERT INTO counted AS c VALUES (:log_id, :job_id, 1)"
            " ON CONFLICT (log_id, job_id) DO UPDATE SET n = c.n + 1"
        )
        for event in events:
            conn.execute(add, {"log_id": events.log_id, "job_id": event.job_id})


def test_the_tables_of_a_users_projection_are_behind_the_wall_too_and_stay_there(
    store: EventStore, database_url: str
) -> None:
    with store.database.session() as conn, conn.transaction():
        ensure(conn, Counted())
    before = policies(database_url)
    assert any(row[0] == "counted" for row in before)
    rebuild_projection(store, Counted())
    assert policies(database_url) == before
    with store.walled(1).database.session() as conn:
        assert {row[0] for row in conn.execute("SELECT DISTINCT log_id FROM counted").fetchall()} == {1}
        assert conn.execute("SELECT log_id FROM counted_most").fetchall() == [(1,)]
    with store.database.session() as conn:
        assert {row[0] for row in conn.execute("SELECT DISTINCT log_id FROM counted").fetchall()} == {1, 2}


def test_who_may_not_enter_is_told_so(store: EventStore, login: str) -> None:
    with psycopg.connect(login, autocommit=True) as conn:
        assert wall.stands(conn)
        assert wall.may_enter(conn)
        with store.database.session() as above:
            above.execute(f"REVOKE headway_server FROM {conn.info.user}")
        assert not wall.may_enter(conn)
