"""The composition root: the only place that knows all classes. What a process needs is made here, and closed here.

    with wired(Settings.load()) as wiring:
        store = wiring.store()

Where no address is set, servers are started in the data folder (or adopted, when they run already), the database is
migrated and the log `default` is made. With an address set nothing is started and nothing is changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.to_thread
import msgspec

from api.settings import DEFAULT_LOG, Settings

if TYPE_CHECKING:
    from api.embedded import Lease
    from eventstore.inline import InlineProjection
    from eventstore.relay import Relay
    from eventstore.store import EventStore

logger = logging.getLogger("headway.wiring")

LOOK: Final = 2.0  # seconds between looks at embedded servers
Progress = Callable[[str], None]


class WiringError(Exception):
    """What this process needs is not there. The text says what to do."""

    code: ClassVar[str] = "not_wired"
    retryable: ClassVar[bool] = False


class NotMigrated(WiringError):
    """The database's tables are not of this version. `found` is its revision, None without any, `needed` ours."""

    code = "not_migrated"

    def __init__(self, found: str | None, needed: str) -> None:
        if found is not None and found > needed:
            text = f"the database has schema {found}, newer than this program's {needed}: upgrade this program"
        else:
            state = "no tables of Headway yet" if found is None else f"schema {found}, this program needs {needed}"
            text = f"the database has {state}: run `headway migrate`"
        super().__init__(text)
        self.found, self.needed = found, needed


