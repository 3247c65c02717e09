"""The stores that one contract runs over. A test takes the fixture `open_store` (or `store`) and names no class."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg
import pytest
from anyio.from_thread import start_blocking_portal

from eventstore.aio import AsyncEventStore
from eventstore.memory import InMemoryEventStore
from eventstore.store import EventStore
from tests.conftest import with_database

KINDS = ("memory", "postgres", "async")
OpenStore = Callable[..., Any]


class ThroughAsync:
    """The asynchronous shell, called from a blocking test: what the shell has goes through it, the rest beside it."""

    def __init__(self, store: EventStore, portal: Any) -> None:
        self._store, self._shell, self._portal = store, AsyncEventStore(store), portal

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._shell, name, None)
        if name in ("append", "append_many", "head", "resolve", "read_log", "read_job"):
            return lambda *args, **kwargs: self._portal.call(partial(function, *args, **kwargs))
        return getattr(self._store, name)

    def for_log(self, log: str) -> ThroughAsync:
        return ThroughAsync(self._store.for_log(log), self._portal)


@pytest.fixture(scope="module")
def shared_database(servers: tuple[str, str], template: str) -> Iterator[str]:
    """One migrated database for all tests of a module; each test makes logs of its own in it."""
    name = f"headway_module_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(servers[0], autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        yield with_database(servers[0], name)
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest) -> Iterator[OpenStore]:
    """`open_store(**options)`: a store that looks at a new, empty log; closed after the test."""
    with ExitStack() as stack:

        def opened(**options: Any) -> Any:
            log = f"log-{uuid.uuid4().hex[:12]}"
            if request.param == "memory":
                return stack.enter_context(InMemoryEventStore(log=log, **options))
            url = request.getfixturevalue("shared_database")
            store = stack.enter_context(EventStore(url, log=log, pool_size=2, **options))
            store.create_log()
            if request.param == "async":
                return ThroughAsync(store, stack.enter_context(start_blocking_portal()))
            return store

        yield opened


@pytest.fixture
def store(open_store: OpenStore) -> Any:
    return open_store()
