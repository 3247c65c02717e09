"""A rebuild gives the live tables, byte for byte, and leaves the catalog as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import psycopg
import pytest

from eventstore.errors import FoldVersionMismatch
from eventstore.events import NewEvent
from eventstore.inline import Verdict
from eventstore.store import EventStore
from projections import fold
from projections import rebuild as rebuilding
from projections.past import FoldMismatch
from projections.progress import Progress
from projections.rebuild import RebuildDiffers, RebuildError, RebuildRunning, discard, rebuild, roll_back
from tests.support.step_table import catalog, fill, rows


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "RANGE", 150)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_rebuilt_tables_are_the_live_ones_byte_for_byte(
    store: EventStore, database_url: str, processes: int
) -> None:
    fill(store, random.Random(processes), jobs=12, events=900)
    store.create_log("other")
    fill(store.for_log("other"), random.Random(9), jobs=3, events=200)
    before, looks = rows(database_url), catalog(database_url)
    done = rebuild(store, processes=processes, verify=True)
    assert (done.events, done.resumed, done.verified) == (1_100, 0, True)
    assert rows(database_url) == before
    assert catalog(database_url) == looks


def test_appends_go_on_after_a_rebuild_as_before_it(store: EventStore, database_url: str) -> None:
    fill(store, random.Random(1), jobs=5, events=200)
    rebuild(store, processes=1)
    fill(store, random.Random(2), jobs=5, events=200)
    before = rows(database_url)
    rebuild(store, processes=1, verify=True)
    assert rows(database_url) == before


def test_an_empty_log_can_be_rebuilt(store: EventStore, database_url: str) -> None:
    assert rebuild(store).events == 0
    assert rows(database_url) == {"jobs": [], "steps": [], "attempts": []}


@pytest.mark.parametrize(
    ("damage", "table"),
    [
        ("UPDATE steps SET message = 'edited' WHERE step = 'a' AND job_id = 'job-1'", "steps"),
        ("DELETE FROM jobs WHERE job_id = 'job-2'", "jobs"),
        ("INSERT INTO attempts SELECT log_id, 'ghost', step, attempt, status, percent, worker, started_at, ended_at,"
         " error, error_stack FROM attempts LIMIT 1", "attempts"),
    ],
    ids=["edited", "deleted", "inserted"],
)  # fmt: skip
def test_verify_names_the_row_that_differs_and_changes_nothing(
    store: EventStore, database_url: str, damage: str, table: str
) -> None:
    fill(store, random.Random(3), jobs=4, events=300)
    with psycopg.connect(database_url, autocommit=True) as conn:
        assert conn.execute(damage).rowcount == 1
    before = rows(database_url)
    with pytest.raises(RebuildDiffers) as caught:
        rebuild(store, processes=1, verify=True)
    assert table in {difference.table for difference in caught.value.differences}
    assert rows(database_url) == before
    rebuild(store, processes=1)
    assert rows(database_url) != before


def test_a_verdict_that_the_rules_do_not_give_stops_the_rebuild(store: EventStore, database_url: str) -> None:
    fill(store, random.Random(4), jobs=2, events=100)
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("ALTER TABLE events DISABLE TRIGGER ALL")
        conn.execute("UPDATE events SET percent = 123 WHERE position = 7")
    before = rows(database_url)
    with pytest.raises(FoldMismatch, match="position 7"):
        rebuild(store, processes=1)
    assert rows(database_url) == before


def test_a_roll_back_gives_the_tables_of_before_with_what_was_appended_since(
    store: EventStore, database_url: str
) -> None:
    fill(store, random.Random(5), jobs=4, events=300)
    looks = catalog(database_url)
    rebuild(store, processes=1)
    fill(store, random.Random(6), jobs=6, events=300)
    before = rows(database_url)
    roll_back(store)
    assert rows(database_url) == before
    assert catalog(database_url) == looks
    roll_back(store)
    assert rows(database_url) == before


def test_without_a_rebuild_there_is_nothing_to_roll_back_to(store: EventStore) -> None:
    with pytest.raises(RebuildError, match="no tables to roll back"):
        roll_back(store)


def test_an_unfinished_rebuild_goes_on_and_can_be_discarded(
    store: EventStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, random.Random(7), jobs=8, events=900)
    folded = rebuilding._fold_range
    three = iter(range(3))

    def cut_short(item: rebuilding.Range) -> int:
        if next(three, None) is None:
            raise KeyboardInterrupt
        return folded(item)

    monkeypatch.setattr(rebuilding, "_fold_range", cut_short)
    with pytest.raises(KeyboardInterrupt):
        rebuild(store, processes=1)
    monkeypatch.setattr(rebuilding, "_fold_range", folded)
    fill(store, random.Random(8), jobs=9, events=900)
    before = rows(database_url)
    done = rebuild(store, processes=1, verify=True)
    assert done.resumed > 0
    assert done.events == 1_800
    assert rows(database_url) == before
    rebuild(store, processes=1, cut=False)
    discard(store)
    with psycopg.connect(database_url, autocommit=True) as conn:
        assert conn.execute("SELECT to_regclass('jobs_rebuild'), to_regclass('rebuild_ranges')").fetchone() == (
            None,
            None,
        )
    assert rows(database_url) == before


def test_two_rebuilds_at_once_are_refused(store: EventStore) -> None:
    fill(store, random.Random(1), jobs=2, events=50)

    def second(step: rebuilding.Step) -> None:
        if step.phase == "fold":
            with pytest.raises(RebuildRunning):
                rebuild(store)

    rebuild(store, processes=1, progress=second)


def test_progress_is_exact_and_ends_at_the_whole(store: EventStore) -> None:
    fill(store, random.Random(1), jobs=8, events=600)
    steps: list[rebuilding.Step] = []
    rebuild(store, processes=1, progress=steps.append)
    fold_steps = [step for step in steps if step.phase == "fold"]
    assert {step.total for step in fold_steps} == {600}
    assert fold_steps[-1].percent == 100
    assert [step.done for step in fold_steps] == sorted(step.done for step in fold_steps)
    assert list(dict.fromkeys(step.phase for step in steps)) == ["plan", "fold", "gate", "done"]


def test_new_rules_count_from_a_recorded_position_and_the_past_keeps_its_verdicts(
    store: EventStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Generous(Progress):
        """Version 2 of the rules, for this test: a note about a step is a regression."""

        fold_version = 2

        def evolve(self, state, event):  # type: ignore[no-untyped-def]
            return generous(state, event)

    def generous(state, event):  # type: ignore[no-untyped-def]
        if event.type == "step.noted":
            state.version, state.position, state.rejected = event.version, event.position, state.rejected + 1
            return state, Verdict(False, "regression", state.percent)
        return fold.evolve(state, event)

    monkeypatch.setitem(fold.FOLDS, 2, generous)
    note = NewEvent(type="step.noted", step="a", data={"level": "info", "message": "hello"})
    (old,) = store.append("job", [note])
    with EventStore(database_url, projection=Generous()) as newer:
        with pytest.raises(FoldVersionMismatch):
            newer.append("job", [note])
        done = rebuild(newer, processes=1, verify=True)
        (new,) = newer.append("job", [note])
        before = rows(database_url)
        rebuild(newer, processes=1, verify=True)
    assert (old.applied, new.applied, new.reason, done.verified) == (True, False, "regression", True)
    assert rows(database_url) == before
    changed = store.read_log(after=1, limit=1)[0]
    assert (changed.type, msgspec.json.decode(changed.data_json)) == ("log.fold_changed", {"from": 1, "to": 2})
    with pytest.raises(FoldVersionMismatch):
        store.append("job", [note])