class NoRedis(WiringError):
    """Redis is needed and no address is set."""

    code = "no_redis"

    def __init__(self) -> None:
        super().__init__("DATABASE_URL is set and REDIS_URL is not: set REDIS_URL to the Redis or Valkey to publish to")


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where the servers are. `redis_url` is "" where there is none. `embedded`: PostgreSQL is one that we started."""

    database_url: str
    redis_url: str
    embedded: bool

    def __repr__(self) -> str:
        shown = Settings(database_url=self.database_url, redis_url=self.redis_url).shown()
        return f"Addresses(database_url={shown['database_url']!r}, redis_url={shown['redis_url']!r})"


class Wiring:
    """What one process holds open. Made by `wired`; everything is made on first use."""

    def __init__(self, settings: Settings, *, redis: bool, progress: Progress | None) -> None:
        self.settings = settings
        self._redis = redis
        self._progress = progress
        self._lease: Lease | None = None
        self._addresses: Addresses | None = None
        self._store: EventStore | None = None

    def addresses(self) -> Addresses:
        """Where the servers are; the embedded ones run after this. Raises `EmbeddedError`."""
        if self._addresses is None:
            settings = self.settings
            database_url, redis_url = settings.database_url, settings.redis_url
            if settings.embeds_postgres:
                from api import embedded

                self._lease = embedded.start(
                    settings.data_dir or None, valkey=self._redis and settings.embeds_redis, progress=self._progress
                )
                database_url = self._lease.servers.database_url
                redis_url = redis_url or self._lease.servers.redis_url
            self._addresses = Addresses(
                database_url=database_url, redis_url=redis_url, embedded=settings.embeds_postgres
            )
        return self._addresses

    def store(self, log: str | None = None) -> EventStore:
        """The store of a log (default: the settings'). Raises `NotMigrated`, and what the store raises."""
        if self._store is None:
            where = self.addresses()
            store = bare_store(where.database_url, self.settings)
            try:
                if where.embedded:
                    prepare_database(store, self._progress)
                else:
                    check_migrated(store)
            except BaseException:
                store.close()
                raise
            self._store = store
        wanted = log or self.settings.log
        return self._store if wanted == self._store.log else self._store.for_log(wanted)

    def redis_url(self) -> str:
        """Where Redis is. Raises `NoRedis`."""
        if not self.addresses().redis_url:
            raise NoRedis
        return self.addresses().redis_url

    def live_redis_url(self) -> str | None:
        """Where Redis is, if a relay keeps this log's stream fresh there; else live readers ask PostgreSQL."""
        import redis

        from eventstore.wire import heartbeat_key

        url = self.addresses().redis_url
        if not url:
            return None
        try:
            with redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
                return url if client.exists(heartbeat_key(self.settings.log)) else None
        except (redis.RedisError, OSError, ValueError) as error:
            logger.warning("Redis can't be used, PostgreSQL is read instead: %s", error)
            return None

    def relay(self, log: str | None = None) -> Relay:
        """A relay of a log to Redis Streams with its snapshot cache. Raises `NoRedis`, `NoSuchLog`."""
        from eventstore.publishers.redis_streams import RedisStreams
        from eventstore.relay import Relay
        from projections.snapshots import cached_snapshots

        url = self.redis_url()
        store = self.store(log)
        store.log_id()
        stream = RedisStreams(url, keep=self.settings.stream_length, snapshot_ttl=self.settings.snapshot_ttl)
        return Relay(store, [stream], snapshots=cached_snapshots(store))

    def data_dir(self) -> str:
        """The folder of the embedded servers; "" where there are none."""
        self.addresses()
        return "" if self._lease is None else self._lease.servers.data_dir

    async def keep_running(self) -> None:
        """Start embedded servers again that have died, until cancelled; for programs that run long."""
        lease = self._lease
        while lease is not None:
            await anyio.sleep(LOOK)
            try:
                await anyio.to_thread.run_sync(lease.ensure_running)
            except Exception as error:
                logger.warning("an embedded server is down and can't be started again: %s", error)

    def close(self) -> None:
        """Append what is queued, close connections, leave the embedded servers. Closing twice is no error."""
        store, self._store = self._store, None
        lease, self._lease = self._lease, None
        self._addresses = None
        try:
            if store is not None:
                store.close()
        finally:
            if lease is not None:
                lease.close()


@contextmanager
def wired(settings: Settings, *, redis: bool = True, progress: Progress | None = None) -> Iterator[Wiring]:
    """Everything that a process needs, closed at the end. `redis=False`: an embedded Valkey is not needed.

    `progress` gets short texts for people while servers start.
    """
    wiring = Wiring(settings, redis=redis, progress=progress)
    try:
        yield wiring
    finally:
        wiring.close()


@contextmanager
def open_store(
    settings: Settings, log: str | None = None, *, redis: bool = False, progress: Progress | None = None
) -> Iterator[EventStore]:
    """The store of a log, with its inline projection, ready to append; see `wired`."""
    with wired(settings, redis=redis, progress=progress) as wiring:
        yield wiring.store(log)


def bare_store(database_url: str, settings: Settings) -> EventStore:
    """A store over a database that nobody looked at yet. Connects on first use; the caller closes it."""
    from eventstore.store import EventStore
    from headway.redact import redact_data

    return EventStore(
        database_url,
        log=settings.log,
        projection=inline_projection(),
        redact=redact_data,
        max_job_events=settings.max_job_events,
        pool_size=settings.pool_size,
        pgbouncer=settings.pgbouncer,
        allow_unsafe=settings.allow_unsafe,
    )


def inline_projection() -> InlineProjection:
    """The projection that is folded in each append's transaction."""
    from projections.progress import Progress

    return Progress()


def prepare_database(store: EventStore, progress: Progress | None = None) -> None:
    """Bring a database of our own to this version's schema and make its first log. Safe from several processes."""
    from eventstore.migrate import migrate
    from eventstore.schema import SCHEMA_VERSION

    found = schema_of(store)
    if found is None or found < SCHEMA_VERSION:
        if progress is not None:
            progress("creating the tables…" if found is None else "migrating the database…")
        migrate(store.database.url)
    elif found > SCHEMA_VERSION:
        raise NotMigrated(found, SCHEMA_VERSION)
    ensure_log(store, DEFAULT_LOG)


def ensure_log(store: EventStore, log: str) -> bool:
    """Make a log unless it is there; whether it was made. Looks first: a refused insert would use up a number."""
    if any(head.name == log for head in store.logs()):
        return False
    return store.create_log(log)


def check_migrated(store: EventStore) -> None:
    """Raise `NotMigrated` unless the database has this version's schema."""
    from eventstore.schema import SCHEMA_VERSION

    found = schema_of(store)
    if found != SCHEMA_VERSION:
        raise NotMigrated(found, SCHEMA_VERSION)


def schema_of(store: EventStore) -> str | None:
    """The revision of the store's database; None if it was never migrated. Raises `StoreUnavailable`."""
    from eventstore.migrate import current_revision

    with store.database.session() as conn:
        return current_revision(conn)


def points_here(settings: Settings) -> bool:
    """Whether DATABASE_URL is what `headway up` printed for this data folder, be its servers up or down."""
    from api.embedded import EmbeddedError
    from api.embedded.folder import locate

    host = "".join(parse_qs(urlsplit(settings.database_url).query).get("host", []))
    try:
        folder = locate(settings.data_dir or None)
    except (EmbeddedError, OSError):
        return False
    # Of a data folder whose path is too long the sockets lie elsewhere, under a name made from that path.
    elsewhere = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return host.startswith("/") and (Path(host) == folder / "run" or Path(host).name.endswith(f"-{elsewhere}"))
