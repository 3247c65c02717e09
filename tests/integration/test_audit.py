"""The audit answers what a look at every single event would answer: all filters, both directions, pages and streams."""

from __future__ import annotations

import random
import threading
import tracemalloc
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from eventstore.errors import InvalidCursor, InvalidFilter, LogDiverged
from eventstore.events import NewEvent, RecordedEvent
from eventstore.store import EventStore
from projections import audit_search
from projections.audit import EVERYTHING, AuditFilter, Clock, Order, audit_filter, find, stream
from projections.audit_search import FEW, lives_of
from tests.support.audited import BEGAN, insert, passes, random_filter
from tests.support.cli import Report

OLDEST, NEWEST = Order.OLDEST_FIRST, Order.NEWEST_FIRST


def paged(store: EventStore, wanted: AuditFilter, order: Order, **options: Any) -> list[RecordedEvent]:
    """All pages, one behind the other, gone through as a client does: with the cursor of the last one."""
    found: list[RecordedEvent] = []
    place: dict[str, Any] = {}
    while True:
        page = find(store, wanted, order=order, **options, **place)
        assert len(page.events) <= options.get("limit", 100)
        found += page.events
        if page.complete:
            return found
        assert place.get("after", place.get("before")) != page.cursor, "a page that goes nowhere"
        place = {"after" if order is OLDEST else "before": page.cursor}


def positions(events: list[RecordedEvent]) -> list[int]:
    return [event.position for event in events]


@pytest.mark.parametrize("seed", range(4))
def test_every_question_gets_what_a_look_at_each_event_would_give(
    store: EventStore, shared_database: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_search, "SMALLEST", 5)
    monkeypatch.setattr(audit_search, "CANDIDATES", 3)
    monkeypatch.setattr(audit_search, "PROBES", 8)
    rng = random.Random(seed)
    insert(shared_database, store.log, seed, 400)
    events = store.read_log()
    hits = 0
    for _ in range(40):
        given = random_filter(rng, events)
        wanted = audit_filter(**given)
        expected = [event for event in events if passes(event, wanted, given)]
        hits += len(expected)
        monkeypatch.setattr(audit_search, "PIECE", rng.choice((7, 100, 1_000)))
        monkeypatch.setattr(audit_search, "FEW", rng.choice((1, 3, 100)))
        limit, scan = rng.choice((1, 3, 100, 1_000)), rng.choice((40, 1_000))
        assert paged(store, wanted, OLDEST, limit=limit, scan=scan) == expected, given
        assert paged(store, wanted, NEWEST, limit=limit, scan=scan) == expected[::-1], given
        assert [event for page in stream(store, wanted) for event in page] == expected, given
        assert [event for page in stream(store, wanted, order=NEWEST) for event in page] == expected[::-1], given
        after, before = sorted((rng.randrange(401), rng.randrange(1, 401)))
        between = [event for event in expected if after < event.position < before]
        assert find(store, wanted, after=after, before=before, limit=1_000, budget=60).events == between, given
        assert [event for page in stream(store, wanted, after=after, before=before) for event in page] == between
    assert hits > 300


def test_pages_hold_each_event_once_while_appends_go_on(store: EventStore, report: Report) -> None:
    for number in range(50):
        report(f"job:{number % 3}", "job.noted", level="info", message=f"note {number}")
    stop = threading.Event()

    def go_on() -> None:
        other = store.for_log(store.log)
        number = 0
        while not stop.is_set():
            number += 1
            other.append(f"job:{number % 3}", [NewEvent(type="job.noted", data={"level": "info", "message": "more"})])

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        for wanted in (EVERYTHING, audit_filter(job="job:1"), audit_filter(text="NOTE"), audit_filter(types="job.*")):
            first = find(store, wanted, limit=1, order=NEWEST)
            found = positions(paged(store, wanted, NEWEST, limit=7))
            assert found == sorted(set(found), reverse=True)
            assert found[0] >= first.events[0].position
            page, forwards = find(store, wanted, limit=7), []
            while page.events and page.events[-1].position < found[0]:
                forwards += page.events
                page = find(store, wanted, limit=7, after=page.cursor)
            forwards += page.events
            assert [position for position in positions(forwards) if position <= found[0]] == found[::-1]
    finally:
        stop.set()
        thread.join()


def test_another_log_is_not_looked_at(store: EventStore, shared_database: str) -> None:
    insert(shared_database, store.log, 1, 50)
    other = store.for_log(store.log + "-other")
    other.create_log()
    insert(shared_database, other.log, 2, 80)
    for wanted in (EVERYTHING, audit_filter(prefix="b"), audit_filter(job="build:1"), audit_filter(applied=False)):
        page = find(store, wanted, limit=1_000, budget=60)
        assert page.events == [event for event in store.read_log() if passes(event, wanted, {})]
        assert page.scanned_to == 50


