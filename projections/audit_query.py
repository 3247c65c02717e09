"""The audit's statements. Each reads one range of one index, in its order, and answers at most `limit` events.

One query per set of filters: composed with SQLAlchemy Core, compiled once, kept. The keyset of a page is one column,
position or version: both are dense and unique where the rest of the index's key is fixed by equality, so a page is a
range, and a deep one costs what the first one does. tests/plans/test_audit_plans.py holds every query to its index.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from eventstore import pgarray
from projections.audit_filter import AuditFilter
from projections.audit_text import sieve

EVENTS: Final = sa.Table(
    "events",
    sa.MetaData(),
    sa.Column("log_id", sa.SmallInteger),
    sa.Column("position", sa.BigInteger),
    sa.Column("job_id", sa.Text),
    sa.Column("version", sa.Integer),
    sa.Column("event_id", sa.Uuid),
    sa.Column("type", sa.Text),
    sa.Column("step", sa.Text),
    sa.Column("attempt", sa.Integer),
    sa.Column("seq", sa.Integer),
    sa.Column("data", sa.JSON),
    sa.Column("applied", sa.Boolean),
    sa.Column("reason", sa.Text),
    sa.Column("percent", sa.Integer),
    sa.Column("actor", sa.Text),
    sa.Column("occurred_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("recorded_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("hash", sa.LargeBinary),
)
"""The columns of `eventstore.statements.COLUMNS`, in their order, and log_id."""


class Lane(enum.Enum):
    """Along which index a search goes."""

    LOG = "events_pkey"
    JOB = "events_log_id_job_id_version_key"
    REJECTED = "events_rejected"


class Shape(msgspec.Struct, frozen=True):
    """What a query depends on: everything but the values."""

    lane: Lane
    newest_first: bool
    names: frozenset[str]
    """Of `CONDITIONS`."""


def _bind(name: str, kind: sa.types.TypeEngine[Any]) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=kind)


def _any(column: str, name: str) -> sa.ColumnElement[bool]:
    return EVENTS.c[column] == sa.any_(_bind(name, pg.ARRAY(sa.Text)))


_e: Final = EVENTS.c
_MOMENT: Final = sa.TIMESTAMP(timezone=True)
_happened = sa.func.coalesce(_e.occurred_at, _e.recorded_at)
_ZERO: Final[sa.ColumnElement[Any]] = sa.literal_column("interval '0'")
_DATA: Final = sa.cast(_e.data, sa.Text).collate("C")

CONDITIONS: Final[dict[str, sa.ColumnElement[bool]]] = {
    "recorded_since": _e.recorded_at - _bind("recorded_since", _MOMENT) >= _ZERO,
    "recorded_until": _e.recorded_at - _bind("recorded_until", _MOMENT) < _ZERO,
    "applied": _e.applied.is_(sa.true()),
    "rejected": sa.not_(_e.applied),
    "types": _any("type", "types"),
    "reasons": _any("reason", "reasons"),
    "prefix": sa.func.strpos(_e.job_id.collate("C"), _bind("prefix", sa.Text())) == sa.literal_column("1"),
    "steps": _any("step", "steps"),
    "actors": _any("actor", "actors"),
    "occurred_since": _happened >= _bind("occurred_since", _MOMENT),
    "occurred_until": _happened < _bind("occurred_until", _MOMENT),
    "text": sa.func.strpos(_DATA, _bind("text", sa.Text())) > sa.literal_column("0"),
    "pattern": _DATA.regexp_match(_bind("pattern", sa.Text())),
}
"""In the order in which they are written: what costs more stands later. Text is compared byte by byte.

