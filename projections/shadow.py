"""A second set of the tables jobs, steps and attempts, under names with a suffix: filled, caught up, compared, swapped.

Which events are in it is kept in `rebuilt` (suffix, log_id → position), in the transaction that wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from psycopg import sql

from eventstore import statements
from eventstore.events import LOG_JOB, RecordedEvent
from eventstore.hot import HotStatement, Param, int8
from eventstore.pgarray import PgArray
from eventstore.statements import Conn
from projections import schema, wall
from projections.past import PastEvent, Rules, fold_past, read_rules
from projections.progress import Progress
from projections.state import JobState

LIVE: Final = ""
NEW: Final = "_rebuild"
OLD: Final = "_old"
VERIFIED: Final = "_verified"
"""In the ledger only: up to where each log was compared."""
_ASIDE: Final = "_aside"

_TABLE: Final = re.compile(r"(?<![\w(])(jobs|steps|attempts)(?!\w)")
_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS rebuilt (
    suffix   text NOT NULL,
    log_id   smallint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (suffix, log_id)
)
"""
_RENAMED: Final = """
SELECT c.relkind, c.relname FROM pg_class c
 WHERE c.oid IN (SELECT to_regclass(unnest(%(tables)s::text[])))
    OR c.oid IN (SELECT indexrelid FROM pg_index
                  WHERE indrelid IN (SELECT to_regclass(unnest(%(tables)s::text[]))))
 ORDER BY c.relkind DESC, c.relname
"""
_CONSTRAINTS: Final = """
SELECT c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
 WHERE c.oid IN (SELECT to_regclass(unnest(%s::text[]))) AND k.conname LIKE %s ORDER BY 1, 2
"""
_KEYS: Final = (("jobs", ("job_id",)), ("steps", ("job_id", "step")), ("attempts", ("job_id", "step", "attempt")))
_MOVED: Final = """
WITH moved AS MATERIALIZED (
    SELECT j.log_id, j.job_id FROM jobs j LEFT JOIN rebuilt p ON p.suffix = {suffix} AND p.log_id = j.log_id
     WHERE j.position > coalesce(p.position, 0)
)
"""
_DIFFER_STILL: Final = sql.SQL(
    _MOVED
    + """
SELECT concat_ws(' · ', {shown}), l::text, r::text FROM {live} l FULL JOIN {shadow} r USING ({columns})
 WHERE l::text IS DISTINCT FROM r::text
   AND NOT EXISTS (SELECT FROM moved m WHERE m.log_id = coalesce(l.log_id, r.log_id)
                                         AND m.job_id = coalesce(l.job_id, r.job_id))
 ORDER BY 1 LIMIT {limit}
"""
)
_DIFFER_MOVED: Final = sql.SQL(
    _MOVED  # noqa: S608
    + """
SELECT concat_ws(' · ', {shown}), l::text, r::text
  FROM (SELECT t.* FROM moved m JOIN {live} t USING (log_id, job_id)) l
  FULL JOIN (SELECT t.* FROM moved m JOIN {shadow} t USING (log_id, job_id)) r USING ({columns})
 WHERE l::text IS DISTINCT FROM r::text ORDER BY 1 LIMIT {limit}
"""
)
"""At the gate, where appends wait: by the primary keys of the few jobs that went on."""
_PAGE: Final = 1_000


class Difference(msgspec.Struct, frozen=True):
    """A row that a rebuild would change: its table, its key, and both rows as PostgreSQL writes them (None: no row)."""

    table: str
    key: str
    live: str | None
    rebuilt: str | None


class ShadowProgress(Progress):
    """The inline projection on tables with a suffix."""

    def __init__(self, suffix: str) -> None:
        self.load_sql = _named(Progress.load_sql, suffix)
        super().__init__()
        self.write_ctes = _named(Progress.write_ctes, suffix)


