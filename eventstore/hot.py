"""A statement that runs some thousand times a second: prepared once, parameters packed in binary, straight to libpq.

psycopg's cursor costs about 100 µs per execution with 60 named parameters, a fifth of an append; this costs 10.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Mapping
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

import msgspec
from psycopg import errors as pg
from psycopg import generators, pq

from eventstore.pgarray import PG_EPOCH_US, PgArray
from eventstore.statements import Conn

_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s")
_q: Final = struct.Struct(">q").pack


class Param(msgspec.Struct, gc=False):
    """A binary value and its type's oid (pg_type)."""

    packed: bytes
    oid: int


def int8(value: int) -> Param:
    return Param(_q(value), 20)


def text(value: str) -> Param:
    return Param(value.encode(), 25)


def bytea(value: bytes) -> Param:
    return Param(value, 17)


def boolean(value: bool) -> Param:
    return Param(b"\x01" if value else b"\x00", 16)


def moment(us: int) -> Param:
    """timestamptz from microseconds since 1970."""
    return Param(_q(us - PG_EPOCH_US), 1184)


_pooled: Final[WeakSet[Conn]] = WeakSet()


def never_prepare(conn: Conn) -> None:
    """Prepare nothing on this connection: what is behind it may be another session each time (PgBouncer)."""
    _pooled.add(conn)


_prepared: Final[WeakKeyDictionary[Conn, dict[HotStatement, bytes]]] = WeakKeyDictionary()
_numbers: Final = itertools.count(1)


class HotStatement:
    """SQL with `%(name)s` placeholders. The same name is one parameter; types come from the first execution.

    Inside a transaction use it on a connection of `Database.connect(hot=True)` only.
    """

    def __init__(self, sql: str) -> None:
        names: list[str] = []

        def number(found: re.Match[str]) -> str:
            if found[1] not in names:
                names.append(found[1])
            return f"${names.index(found[1]) + 1}"

        self._sql = _PLACEHOLDER.sub(number, sql).encode()
        self._names = tuple(names)
        self._formats = [pq.Format.BINARY] * len(names)

    def execute(self, conn: Conn, params: Mapping[str, Param | PgArray]) -> pq.abc.PGresult:
        """Run it and wait; results are binary. Raises psycopg's errors, like a cursor would."""
        given, values = self._given(params)
        if conn in _pooled:
            result = conn.pgconn.exec_params(self._sql, values, _oids(given), self._formats, pq.Format.BINARY)
            return _check(conn, result)
        try:
            return _check(conn, self._exec_prepared(conn, given, values))
        except pg.InvalidSqlStatementName:
            # Somebody deallocated it. Inside a transaction that is over now; outside nothing has happened yet.
            _prepared.pop(conn, None)
            if conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                raise
            return _check(conn, self._exec_prepared(conn, given, values))

    def _given(self, params: Mapping[str, Param | PgArray]) -> tuple[list[Param | PgArray], list[bytes]]:
        given = [params[name] for name in self._names]
        return given, [p.packed for p in given]

    def _exec_prepared(self, conn: Conn, given: list[Param | PgArray], values: list[bytes]) -> pq.abc.PGresult:
        return conn.pgconn.exec_prepared(self._prepare(conn, given), values, self._formats, pq.Format.BINARY)

    def _prepare(self, conn: Conn, given: list[Param | PgArray]) -> bytes:
        names = _prepared.setdefault(conn, {})
        name = names.get(self)
        if name is None:
            name = b"headway_%d" % next(_numbers)
            _check(conn, conn.pgconn.prepare(name, self._sql, _oids(given)))
            names[self] = name
        return name

    def _sending(self, conn: Conn, params: Mapping[str, Param | PgArray]) -> Callable[[], None]:
        given, values = self._given(params)
        if conn in _pooled:
            send, sql, oids = conn.pgconn.send_query_params, self._sql, _oids(given)
            return lambda: send(sql, values, oids, self._formats, pq.Format.BINARY)
        send_prepared, name = conn.pgconn.send_query_prepared, self._prepare(conn, given)
        return lambda: send_prepared(name, values, self._formats, pq.Format.BINARY)


def together(conn: Conn, *steps: tuple[HotStatement, Mapping[str, Param | PgArray]]) -> list[pq.abc.PGresult]:
    """Run several statements in one round trip; results are binary.

    Raises the first error, like a cursor would; what came after it was not run. For a connection that one thread
    uses, and not inside `conn.pipeline()`.
    """
    sends = [statement._sending(conn, params) for statement, params in steps]
    pgconn = conn.pgconn
    results: list[pq.abc.PGresult] = []
    try:
        pgconn.enter_pipeline_mode()
        for send in sends:
            send()
        pgconn.pipeline_sync()
        conn.wait(generators.send(pgconn))
        for _ in range(len(steps) + 1):
            results += conn.wait(generators.fetch_many(pgconn))
        pgconn.exit_pipeline_mode()
    except BaseException:
        # Nobody could say which answer belongs to what.
        conn.close()
        for result in results:
            _check(conn, result)
        raise
    try:
        return [_check(conn, result) for result in results[: len(steps)]]
    except pg.InvalidSqlStatementName:
        _prepared.pop(conn, None)
        raise


def _check(conn: Conn, result: pq.abc.PGresult) -> pq.abc.PGresult:
    if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        return result
    error = pg.error_from_result(result, encoding=conn.info.encoding)
    if error.diag.sqlstate is None:
        # libpq's own text, no word of the server's: the connection broke, maybe after the commit. When the send
        # already failed, libpq still calls it open.
        conn.close()
        raise pg.OperationalError(str(error).strip())
    raise error


def _oids(given: list[Param | PgArray]) -> list[int]:
    return [p.oid for p in given]


def rows_of_text(result: pq.abc.PGresult) -> list[tuple[str | None, ...]]:
    """The rows of a result whose columns are all text."""
    columns = range(result.nfields)
    value = result.get_value
    return [
        tuple(None if (raw := value(row, column)) is None else raw.decode() for column in columns)
        for row in range(result.ntuples)
    ]


def read_int(result: pq.abc.PGresult, column: int) -> int:
    """A binary integer of the only row."""
    value = result.get_value(0, column)
    assert value is not None
    return int.from_bytes(value, "big", signed=True)


def read_text(result: pq.abc.PGresult, column: int) -> str | None:
    """A text of the only row."""
    value = result.get_value(0, column)
    return None if value is None else value.decode()
