"""Rebuilds that are killed, and rebuilds under load: the live tables stay whole, and the next run goes on."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from eventstore.errors import EventStoreError
from eventstore.events import NewEvent
from eventstore.migrate import migrate
from eventstore.store import EventStore
from projections import rebuild as rebuilding
from projections.progress import Progress
from projections.rebuild import rebuild
from projections.snapshots import read_snapshot
from tests.support.cluster import cluster as own_cluster
from tests.support.step_table import fill, rows

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_third_range(action: Callable[[], None]) -> Callable[[rebuilding.Range], int]:
    """Fold ranges, and act once, before the third."""
    folding, calls = rebuilding._fold_range, itertools.count(1)

    def fold(item: rebuilding.Range) -> int:
        if next(calls) == 3:
            action()
        return folding(item)

    return fold


def die_in(url: str, point: str) -> None:
    """Rebuild and be killed at a point: in the middle of folding, while catching up, or inside the gate."""
    rebuilding.RANGE, rebuilding.NEAR = 100, 1
    store = EventStore(url, projection=Progress())

    def told(step: rebuilding.Step) -> None:
        if step.phase == "fold" and step.done == step.total:
            fill(store, random.Random(6), jobs=9, events=40)
        if step.phase == "catch up":
            die()

    match point:
        case "fold":
            rebuilding._fold_range = on_third_range(die)  # type: ignore[assignment]
        case "gate":
            rebuilding.swap = die  # type: ignore[assignment]
    rebuild(store, processes=1, progress=told if point == "catch up" else None)


@pytest.mark.parametrize("point", ["fold", "catch up", "gate"])
def test_a_killed_rebuild_leaves_the_live_tables_and_the_next_one_goes_on(
    store: EventStore, database_url: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, random.Random(1), jobs=9, events=800)
    child = SPAWN.Process(target=die_in, args=(database_url, point))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    before = rows(database_url)
    monkeypatch.setattr(rebuilding, "RANGE", 100)
    done = rebuild(store, processes=1, verify=True)
    assert done.resumed >= 200
    assert rows(database_url) == before


def write(url: str, number: int, stop: Any, slowest: Any) -> None:
    rng, longest = random.Random(number), 0.0
    with EventStore(url, projection=Progress()) as store:
        while not stop.is_set():
            began = time.monotonic()
            fill(store, rng, jobs=6, events=5, prefix=f"w{number}")
            longest = max(longest, time.monotonic() - began)
    slowest.put(longest)


def test_rebuilds_under_append_load_from_two_processes_lose_nothing_and_readers_see_whole_tables(
    store: EventStore, database_url: str
) -> None:
    fill(store, random.Random(1), jobs=40, events=4_000)
    stop, slowest = SPAWN.Event(), SPAWN.Queue()
    writers = [SPAWN.Process(target=write, args=(database_url, n, stop, slowest)) for n in range(2)]
    for writer in writers:
        writer.start()
    seen: list[tuple[int, float]] = []

    def read(_: object) -> None:
        view = read_snapshot(store, "job-1")
        assert view is not None
        seen.append((view.version, view.percent))

    for _ in range(3):
        rebuild(store, processes=2, progress=read)
    stop.set()
    for writer in writers:
        slowest.get(timeout=60)
        writer.join()
        assert writer.exitcode == 0
    assert seen == sorted(seen)
    before = rows(database_url)
    rebuild(store, processes=1, verify=True)
    assert rows(database_url) == before


def test_a_rebuild_during_which_postgresql_restarts_fails_clearly_and_goes_on_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with own_cluster() as cluster:
        migrate(cluster.url)
        monkeypatch.setattr(rebuilding, "RANGE", 100)
        with EventStore(cluster.url, projection=Progress()) as store:
            store.create_log()
            fill(store, random.Random(1), jobs=9, events=800)

            def restart() -> None:
                cluster.stop_immediately()
                cluster.start()

            folding = rebuilding._fold_range
            monkeypatch.setattr(rebuilding, "_fold_range", on_third_range(restart))
            with pytest.raises((EventStoreError, psycopg.Error)):
                rebuild(store, processes=1)
            monkeypatch.setattr(rebuilding, "_fold_range", folding)
            before = rows(cluster.url)
            done = rebuild(store, processes=1, verify=True)
            assert done.resumed >= 200
            assert rows(cluster.url) == before
            store.append("job-1", [NewEvent(type="job.noted", data={"level": "info", "message": "好"})])
