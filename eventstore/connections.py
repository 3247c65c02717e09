"""How this package reaches PostgreSQL: one pool for reads, one connection of its own for each committer.

Settings of a session are hints for the case without PgBouncer; what must hold is pinned inside the statements.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from eventstore import hot as hot_statements
from eventstore import statements
from eventstore.database_errors import tells_of_the_server, unavailable
from eventstore.errors import StoreUnavailable, UnsafeDurability
from eventstore.statements import Conn

logger = logging.getLogger("headway.connections")

CONNECT_TIMEOUT: Final = 5  # seconds
TCP_USER_TIMEOUT: Final = 10_000  # milliseconds; keepalive does not look while what was sent is not acknowledged
OPTIONS: Final = (
    "-c idle_in_transaction_session_timeout=10s -c default_transaction_isolation=read\\ committed"
    " -c client_encoding=UTF8 -c plan_cache_mode=force_generic_plan"
)
READ_ONLY: Final = b"BEGIN READ ONLY"
SNAPSHOT: Final = (b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",)
# Not set_config: a SELECT would take the transaction's snapshot, and that must come after a LOCK TABLE that follows.
AS_READER: Final = (b"SET LOCAL statement_timeout = 10000", b"SET LOCAL ROLE headway_reader")

INHERITED: Final[list[object]] = []
"""What a forked child must neither use nor close nor let the garbage collector close."""


class Database:
    """One PostgreSQL database. Connects on first use.

    `pgbouncer=True`: no session settings and no prepared statements, so that a transaction pooler may stand between.
    """

    def __init__(self, url: str, *, pool_size: int = 10, pgbouncer: bool = False) -> None:
        self.url = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self.pgbouncer = pgbouncer
        self.pool_size = pool_size
        self._engine: sa.Engine | None = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> sa.Engine:
        """The pool, in autocommit mode; who wants a transaction opens one."""
        with self._lock:
            if self._engine is None:
                self._engine = sa.create_engine(
                    "postgresql+psycopg://",
                    creator=self.connect,
                    isolation_level="AUTOCOMMIT",
                    pool_size=self.pool_size,
                    max_overflow=0,
                    pool_timeout=5,
                    pool_pre_ping=True,
                )
            return self._engine

    def connect(self, *, hot: bool = False) -> Conn:
        """A new autocommit connection of its own. Raises psycopg's errors.

        `hot`: for `HotStatement`s, which prepare themselves. psycopg then prepares nothing: after a ROLLBACK or a
        DROP it forgets what it had prepared by DEALLOCATE ALL, which would take theirs too.
        """
        options: dict[str, Any] = {}
        if not self.pgbouncer:
            given = conninfo_to_dict(self.url).get("options") or ""
            options["options"] = f"{given} {OPTIONS}".strip()
        conn = psycopg.connect(
            self.url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT,
            application_name="headway",
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=2,
            tcp_user_timeout=TCP_USER_TIMEOUT,
            prepare_threshold=None if hot or self.pgbouncer else 5,
            **options,
        )
        conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        if self.pgbouncer:
            hot_statements.never_prepare(conn)
        return statements.adapt(conn)

    @contextmanager
    def session(self, *, snapshot: bool = False) -> Iterator[Conn]:
        """A pooled connection, as the driver's; with `snapshot` in one REPEATABLE READ, READ ONLY transaction, whose
        snapshot is taken by the first statement that reads. `LOCK TABLE` is none.

        Raises `StoreUnavailable` when the database can't be reached or is not well, also from inside the block; what
        PostgreSQL says of the statements themselves goes up as it is.
        """
        try:
            pooled = self.engine.connect()
        except sa.exc.TimeoutError:
            raise StoreUnavailable(f"all {self.pool_size} connections are in use: try again in a moment") from None
        except (sa.exc.OperationalError, psycopg.OperationalError) as error:
            raise unavailable(getattr(error, "orig", None) or error) from error
        with pooled:
            driver: Conn = pooled.connection.driver_connection  # type: ignore[assignment]
            try:
                if snapshot:
                    with _transaction(driver, SNAPSHOT):
                        yield driver
                else:
                    yield driver
            except pg.UndefinedTable as error:
                raise StoreUnavailable(f"{str(error).splitlines()[0]}: run `headway migrate`") from error
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if driver.closed:
                    pooled.invalidate()
                elif not tells_of_the_server(error):
                    raise
                raise unavailable(error) from error

    def dispose(self, *, forked: bool = False) -> None:
        """Close the pool; in a forked child only put it aside: its sockets belong to the parent."""
        if forked:
            self._lock = threading.Lock()  # a thread that is not here may hold the old one
        engine, self._engine = self._engine, None
        if engine is not None and not forked:
            engine.dispose()
        elif engine is not None:
            INHERITED.append(engine)


class Walled(Database):
    """The same database, and pool, behind the second wall: every session is a READ ONLY transaction as the role
    `headway_reader`, which row-level security lets see one log. Appending is not possible through it.

    All of it is `SET LOCAL`: it ends with the transaction, so no pooled connection keeps a tenant, also in PgBouncer.
    """

    def __init__(self, database: Database, log_id: int) -> None:
        super().__init__(database.url, pool_size=database.pool_size, pgbouncer=database.pgbouncer)
        self._database = database
        of_log = sql.SQL("SET LOCAL headway.log_id = {}").format(str(int(log_id))).as_string(None).encode()
        self._begin = (READ_ONLY, *AS_READER, of_log)
        self._begin_snapshot = (*SNAPSHOT, *AS_READER, of_log)

    @property
    def engine(self) -> sa.Engine:
        return self._database.engine

    @contextmanager
    def session(self, *, snapshot: bool = False) -> Iterator[Conn]:
        begin = self._begin_snapshot if snapshot else self._begin
        with self._database.session() as conn, _transaction(conn, begin):
            yield conn

    def dispose(self, *, forked: bool = False) -> None:
        """Nothing: the pool is another's."""


@contextmanager
def _transaction(conn: Conn, begin: Iterable[bytes]) -> Iterator[None]:
    """A transaction in pipeline mode: what begins it travels with the first statement of the block."""
    try:
        with conn.pipeline():
            for statement in begin:
                conn.execute(statement, prepare=False)
            yield
            conn.execute(b"COMMIT", prepare=False)
    finally:
        if not conn.closed and conn.info.transaction_status != TransactionStatus.IDLE:
            conn.execute(b"ROLLBACK")


def identity(conn: Conn) -> tuple[str, str]:
    """System id and timeline of the server. Raises `StoreUnavailable` on a standby, which can't append."""
    timeline = conn.execute(statements.TIMELINE).fetchone()
    if timeline is None or timeline[0] is None:
        raise StoreUnavailable("this PostgreSQL server is a read-only standby: connect to the primary")
    try:
        system = conn.execute(statements.SYSTEM_ID).fetchone()
    except pg.InsufficientPrivilege:
        system = None  # managed servers may forbid it; the timeline still tells a failover
    return (str(system[0]) if system else "unknown"), str(timeline[0])


def check_durability(conn: Conn) -> None:
    """Raise `UnsafeDurability` if a crash of this server may lose or tear what it acknowledged."""
    rows = conn.execute(statements.DURABILITY).fetchall()
    off = {name: setting for name, setting in rows if setting == "off"}
    if off:
        raise UnsafeDurability(off)
