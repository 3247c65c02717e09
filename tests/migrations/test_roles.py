"""The roles of the second wall belong to the cluster: made by whoever may, in whatever order databases are migrated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from eventstore.events import NewEvent
from eventstore.migrate import migrate
from eventstore.store import EventStore
from eventstore.wall_schema import ROLES
from projections import wall
from projections.progress import Progress
from tests.support.cli import Cli
from tests.support.servers import embedded_servers
from tests.support.sessions import wait_until


@pytest.fixture
def cluster() -> Iterator[str]:
    """A cluster of its own, with the databases `one` and `two`, owned by an ordinary login. The superuser's address."""
    with embedded_servers() as started, psycopg.connect(started.database_url, autocommit=True) as conn:
        conn.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
        for name in ("one", "two"):
            conn.execute(f"CREATE DATABASE {name} OWNER plain")
        yield started.database_url


def as_plain(cluster: str, database: str) -> str:
    return make_conninfo(cluster, user="plain", password="plain", dbname=database)


def works(url: str, *, walled: bool) -> None:
    """Append and read, behind the wall too."""
    with EventStore(url, projection=Progress(), pool_size=2) as store:
        store.create_log()
        store.append("job", [NewEvent(type="job.started")])
        assert len((store.walled(store.log_id()) if walled else store).read_log()) == 1


def test_who_may_not_make_roles_migrates_all_the_same_and_hears_what_to_do(
    cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = as_plain(cluster, "one")
    migrate(url)
    assert "may not make roles" in caplog.text
    works(url, walled=False)
    cli = Cli(DATABASE_URL=url)
    advice = finding(cli)["advice"]
    assert finding(cli)["level"] == "warn"
    assert all(f"CREATE ROLE {role} NOLOGIN" in advice for role in ROLES)
    with psycopg.connect(cluster, autocommit=True) as conn:
        for statement in advice.split(" runs: ")[1].split("; then ")[0].split("; "):
            conn.execute(statement)
    assert cli("migrate", "--json").json["row_security"] is True
    assert finding(cli)["advice"] == "GRANT headway_reader TO plain"
    with psycopg.connect(cluster, autocommit=True) as conn:
        conn.execute(finding(cli)["advice"])
    assert finding(cli)["level"] == "ok"
    with EventStore(url, projection=Progress(), pool_size=2) as store:
        assert len(store.walled(1).read_log()) == 1


def finding(cli: Cli) -> dict[str, str]:
    told = cli("doctor", "--json", code=0).json
    found: dict[str, str] = next(one for one in told["findings"] if one["check"] == "row security")
    return found


def test_who_may_make_roles_needs_nobody_else(cluster: str) -> None:
    with psycopg.connect(cluster, autocommit=True) as conn:
        conn.execute("ALTER ROLE plain CREATEROLE")
    for name in ("one", "two"):
        migrate(as_plain(cluster, name))
        works(as_plain(cluster, name), walled=True)


def run(url: str) -> subprocess.Popen[bytes]:
    """`headway migrate` on its way."""
    return subprocess.Popen([sys.executable, "-m", "headway", "migrate"], env={**os.environ, "DATABASE_URL": url})


def test_two_databases_of_a_cluster_are_migrated_at_once(cluster: str) -> None:
    """The first has made the roles and has not committed: the second waits for that, and takes them as they are."""
    urls = [make_conninfo(cluster, dbname=name) for name in ("one", "two")]
    with psycopg.connect(cluster) as first:
        first.execute("CREATE ROLE headway_append NOLOGIN")
        doing = [run(url) for url in urls]  # each a process: Alembic works once at a time in one
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'headway'"
        )
        with psycopg.connect(cluster, autocommit=True) as watcher:
            wait_until(lambda: watcher.execute(waiting).fetchone() == (2,), "both wait for the role")
        first.commit()
        for one in doing:
            assert one.wait(60) == 0
    for url in urls:
        with psycopg.connect(url, autocommit=True) as conn:
            assert wall.stands(conn)
            assert wall.missing_roles(conn) == []
        works(url, walled=True)


def test_the_tables_may_belong_to_a_role_that_nobody_logs_in_as(cluster: str) -> None:
    """As the README says: a login for migrations becomes the owner, the server's login owns nothing."""
    with psycopg.connect(cluster, autocommit=True) as conn:
        for statement in wall.BY_HAND:
            conn.execute(statement)
        conn.execute("GRANT headway_owner TO plain")
        conn.execute("CREATE DATABASE three OWNER headway_owner")
        conn.execute("CREATE ROLE app LOGIN PASSWORD 'plain'")
        conn.execute("GRANT headway_server TO app")
    deploying = Cli(DATABASE_URL=make_conninfo(as_plain(cluster, "three"), options="-c role=headway_owner"))
    assert deploying("migrate", "--json").json["row_security"] is True
    app = make_conninfo(cluster, user="app", password="plain", dbname="three")
    with EventStore(app, projection=Progress(), pool_size=2) as store:
        store.append("job", [NewEvent(type="job.started")])
        assert len(store.walled(store.log_id()).read_log()) == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege), store.database.session() as conn:
            conn.execute("ALTER TABLE events DISABLE TRIGGER events_immutable")
    deploying("rebuild", "--verify")
    assert finding(Cli(DATABASE_URL=app))["level"] == "ok"
    with psycopg.connect(make_conninfo(cluster, dbname="three")) as conn:
        owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
        assert conn.execute(owners).fetchall() == [("headway_owner",)]