class Tables:
    """One set of tables. Statements run on the connection's transaction; the caller commits."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self._progress = ShadowProgress(suffix)
        ctes = f"WITH won (log_id) AS (VALUES (%(won)s::bigint::smallint)), {self._progress.write_ctes} SELECT 1"
        self._write = HotStatement(ctes)

    def create(self, conn: Conn) -> None:
        """Make the tables and the ledger."""
        conn.execute(_LEDGER)
        for statement in schema.ddl(self.suffix):
            conn.execute(statement)

    def drop(self, conn: Conn) -> None:
        """Take the tables away, and what the ledger says of them. Nothing happens if they are not there."""
        for name in schema.NAMES:
            conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name + self.suffix)))
        conn.execute(_LEDGER)
        conn.execute("DELETE FROM rebuilt WHERE suffix = %s", (self.suffix,))

    def exist(self, conn: Conn) -> bool:
        row = conn.execute("SELECT to_regclass(%s) IS NOT NULL", ("jobs" + self.suffix,)).fetchone()
        return row is not None and bool(row[0])

    def write(self, conn: Conn, log_id: int, states: Sequence[JobState]) -> None:
        """Write these jobs with all that was touched of them."""
        params: dict[str, Param | PgArray] = {"won": int8(log_id), **self._progress.rows(log_id, states)}
        self._write.execute(conn, params)

    def position(self, conn: Conn, log_id: int) -> int:
        """Up to where the log is in these tables."""
        row = conn.execute(
            "SELECT position FROM rebuilt WHERE suffix = %s AND log_id = %s", (self.suffix, log_id)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def set_position(self, conn: Conn, log_id: int, position: int, *, ledger: str | None = None) -> None:
        conn.execute(
            "INSERT INTO rebuilt (suffix, log_id, position) VALUES (%s, %s, %s)"
            " ON CONFLICT (suffix, log_id) DO UPDATE SET position = excluded.position",
            (self.suffix if ledger is None else ledger, log_id, position),
        )

    def catch_up(self, conn: Conn, log_id: int, upto: int, told: Callable[[int], None] | None = None) -> None:
        """Fold what follows the tables' position, up to `upto`, page by page, each page in a transaction."""
        after, rules = self.position(conn, log_id), read_rules(conn, log_id)
        while after < upto:
            with conn.transaction():
                page = statements.recorded(conn.execute(statements.READ_LOG, (log_id, after, upto, _PAGE), binary=True))
                self.fold_page(conn, log_id, page, rules)
                after = page[-1].position
                self.set_position(conn, log_id, after)
            if told is not None:
                told(len(page))

    def fold_page(self, conn: Conn, log_id: int, page: Sequence[RecordedEvent], rules: Rules) -> None:
        """Load the jobs of a page from these tables, fold the page, write them back."""
        wanted: dict[str, list[PastEvent]] = {}
        for event in page:
            if event.job_id != LOG_JOB:
                wanted.setdefault(event.job_id, []).append(PastEvent(event))
        if not wanted:
            return
        states = self._progress.load(conn, log_id, wanted)
        fold_past(states, page, rules)
        self.write(conn, log_id, list(states.values()))


def swap(conn: Conn, incoming: Tables) -> None:
    """Make `incoming` the live tables and the live ones OLD. Inside a transaction that holds both exclusively; the
    tables that were OLD must be gone. Names of indexes and constraints follow, with row-level security, policies and
    grants, so the catalog looks as before."""
    for name in schema.NAMES:
        wall.carry(conn, sql.Identifier(name), sql.Identifier(name + incoming.suffix))
    live = _names(conn, LIVE)
    coming = _names(conn, incoming.suffix)
    for kind, name in live:
        _rename(conn, kind, name, name + _ASIDE)
    for kind, name in coming:
        _rename(conn, kind, name, name.replace(incoming.suffix, ""))
    for kind, name in live:
        _rename(conn, kind, name + _ASIDE, name + OLD)
    for table, name in conn.execute(_CONSTRAINTS, (list(schema.NAMES), f"%{incoming.suffix}%")).fetchall():
        rename = sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}")
        names = (sql.Identifier(table), sql.Identifier(name), sql.Identifier(name.replace(incoming.suffix, "")))
        conn.execute(rename.format(*names))


def differences(conn: Conn, shadow: Tables, ledger: str, *, after: bool, limit: int = 20) -> list[Difference]:
    """Rows that differ between the live tables and the shadow: of the jobs whose last event is not above what `ledger`
    says of their log, or (`after`) of the jobs that went on since."""
    found: list[Difference] = []
    for table, key in _KEYS:
        query = (_DIFFER_MOVED if after else _DIFFER_STILL).format(
            shown=sql.SQL(", ").join(
                sql.SQL("coalesce(l.{0}, r.{0})").format(sql.Identifier(column)) for column in key
            ),
            live=sql.Identifier(table),
            shadow=sql.Identifier(table + shadow.suffix),
            columns=sql.SQL(", ").join(map(sql.Identifier, ("log_id", *key))),
            suffix=sql.Literal(ledger),
            limit=sql.Literal(limit - len(found)),
        )
        found += [Difference(table, *row) for row in conn.execute(query).fetchall()]
    return found


def _names(conn: Conn, suffix: str) -> list[tuple[str, str]]:
    tables = [name + suffix for name in schema.NAMES]
    return [(str(kind), str(name)) for kind, name in conn.execute(_RENAMED, {"tables": tables}).fetchall()]


def _rename(conn: Conn, kind: str, name: str, to: str) -> None:
    what = sql.SQL("TABLE" if kind == "r" else "INDEX")
    conn.execute(sql.SQL("ALTER {} {} RENAME TO {}").format(what, sql.Identifier(name), sql.Identifier(to)))


def _named(text: str, suffix: str) -> str:
    """The statement on tables with the suffix."""
    return _TABLE.sub(lambda found: found[1] + suffix, text)