def test_a_request_looks_at_a_bounded_piece_and_says_how_far_it_got(store: EventStore, shared_database: str) -> None:
    insert(shared_database, store.log, 1, 300)
    nothing = audit_filter(text="nowhere to be found")
    page = find(store, nothing, scan=100, budget=60)
    assert (page.events, page.scanned_to, page.complete) == ([], 100, False)
    page = find(store, nothing, after=page.cursor, scan=150, budget=60)
    assert (page.scanned_to, page.complete) == (250, False)
    page = find(store, nothing, after=page.cursor, scan=150, budget=60)
    assert (page.scanned_to, page.complete) == (300, True)
    page = find(store, nothing, order=NEWEST, scan=100, budget=60)
    assert (page.events, page.scanned_to, page.complete) == ([], 201, False)
    page = find(store, nothing, order=NEWEST, before=page.cursor, budget=60)
    assert (page.scanned_to, page.complete) == (1, True)


def test_the_smallest_piece_still_goes_on(store: EventStore, shared_database: str) -> None:
    insert(shared_database, store.log, 1, 60)
    for given in ({"applied": False}, {"job": "build:1"}, {}):
        wanted = audit_filter(**given, text="nowhere to be found")  # type: ignore[arg-type]
        for order in Order:
            assert paged(store, wanted, order, scan=1) == []


def test_out_of_time_a_request_ends_after_its_first_piece(store: EventStore, shared_database: str) -> None:
    insert(shared_database, store.log, 1, 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_search, "PIECE", 8)
        page = find(store, audit_filter(steps="none"), budget=0)
    assert (page.events, page.scanned_to, page.complete) == ([], 8, False)


def test_a_full_page_ends_at_its_last_event(store: EventStore, shared_database: str) -> None:
    insert(shared_database, store.log, 3, 200)
    rejected = [event.position for event in store.read_log() if not event.applied]
    page = find(store, audit_filter(applied=False), limit=5, budget=60)
    assert positions(page.events) == rejected[:5]
    assert page.scanned_to == rejected[4]
    page = find(store, audit_filter(applied=False), limit=5, order=NEWEST, budget=60)
    assert positions(page.events) == rejected[:-6:-1]
    assert page.scanned_to == rejected[-5]


def test_an_empty_log_is_complete_at_once(store: EventStore) -> None:
    for order in Order:
        page = find(store, audit_filter(job="b", text="x"), order=order, budget=60)
        assert (page.events, page.scanned_to, page.complete) == ([], 0, True)
    assert list(stream(store)) == []


# -- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needle", "text", "hit"),
    [
        ("推送", "正在推送代码", True),
        ("送推", "正在推送代码", False),
        ("DISK", "the disk is full", True),
        ("über", "ÜBERALL", True),
        ("привет", "ПРИВЕТ", True),
        ("ΑΒΓ", "αβγ", True),
        ("é", "E", False),
        ("k", "\u212a", False),
        ("100%", "at 100%", True),
        ("10_%", "at 100%", False),
        ("%", "no wildcard", False),
        ("_", "no wildcard", False),
        (".*", "no pattern", False),
        ("[a-z]", "no pattern", False),
        ("a\\", "a", False),
        ("C:\\Temp", "in c:\\temp\\x", True),
        ('say "no"', 'they SAY "NO" again', True),
        ("one\ntwo", "ONE\nTWO", True),
        ("n", "\n", False),
        ("\\n", "\n", False),
        ("u0007", "\x07", False),
        ("\x07", "ring \x07", True),
        ('","', "a text", False),
        ("message", "a text", False),
        ("👩‍👩", "👩‍👩‍👧", True),
        ("x" * 1_000, "X" * 1_000, True),
    ],
)
def test_text_is_looked_for_in_what_was_written_and_not_in_how_it_is_stored(
    store: EventStore, report: Report, needle: str, text: str, hit: bool
) -> None:
    report("b", "step.started", "s", message=text)
    assert bool(find(store, audit_filter(text=needle), budget=60).events) is hit


def test_text_is_found_in_messages_reasons_titles_labels_and_whole_errors(store: EventStore, report: Report) -> None:
    report("b", "job.planned", title="Zebra title", steps=[{"step": "s", "label": "zebra label"}])
    report("b", "step.added", "t", label="ZEBRA")
    report("b", "step.progressed", "s", percent=5, message="a zebra")
    report("b", "step.waiting", "s", reason="zebra quota")
    for error in ({"type": "ZebraError"}, {"stack": "in zebra\n  line 2"}, {"code": "zebra-1"}, {"message": "Zebra!"}):
        report("b", "job.noted", level="error", message="x", error={"message": "m", **error})
    counted = len(store.read_log())
    report("zebra", "step.started", "zebra", worker="zebra")
    report("b", "step.progressed", "s", percent=6, metadata={"zebra": "zebra"}, zebra=1)
    page = find(store, audit_filter(text="zebra"), budget=60)
    assert positions(page.events) == list(range(1, counted + 1))