None is written so that an index could serve it: PostgreSQL would gather rows from there and sort them, page by page
anew, where the range of the lane is read in order and left when the page is full.
"""


def parameters(wanted: AuditFilter) -> dict[str, Any]:
    """The values of a filter, by the names of their conditions. The job is not among them: it is a lane."""
    times: Mapping[str, datetime | None] = {
        f"{wanted.clock.value}_since": wanted.since,
        f"{wanted.clock.value}_until": wanted.until,
    }
    lists = {"types": wanted.types, "reasons": wanted.reasons, "steps": wanted.steps, "actors": wanted.actors}
    given: dict[str, Any] = {name: moment for name, moment in times.items() if moment is not None}
    given |= {name: pgarray.text(values) for name, values in lists.items() if values is not None}
    if wanted.applied is not None:
        given["applied" if wanted.applied else "rejected"] = wanted.applied
    if wanted.prefix is not None:
        given["prefix"] = wanted.prefix
    if wanted.text is not None:
        name, value = sieve(wanted.text)
        given[name] = value
    return given


def lane_of(wanted: AuditFilter) -> Lane:
    if wanted.job is not None:
        return Lane.JOB
    return Lane.REJECTED if wanted.applied is False else Lane.LOG


@lru_cache(maxsize=512)
def page_query(shape: Shape) -> str:
    """The events of a range that pass: parameters log_id, low (exclusive), high (inclusive), limit, job in the lane of
    a job, and those of the conditions. The range is of versions in the lane of a job, of positions else.
    """
    return _compiled(_ranged(shape, *(column for column in _e if column.name != "log_id")).limit(_LIMIT))


@lru_cache(maxsize=8)
def nth_query(shape: Shape) -> str:
    """The key of the event that is `limit` places into a range; no row if there are fewer."""
    return _compiled(_ranged(shape, _key(shape.lane)).offset(_LIMIT).limit(sa.literal_column("1")))


_LIMIT: Final = _bind("limit", sa.BigInteger())


def _key(lane: Lane) -> sa.Column[Any]:
    return _e.version if lane is Lane.JOB else _e.position


def _ranged(shape: Shape, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    key = _key(shape.lane)
    query = sa.select(*columns).where(_e.log_id == _bind("log_id", sa.SmallInteger()))
    if shape.lane is Lane.JOB:
        query = query.where(_e.job_id == _bind("job", sa.Text()))
    query = query.where(key > _bind("low", sa.BigInteger()), key <= _bind("high", sa.BigInteger()))
    query = query.where(*(condition for name, condition in CONDITIONS.items() if name in shape.names))
    return query.order_by(key.desc() if shape.newest_first else key)


def _compiled(query: sa.Select[Any]) -> str:
    return str(query.compile(dialect=_DIALECT))


_DIALECT: Final = sa.dialects.registry.load("postgresql.psycopg")()

CROSSED: Final = """
SELECT min(e.position) FILTER (WHERE e.recorded_at >= %(moment)s),
       max(e.position) FILTER (WHERE e.recorded_at < %(moment)s)
  FROM generate_series(%(first)s::bigint, %(last)s::bigint, %(stride)s::bigint) AS at
 CROSS JOIN LATERAL (SELECT e.position, e.recorded_at FROM events e
                      WHERE e.log_id = %(log_id)s AND e.position = at OFFSET 0) e
"""
"""Among some positions the first that was recorded at a moment or later, and the last that was before. Served by
events_pkey, a look-up for each: about 2 µs."""

VERSION_AT: Final = """
WITH RECURSIVE halving (low, high) AS (
    SELECT 0, coalesce((SELECT e.version FROM events e WHERE e.log_id = %(log_id)s AND e.job_id = %(job)s
                         ORDER BY e.version DESC LIMIT 1), 0)
    UNION ALL
    SELECT CASE WHEN e.position <= %(position)s THEN e.version ELSE h.low END,
           CASE WHEN e.position <= %(position)s THEN h.high ELSE e.version - 1 END
      FROM halving h
      JOIN LATERAL (SELECT e.version, e.position FROM events e
                     WHERE e.log_id = %(log_id)s AND e.job_id = %(job)s AND e.version = (h.low + h.high + 1) / 2
                    OFFSET 0) e ON true
     WHERE h.low < h.high
)
SELECT low FROM halving WHERE low = high
"""
"""The version of a job at a position of the log. Served by events_log_id_job_id_version_key."""

POSITION_OF: Final = (
    "SELECT position FROM events WHERE log_id = %(log_id)s AND job_id = %(job)s AND version = %(version)s"
)
"""Served by events_log_id_job_id_version_key."""

BY_CODE_POINT: Final = """
SELECT a.attcollation = 'pg_catalog."C"'::regcollation
    OR (a.attcollation = 'pg_catalog."default"'::regcollation
        AND (d.datlocprovider = 'b' OR d.datcollate IN ('C', 'POSIX')))
  FROM pg_attribute a, pg_database d
 WHERE a.attrelid = 'events'::regclass AND a.attname = 'job_id' AND d.datname = current_database()
"""
"""Whether the index of jobs is in the order of code points, so that ids with one beginning stand together in it."""

NAMED: Final = """
WITH RECURSIVE named (job_id, number) AS (
    (SELECT e.job_id, 1 FROM events e WHERE e.log_id = %(log_id)s AND e.job_id >= %(prefix)s
      ORDER BY e.job_id LIMIT 1)
    UNION ALL
    SELECT (SELECT e.job_id FROM events e WHERE e.log_id = %(log_id)s AND e.job_id > n.job_id
             ORDER BY e.job_id LIMIT 1), n.number + 1
      FROM named n
     WHERE starts_with(n.job_id, %(prefix)s) AND n.number <= %(most)s
)
SELECT job_id FROM named WHERE starts_with(job_id, %(prefix)s)
"""
"""The jobs whose ids begin so, up to `most` + 1: from one to the next, served by events_log_id_job_id_version_key."""

LIVES: Final = """
SELECT min((SELECT e.position FROM events e WHERE e.log_id = %(log_id)s AND e.job_id = j.job_id
             ORDER BY e.version LIMIT 1)),
       max((SELECT e.position FROM events e WHERE e.log_id = %(log_id)s AND e.job_id = j.job_id
             ORDER BY e.version DESC LIMIT 1))
  FROM unnest(%(jobs)s::text[]) AS j(job_id)
"""
"""From the first to the last position of some jobs. Served by events_log_id_job_id_version_key, twice for each."""
