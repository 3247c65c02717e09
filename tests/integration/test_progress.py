"""The inline projection on a real PostgreSQL: what is written and read again is the state that was folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, LiteralString, cast

import psycopg
import pytest

from eventstore import pgarray
from eventstore.inline import FoldEvent
from eventstore.schema import ddl as log_ddl
from projections import progress, schema
from projections.progress import Progress
from projections.state import JobState, encode_state
from tests.support.given import fact
from tests.support.histories import history

Conn = psycopg.Connection[Any]
WRITE = cast(LiteralString, f"WITH won AS (SELECT %(log_id)s::smallint AS log_id), {Progress.write_ctes} SELECT 1")
LOG = 1


@pytest.fixture
def conn(empty_database_url: str) -> Iterator[Conn]:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        pgarray.register(connection)
        for statement in [*log_ddl(), *schema.ddl()]:
            connection.execute(statement.encode())
        connection.execute(
            "INSERT INTO logs (log_id, name, fold_version, system_id, timeline) VALUES (1, 'default', 1, '', '')"
        )
        yield connection


def write(conn: Conn, projection: Progress, states: Sequence[JobState]) -> None:
    conn.execute(WRITE, {"log_id": LOG, **projection.rows(LOG, states)})


def whole(conn: Conn, job_id: str) -> JobState:
    """The job with all its steps, whatever its size."""
    found = Progress().load(conn, LOG, {job_id: [cast(FoldEvent, fact({"type": "job.completed", "data": {}}, 1))]})
    return found[job_id]


def table(conn: Conn, name: str) -> list[tuple[Any, ...]]:
    return conn.execute(f"SELECT t::text FROM {name} t ORDER BY 1".encode()).fetchall()


def same(seed: int) -> Iterator[tuple[int, Any]]:
    for version, event in enumerate(history(seed, 150), 1):
        yield version, fact(event, version, f"job:{seed}")


@pytest.mark.parametrize("seed", range(12))
def test_a_job_read_after_its_write_is_the_job_that_was_folded(conn: Conn, seed: int) -> None:
    projection = Progress()
    state = projection.initial(f"job:{seed}")
    for version, event in same(seed):
        state, _ = projection.evolve(state, event)
        if version % 10 == 0:
            write(conn, projection, [state])
            found = projection.load(conn, LOG, {state.job_id: [event]})[state.job_id]
            assert encode_state(found) == encode_state(state)
            if version % 20 == 0:
                state = found


@pytest.mark.parametrize("seed", range(12, 24))
def test_folding_with_some_of_the_steps_gives_what_folding_with_all_gives(
    conn: Conn, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SMALL", 0)
    projection, model = Progress(), Progress(keep_attempts=True)
    job_id = f"job:{seed}"
    expected = model.initial(job_id)
    partial = 0
    for _, event in same(seed):
        state = projection.load(conn, LOG, {job_id: [event]})[job_id]
        assert projection.holds(state, [event])
        partial += not state.complete
        state, verdict = projection.evolve(state, event)
        expected, judged = model.evolve(expected, event)
        assert verdict == judged
        write(conn, projection, [state])
    assert partial > 20
    found = whole(conn, job_id)
    found.attempts = expected.attempts
    assert encode_state(found) == encode_state(expected)
    written = table(conn, "jobs"), table(conn, "steps"), table(conn, "attempts")
    for name in ("attempts", "steps", "jobs"):
        conn.execute(f"DELETE FROM {name}".encode())
    write(conn, model, [expected])
    assert written == (table(conn, "jobs"), table(conn, "steps"), table(conn, "attempts"))


def test_a_batch_without_steps_and_one_that_lost_write_what_they_should(conn: Conn) -> None:
    projection = Progress()
    state, _ = projection.evolve(projection.initial("a"), fact({"type": "job.started", "data": {}}, 1, "a"))
    lost = cast(LiteralString, WRITE.replace("AS log_id)", "AS log_id WHERE false)"))
    conn.execute(lost, {"log_id": LOG, **projection.rows(LOG, [state])})
    assert table(conn, "jobs") == []
    write(conn, projection, [state])
    assert conn.execute("SELECT job_id, status, percent FROM jobs").fetchall() == [("a", "running", 0)]
    assert table(conn, "steps") == table(conn, "attempts") == []


def test_jobs_that_are_not_there_begin_at_version_0(conn: Conn) -> None:
    event = fact({"type": "job.started", "data": {}}, 1, "new")
    found = Progress().load(conn, LOG, {"new": [event], "other": []})
    assert {job_id: state.version for job_id, state in found.items()} == {"new": 0, "other": 0}


def test_rows_are_given_once(conn: Conn) -> None:
    projection = Progress()
    state, _ = projection.evolve(
        projection.initial("a"), fact({"type": "step.started", "step": "x", "data": {}}, 1, "a")
    )
    first = projection.rows(LOG, [state])
    second = projection.rows(LOG, [state])
    assert len(first["s_step"].packed) > len(second["s_step"].packed)
    conn.execute(WRITE, {"log_id": LOG, **first})
    conn.execute(WRITE, {"log_id": LOG, **second})
    assert conn.execute("SELECT step, status FROM steps").fetchall() == [("x", "running")]


def test_progress_updates_rows_where_they_are(conn: Conn) -> None:
    projection = Progress()
    steps = [{"step": f"s{index}"} for index in range(40)]
    events: list[dict[str, Any]] = [{"type": "job.planned", "data": {"steps": steps}}]
    events += [{"type": "step.started", "step": step["step"], "data": {}} for step in steps]
    state = projection.initial("a")
    for version, event in enumerate(events, 1):
        state, _ = projection.evolve(state, fact(event, version, "a"))
    write(conn, projection, [state])
    version = len(events)
    for percent in range(1, 21):
        for step in steps:
            version += 1
            event = {"type": "step.progressed", "step": step["step"], "data": {"percent": percent, "message": "copied"}}
            state, _ = projection.evolve(state, fact(event, version, "a"))
        write(conn, projection, [state])
    conn.execute("SELECT pg_stat_force_next_flush()")
    updates, hot = cast(
        tuple[int, int],
        conn.execute(
            "SELECT sum(n_tup_upd), sum(n_tup_hot_upd) FROM pg_stat_user_tables WHERE relname IN ('jobs', 'steps')"
        ).fetchone(),
    )
    assert updates == 41 * 20
    assert hot / updates >= 0.95


def planned(steps: int) -> dict[str, Any]:
    groups = [{"step": f"g{index}"} for index in range(10)]
    leaves = [{"step": f"s{index}", "parent": f"g{index % 10}"} for index in range(steps)]
    return {"type": "job.planned", "data": {"steps": groups + leaves}}


def test_of_a_large_job_an_event_loads_its_step_and_what_is_above_it(conn: Conn) -> None:
    projection = Progress()
    state, _ = projection.evolve(projection.initial("a"), fact(planned(400), 1, "a"))
    write(conn, projection, [state])
    report = fact({"type": "step.progressed", "step": "s13", "data": {"percent": 50}}, 2, "a")
    found = projection.load(conn, LOG, {"a": [report]})["a"]
    assert sorted(found.steps) == ["g3", "s13"]
    assert not found.complete
    assert projection.evolve(found, report)[1].ppm == 1_250
    for event in (
        {"type": "step.progressed", "step": "new", "data": {"percent": 50}},
        {"type": "step.completed", "step": "g3", "data": {}},
        {"type": "job.failed", "data": {"error": {"message": "x"}}},
    ):
        found = projection.load(conn, LOG, {"a": [fact(event, 2, "a")]})["a"]
        assert len(found.steps) == 410
        assert found.complete


def test_the_end_of_an_attempt_leaves_its_worker_and_its_start(conn: Conn) -> None:
    projection = Progress()
    started = fact({"type": "step.started", "step": "x", "data": {"worker": "w1"}, "at": 1_790_000_000_000_000}, 1, "a")
    state, _ = projection.evolve(projection.initial("a"), started)
    write(conn, projection, [state])
    failure = {"message": "disk full", "stack": "line 1"}
    failed = fact({"type": "step.failed", "step": "x", "data": {"error": failure}, "at": 1_790_000_005_000_000}, 2, "a")
    state = projection.load(conn, LOG, {"a": [failed]})["a"]
    state, _ = projection.evolve(state, failed)
    write(conn, projection, [state])
    assert conn.execute(
        "SELECT worker, status, extract(epoch FROM ended_at - started_at)::int, error ->> 'message', error_stack"
        " FROM attempts"
    ).fetchall() == [("w1", "failed", 5, "disk full", "line 1")]


def test_shadow_tables_are_the_tables_under_other_names(conn: Conn) -> None:
    for statement in schema.ddl("_new"):
        conn.execute(statement.encode())
    shapes = {
        suffix: [
            (
                conn.execute(
                    "SELECT attname, atttypid, attnotnull FROM pg_attribute"
                    " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
                    (name + suffix,),
                ).fetchall(),
                conn.execute("SELECT reloptions FROM pg_class WHERE oid = %s::regclass", (name + suffix,)).fetchall(),
                conn.execute(
                    "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass ORDER BY 1",
                    (name + suffix,),
                ).fetchall(),
            )
            for name in schema.NAMES
        ]
        for suffix in ("", "_new")
    }
    assert shapes[""] == shapes["_new"]
    for statement in schema.drops("_new"):
        conn.execute(statement.encode())
    assert conn.execute("SELECT to_regclass('jobs_new'), to_regclass('jobs')::text").fetchone() == (None, "jobs")


def test_the_database_refuses_a_percentage_that_is_none(conn: Conn) -> None:
    projection = Progress()
    state, _ = projection.evolve(projection.initial("a"), fact({"type": "job.started", "data": {}}, 1, "a"))
    state.percent = 1_000_001
    with pytest.raises(psycopg.errors.CheckViolation):
        write(conn, projection, [state])
