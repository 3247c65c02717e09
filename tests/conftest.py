"""Fixtures that every folder shares: one cluster per run, a database per test from a template, a Valkey per run.

Servers are embedded unless DATABASE_URL / REDIS_URL name others. A missing service fails the run.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.servers import embedded_servers

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell: programs that tests start and end with Ctrl-C would be deaf to it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[str, str]]:
    """DATABASE_URL and REDIS_URL of the run's servers."""
    given = os.environ.get("DATABASE_URL"), os.environ.get("REDIS_URL")
    if given[0] and given[1]:
        yield given[0], given[1]
        return
    with embedded_servers() as started:
        yield given[0] or started.database_url, given[1] or started.redis_url


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    return make_conninfo(**{**conninfo_to_dict(url), "dbname": name})


@pytest.fixture(scope="session")
def template(servers: tuple[str, str]) -> Iterator[str]:
    """A migrated database that no test touches: each test gets a copy of it."""
    from eventstore.migrate import migrate

    name = f"headway_template_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(servers[0], autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"')
        migrate(with_database(servers[0], name))
        yield name
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def database_url(servers: tuple[str, str], template: str) -> Iterator[str]:
    """A fresh, migrated database without logs."""
    name = f"headway_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(servers[0], autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        yield with_database(servers[0], name)
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def empty_database_url(servers: tuple[str, str]) -> Iterator[str]:
    """A fresh database that was never migrated."""
    name = f"headway_empty_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(servers[0], autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        yield with_database(servers[0], name)
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def redis_url(servers: tuple[str, str]) -> Iterator[str]:
    """The run's Valkey, emptied before the test."""
    import redis

    with redis.from_url(servers[1]) as client:
        client.flushall()
    yield servers[1]