# -- what the filters mean ------------------------------------------------------------------------------------------


def test_a_prefix_means_the_beginning_of_the_id_under_any_collation(own: EventStore, database_url: str) -> None:
    insert(database_url, own.log, 5, 300)
    events = own.read_log()

    def found(prefix: str) -> list[int]:
        return positions(find(own, audit_filter(prefix=prefix), limit=1_000, budget=60).events)

    expected = {
        prefix: [event.position for event in events if event.job_id.startswith(prefix)]
        for prefix in ("b", "build", "build:", "build:1", "B", "z", "nobody")
    }
    assert {prefix: found(prefix) for prefix in expected} == expected
    with own.database.session() as conn:
        assert lives_of(conn, {"log_id": own.log_id()}, "build:1") is not None
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute('ALTER TABLE events ALTER COLUMN job_id TYPE text COLLATE "ucs_basic"')
    own.database.dispose()
    with own.database.session() as conn:
        assert lives_of(conn, {"log_id": own.log_id()}, "build:1") is None
    assert {prefix: found(prefix) for prefix in expected} == expected


def test_of_few_jobs_only_the_part_of_the_log_is_looked_at_in_which_they_lived(
    store: EventStore, report: Report
) -> None:
    for number in range(FEW + 20):
        report(f"many:{number}", "job.started")
    for number in range(3):
        report(f"few:{number}", "job.started")
    for number in range(100):
        report("after", "job.noted", level="info", message=str(number))
    page = find(store, audit_filter(prefix="few"), scan=1, budget=60)
    assert positions(page.events) == [FEW + 21]
    assert find(store, audit_filter(prefix="fewer"), scan=1, budget=60).complete
    assert find(store, audit_filter(prefix="many", types="job.noted"), scan=10).scanned_to == 10


def test_since_is_inclusive_and_until_is_not(store: EventStore, report: Report) -> None:
    for number in range(20):
        report("b", "job.noted", level="info", message=str(number))
    events = store.read_log()
    middle = events[9].recorded_at
    assert find(store, audit_filter(since=middle)).events == [e for e in events if e.recorded_at >= middle]
    assert find(store, audit_filter(until=middle)).events == [e for e in events if e.recorded_at < middle]


