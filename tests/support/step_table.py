"""The step table as a test compares it, and a log with histories of every kind in it."""

from __future__ import annotations

import random
from typing import Any

import psycopg

from eventstore.events import NewEvent
from eventstore.store import EventStore

KINDS = (
    "step.started step.progressed step.progressed step.progressed step.failed step.completed step.waiting step.noted"
    " step.reset step.skipped step.removed job.noted job.planned job.failed job.reopened job.progressed"
).split()
DATA: dict[str, dict[str, Any]] = {
    "step.failed": {"error": {"message": "the disk is full", "type": "OSError", "stack": "a\nb"}},
    "job.failed": {"error": {"message": "no more tries"}},
    "step.noted": {"level": "info", "message": "好"},
    "job.noted": {"level": "warning", "message": "slow"},
}


def report(rng: random.Random) -> NewEvent:
    """Any report on one of a handful of steps; many of them will not count."""
    kind = rng.choice(KINDS)
    data = DATA.get(kind, {})
    if kind.endswith("progressed"):
        data = {"percent": rng.randrange(101), "message": "正在推送代码"}
    if kind == "job.planned":
        steps = [{"step": name, "weight": rng.randrange(1, 9)} for name in ("a", "b", "g")]
        data = {"title": "Import", "steps": [*steps, {"step": "g1", "parent": "g"}, {"step": "g2", "parent": "g"}]}
    return NewEvent(type=kind, step=rng.choice(("a", "b", "g1", "g2", "found")) if kind[0] == "s" else None, data=data)


def fill(store: EventStore, rng: random.Random, *, jobs: int, events: int, prefix: str = "job") -> None:
    """So many random reports, spread over the jobs."""
    for start in range(0, events, 200):
        count = min(200, events - start)
        store.append_many([(f"{prefix}-{rng.randrange(jobs)}", report(rng)) for _ in range(count)])


def rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the three tables, as PostgreSQL writes it."""
    with psycopg.connect(url, autocommit=True) as conn:
        return {
            table: conn.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall()
            for table in ("jobs", "steps", "attempts")
        }


def catalog(url: str) -> list[tuple[Any, ...]]:
    """What the catalog says of the three tables: columns, constraints, indexes, options, grants, policies."""
    with psycopg.connect(url, autocommit=True) as conn:
        return conn.execute(
            """
            WITH t AS (SELECT to_regclass(unnest(ARRAY['jobs', 'steps', 'attempts'])) AS oid)
            SELECT 'column', a.attrelid::regclass::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
                   a.attnotnull::text FROM pg_attribute a JOIN t ON t.oid = a.attrelid WHERE a.attnum > 0
             UNION ALL
            SELECT 'constraint', k.conrelid::regclass::text, k.conname::text, pg_get_constraintdef(k.oid),
                   k.contype::text FROM pg_constraint k JOIN t ON t.oid = k.conrelid
             UNION ALL
            SELECT 'index', i.indrelid::regclass::text, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), ''
              FROM pg_index i JOIN t ON t.oid = i.indrelid
             UNION ALL
            SELECT 'table', c.oid::regclass::text, coalesce(c.reloptions::text, ''), coalesce(c.relacl::text, ''),
                   c.relrowsecurity::text || c.relforcerowsecurity::text FROM pg_class c JOIN t USING (oid)
             UNION ALL
            SELECT 'policy', p.polrelid::regclass::text, p.polname::text, p.polcmd::text,
                   pg_get_expr(p.polqual, p.polrelid) FROM pg_policy p JOIN t ON t.oid = p.polrelid
             ORDER BY 1, 2, 3
            """
        ).fetchall()