@pytest.mark.parametrize(("back", "rate"), [(3, 1), (9, 1), (9, 100), (300, 1), (3_000, 1), (20_000, 1)])
def test_events_are_found_by_time_although_the_clock_was_set_back(
    store: EventStore, shared_database: str, back: int, rate: int
) -> None:
    """`rate` events a second; at half of the log the clock is set back by `back` seconds, so these pass twice.

    Up to 10 s nothing is missed, else less than lies between two probes.
    """
    count, again = 60_000, back * rate
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO events (log_id, position, job_id, version, event_id, type, data, salt, applied, percent,"
            " recorded_at, hash) SELECT %(log)s, n, 'b', n, gen_random_uuid(), 'job.noted', '{}',"
            " decode(repeat('00', 16), 'hex'), true, 0, %(began)s + interval '1 s' / %(rate)s *"
            " (n - CASE WHEN n > %(count)s / 2 THEN %(again)s ELSE 0 END), sha256('')"
            " FROM generate_series(1, %(count)s) n",
            {"log": store.log_id(), "began": BEGAN, "count": count, "again": again, "rate": rate},
        )
        conn.execute("UPDATE logs SET head = %s WHERE name = %s", (count, store.log))
    ticks = [position - (again if position > count // 2 else 0) for position in range(1, count + 1)]
    rng = random.Random(back)
    for number in range(24):
        match number % 3:
            case 0:
                since = count // 2 - rng.randrange(2 * again + 2)
                until = since + rng.randrange(1, again + 2)
            case 1:
                since, until = count // 2 - rng.randrange(15), count // 2 + again
            case _:
                since, until = count // 2 - 2 * again, count // 2 - again + rng.randrange(1, 15)
        wanted = audit_filter(
            since=BEGAN + timedelta(seconds=1) / rate * since, until=BEGAN + timedelta(seconds=1) / rate * until
        )
        expected = [place for place, tick in enumerate(ticks, 1) if since <= tick < until]
        found = [event.position for page in stream(store, wanted) for event in page]
        missed = set(expected) - set(found)
        assert found == [place for place in expected if place not in missed]
        assert len(missed) <= (count / audit_search.PROBES if back > audit_search.SKEW.seconds else 0), (since, until)


def test_far_times_are_only_far(store: EventStore, report: Report) -> None:
    report("b", "job.started")
    first = datetime.fromisoformat("0001-01-01T00:00:00+00:00")
    last = datetime.fromisoformat("9999-12-31T23:59:59.999999+00:00")
    for clock in Clock:
        assert len(find(store, audit_filter(since=first, until=last, clock=clock)).events) == 1
        assert find(store, audit_filter(until=first, clock=clock)).events == []
        assert find(store, audit_filter(since=last, clock=clock)).events == []


def test_the_workers_clock_counts_where_there_is_one(store: EventStore) -> None:
    store.append("b", [NewEvent(type="job.started", occurred_at=BEGAN), NewEvent(type="job.completed")])
    long_ago = audit_filter(until=BEGAN + timedelta(hours=1), clock=Clock.OCCURRED)
    assert positions(find(store, long_ago).events) == [1]
    recently = audit_filter(since=store.read_log()[0].recorded_at - timedelta(hours=1), clock=Clock.OCCURRED)
    assert positions(find(store, recently).events) == [2]


def test_the_logs_own_events_are_part_of_the_history(store: EventStore, shared_database: str) -> None:
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute("UPDATE logs SET timeline = 'another' WHERE name = %s", (store.log,))
    store.append("b", [NewEvent(type="job.started")])
    assert [event.type for event in find(store, audit_filter(types="log.*")).events] == ["log.epoch_started"]
    assert positions(find(store, audit_filter(job="headway.log")).events) == [1]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"job": "a/b"}, "job"),
        ({"job": ""}, "job"),
        ({"job": 7}, "job"),
        ({"prefix": "a%"}, "prefix"),
        ({"prefix": "b", "job": "b"}, "prefix"),
        ({"since": datetime(2026, 1, 1)}, "since"),
        ({"until": "yesterday"}, "until"),
        ({"since": BEGAN, "until": BEGAN}, "until"),
        ({"types": "step.begun"}, "types"),
        ({"types": []}, "types"),
        ({"types": "x*"}, "types"),
        ({"steps": ""}, "steps"),
        ({"steps": "x" * 201}, "steps"),
        ({"steps": [7]}, "steps"),
        ({"actors": "a\0b"}, "actors"),
        ({"actors": [str(n) for n in range(101)]}, "actors"),
        ({"applied": "yes"}, "applied"),
        ({"reasons": "Too Late"}, "reasons"),
        ({"reasons": "regression", "applied": True}, "reasons"),
        ({"text": ""}, "text"),
        ({"text": "x" * 1_001}, "text"),
        ({"text": "\0"}, "text"),
        ({"text": "\ud800"}, "text"),
    ],
)
def test_a_wrong_filter_is_refused_by_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidFilter) as refused:
        audit_filter(**given)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")


def test_a_wrong_page_is_refused(store: EventStore) -> None:
    for limit in (0, 1_001, True, 1.5):
        with pytest.raises(InvalidFilter, match="limit"):
            find(store, limit=limit)  # type: ignore[arg-type]
    with pytest.raises(InvalidFilter, match="scan"):
        find(store, scan=0)
    with pytest.raises(LogDiverged, match="ahead"):
        find(store, after=5)
    with pytest.raises(LogDiverged, match="ahead"):
        find(store, before=5)
    with pytest.raises(InvalidCursor):
        find(store, before="1e3")


# -- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_of_any_length_needs_the_memory_of_a_page(store: EventStore, shared_database: str) -> None:
    count, size = 12_000, 4_000
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO events (log_id, position, job_id, version, event_id, type, data, salt, applied, percent,"
            " recorded_at, hash) SELECT %s, n, 'b', n, gen_random_uuid(), 'job.noted',"
            " json_build_object('message', 'm' || repeat('x', %s)), decode(repeat('00', 16), 'hex'), true, 0, now(),"
            " sha256('') FROM generate_series(1, %s) n",
            (store.log_id(), size, count),
        )
        conn.execute("UPDATE logs SET head = %s WHERE name = %s", (count, store.log))
    told: list[tuple[int, int]] = []
    for wanted in (EVERYTHING, audit_filter(text="MXX"), audit_filter(job="b")):
        told.clear()
        tracemalloc.start()
        try:
            seen = sum(len(page) for page in stream(store, wanted, progress=lambda *at: told.append(at)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert seen == count
        assert peak < 4 * 1_000 * size < count * size / 2, f"{peak:,} bytes"
        assert told[-1] == (count, count)
        assert told == sorted(told)
