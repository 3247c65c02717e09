"""Exports: NDJSON that comes back as it was, CSV for a spreadsheet, XES for process mining."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from eventstore.epochs import append_log_event
from eventstore.errors import InvalidEvent, InvalidFilter
from eventstore.events import LOG_JOB, NewEvent, RecordedEvent, to_datetime
from eventstore.store import EventStore
from projections.check import check
from projections.exporting import Selection, export
from projections.exporting.selection import PAGE, in_order, job_by_job
from projections.importing import ImportRefused, import_file
from projections.progress import Progress
from projections.snapshots import list_jobs, read_snapshots
from tests.support.cli import Cli, cli, log, store
from tests.support.files import HOUSE, write_ndjson
from tests.support.histories import history

__all__ = ["cli", "log", "store"]


@pytest.fixture
def other(shared_database: str) -> Iterator[EventStore]:
    """A second, empty log."""
    with EventStore(shared_database, log=f"log-{uuid.uuid4().hex[:12]}", projection=Progress()) as opened:
        opened.create_log()
        yield opened


def new_event(event: dict[str, Any], actor: str | None) -> NewEvent:
    when = None if event.get("at") is None else to_datetime(event["at"])
    return NewEvent(
        type=event["type"],
        step=event.get("step"),
        attempt=event.get("attempt"),
        seq=event.get("seq"),
        occurred_at=when,
        data=event["data"],
        actor=actor,
    )


def reports(seed: int, length: int) -> list[NewEvent]:
    """So many events of a random history that the log takes."""
    rng = random.Random(seed)
    events: list[NewEvent] = []
    for event in history(seed, 2 * length):
        made = new_event(event, rng.choice([None, "ann", "=林"]))
        with suppress(InvalidEvent):
            check(made)
            events.append(made)
    return events[:length]


def filled(store: EventStore, *, jobs: int = 6, length: int = 120) -> EventStore:
    """Random histories of a few jobs, mixed with each other, and two events of the log itself."""
    rng = random.Random(7)
    waiting = {f"job:{number}": reports(number, length) for number in range(jobs)}
    mixed = [job for job, events in waiting.items() for _ in events]
    rng.shuffle(mixed)
    for start in range(0, len(mixed), 200):
        store.append_many([(job, waiting[job].pop(0)) for job in mixed[start:][:200]])
        with store.database.session() as conn, conn.transaction():
            append_log_event(conn, store.log_id(), "log.fold_changed", {"from": 1, "to": 1}, store.projection)
    return store


def facts(events: list[RecordedEvent]) -> list[tuple[Any, ...]]:
    return [
        (e.job_id, e.version, e.event_id, e.type, e.step, e.attempt, e.seq, e.data_json, e.actor, e.occurred_us,
         e.applied, e.reason, e.ppm)
        for e in events
        if e.job_id != LOG_JOB
    ]  # fmt: skip


def everything(store: EventStore) -> list[RecordedEvent]:
    return [event for page in store.replay() for event in page]


def exported(store: EventStore, **options: Any) -> bytes:
    out = io.BytesIO()
    export(store, out, **options)
    return out.getvalue()


# -- NDJSON, and back -------------------------------------------------------------------------------------------------


def test_an_export_comes_back_as_the_same_events_verdicts_and_percentages(
    store: EventStore, other: EventStore, tmp_path: Path
) -> None:
    text = exported(filled(store))
    path = tmp_path / "log.ndjson"
    path.write_bytes(text)
    report = import_file(other, str(path))
    assert (report.form, report.read, report.changed, report.jobs) == ("export", 720, 0, 6)
    assert facts(everything(other)) == facts(everything(store))
    assert exported(other) == text


def test_numbers_and_texts_at_their_limits_come_back(store: EventStore, other: EventStore, tmp_path: Path) -> None:
    odd = {
        "large": [1e16, -1.2345678901234567e20, 1e21, 1.7976931348623157e308, 2**53, -(2**53)],
        "small": [5e-324, -0.0, 1e-7, 0.1 + 0.2],
        "text": '\x01\x1b\u2028\ufeff🚀 推送 \\ " </script>',
        "12345678901234567890": None,
        "deep": [[[[[{"": [True, False]}]]]]],
    }
    store.append("a", [
        NewEvent(type="job.noted", data={"level": "info", "message": "x" * 8_000, "data": odd}),
        NewEvent(type="step.failed", step="s", data={"error": {"message": "m", "stack": "s" * 100_000}}),
        NewEvent(type="step.started", step="推送 🚀", seq=0, attempt=2**31 - 1, occurred_at=to_datetime(-1)),
    ])  # fmt: skip
    path = tmp_path / "log.ndjson"
    path.write_bytes(exported(store))
    assert import_file(other, str(path)).changed == 0
    assert facts(everything(other)) == facts(everything(store))
    assert exported(other) == exported(store)
    assert import_file(store, str(path)).known == 3


def test_the_jobs_of_an_imported_export_are_those_of_the_first_log(
    store: EventStore, other: EventStore, tmp_path: Path
) -> None:
    path = tmp_path / "log.ndjson"
    path.write_bytes(exported(filled(store), fill_times=True))
    import_file(other, str(path))
    names = [job.job_id for job in list_jobs(store)]
    first, second = read_snapshots(store, names), read_snapshots(other, names)
    places = {"cursor", "position", "first_position"}
    for name in names:
        one, two = (
            {field: getattr(view[name], field) for field in view[name].__struct_fields__ if field not in places}
            for view in (first, second)
        )
        assert one == two


def test_importing_an_export_again_adds_nothing_also_where_it_came_from(store: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    path.write_bytes(exported(filled(store)))
    before = store.head().position
    report = import_file(store, str(path))
    assert (report.known, report.applied, report.changed) == (720, 0, 0)
    assert store.head().position == before


def test_full_lines_are_those_of_the_wire_and_come_back_too(
    cli: Cli, store: EventStore, other: EventStore, tmp_path: Path
) -> None:
    text = exported(filled(store), full=True)
    assert text.decode() == cli("tail", "--json").out
    path = tmp_path / "log.ndjson"
    path.write_bytes(text)
    report = import_file(other, str(path))
    assert (report.left_out, report.changed) == (4, 0)
    assert exported(other) == exported(store)


def test_a_part_that_gets_other_verdicts_alone_is_told(store: EventStore, other: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    path.write_bytes(exported(filled(store), selection=Selection(after=300)))
    report = import_file(other, str(path))
    assert report.changed > 0
    assert report.changed_line is not None
    assert report.settled == report.events


def test_times_that_nobody_claimed_are_those_of_recording_if_asked_for(store: EventStore) -> None:
    store.append("a", [NewEvent(type="job.started")])
    (event,) = store.read_log()
    assert json.loads(exported(store))["occurred_at"] is None
    assert datetime.fromisoformat(json.loads(exported(store, fill_times=True))["occurred_at"]) == event.recorded_at


LINE = {"job_id": "a", "version": 1, "event_id": str(uuid.UUID(int=1)), "type": "job.started", "data": {}}


@pytest.mark.parametrize(
    ("lines", "line", "what"),
    [
        ([LINE, {**LINE, "version": 2}], 2, "stands in line 1 already"),
        ([{**LINE, "version": 2}, {**LINE, "event_id": str(uuid.UUID(int=2))}], 2, "comes after its version 2"),
        ([LINE, {**LINE, "type": "job.exploded"}], 2, "type: an event type of version 1"),
        ([{**LINE, "type": "step.progressed", "step": "s", "data": {"percent": 101}}], 1, "data.percent"),
        ([{**LINE, "job_id": "-"}], 1, "job_id"),
        ([{**LINE, "event_id": str(uuid.UUID(int=0))}], 1, "event_id"),
        ([{**LINE, "event_id": "no"}], 1, "Invalid UUID"),
        ([{**LINE, "occurred_at": "2011-10-01T00:00:00"}], 1, "a time with a zone"),
        ([{**LINE, "data": []}], 1, "not an exported event"),
        ([LINE, {**LINE, "data": {"a": float("nan")}}], 2, "not an exported event"),
        ([{name: value for name, value in LINE.items() if name != "version"}], 1, "version"),
        ([LINE, {"case": "1"}], 2, "not an exported event"),
    ],
)
def test_a_damaged_export_is_refused_as_a_whole(
    store: EventStore, tmp_path: Path, lines: list[dict[str, Any]], line: int, what: str
) -> None:
    path = tmp_path / "log.ndjson"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    with pytest.raises(ImportRefused, match=what) as refused:
        import_file(store, str(path))
    assert refused.value.line == line
    assert store.head().position == 0


def test_a_job_above_the_limit_of_events_is_refused(store: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    lines = [{**LINE, "version": place, "event_id": str(uuid.UUID(int=place))} for place in range(1, 12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ImportRefused, match="'a' has more than 10 events") as refused:
        import_file(store, str(path), max_job_events=10)
    assert refused.value.line == 11


# -- which events -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(jobs=("job:1",)),
        Selection(jobs=("job:4", "job:1", "nobody")),
        Selection(prefix="job:"),
        Selection(prefix="job:3"),
        Selection(prefix="other"),
        Selection(jobs=("job:1", "job:2"), prefix="job:2"),
        Selection(after=100, upto=400),
        Selection(jobs=("job:5",), after=100, upto=400),
        Selection(after=10_000),
        Selection(after=400, upto=100),
    ],
)
@pytest.mark.parametrize("form", ["ndjson", "csv", "xes"])
def test_every_form_has_the_selected_events_and_no_other(store: EventStore, form: Any, selection: Selection) -> None:
    expected = [
        event
        for event in everything(filled(store, length=60))
        if selection.after < event.position <= selection.upto
        and (selection.jobs is None or event.job_id in selection.jobs)
        and event.job_id.startswith(selection.prefix)
        and event.job_id != LOG_JOB
    ]
    out = io.BytesIO()
    assert export(store, out, form=form, selection=selection) == len(expected)
    got: list[str]
    match form:
        case "ndjson":
            got = [json.loads(line)["event_id"] for line in out.getvalue().splitlines()]
        case "csv":
            got = [row["event_id"] for row in rows_of(out.getvalue())]
        case _:
            root = ElementTree.fromstring(out.getvalue())
            names = {trace.find("{*}string").attrib["value"] for trace in root.findall("{*}trace")}  # type: ignore[union-attr]
            assert names == {event.job_id for event in expected}
            assert len(root.findall("{*}trace/{*}event")) == len(expected)
            return
    assert got == [str(event.event_id) for event in expected]


def test_a_job_of_many_pages_is_exported_whole(store: EventStore) -> None:
    for start in range(0, 3_500, 500):
        store.append("long", [NewEvent(type="step.progressed", step="s", data={"done": start + n}) for n in range(500)])
        store.append(f"short:{start}", [NewEvent(type="job.started")] * 3)
    for selection in (Selection(jobs=("long",)), Selection(prefix="long"), Selection(prefix="l", upto=3_000)):
        lines = exported(store, selection=selection).splitlines()
        versions = [json.loads(line)["version"] for line in lines]
        assert versions == list(range(1, len(versions) + 1))
        root = ElementTree.fromstring(exported(store, form="xes", selection=selection))
        assert len(root.findall("{*}trace")) == 1
        assert len(root.findall("{*}trace/{*}event")) == len(versions)
    assert len(ElementTree.fromstring(exported(store, form="xes")).findall("{*}trace/{*}event")) == 3_521


def test_no_more_than_a_page_of_events_is_in_memory(store: EventStore) -> None:
    for job in range(4):
        store.append(f"job:{job}", [NewEvent(type="step.progressed", step="s", data={"done": n}) for n in range(900)])
    chosen = Selection().at(3_600)
    for read in (in_order, job_by_job):
        pages = [page for _, page in read(store, chosen)]
        assert max(map(len, pages)) <= PAGE
        assert sum(map(len, pages)) == 3_600


def test_an_id_that_no_job_can_have_is_refused(store: EventStore) -> None:
    for form in ("ndjson", "xes"):
        with pytest.raises(InvalidFilter):
            exported(store, form=form, selection=Selection(jobs=("-",)))


# -- CSV --------------------------------------------------------------------------------------------------------------


def rows_of(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize("evil", ["=cmd|' /C calc'!A1", "+1", "-1", "@SUM(A1)", "\tx", "\r=1", "＝1"])
def test_no_text_of_a_csv_runs_as_a_formula_unless_wanted(store: EventStore, evil: str) -> None:
    step = evil if evil.isprintable() else "s"
    actor = evil if evil.isprintable() else None
    store.append("a", [
        NewEvent(type="step.failed", step=step, data={"error": {"message": evil}, "message": evil}, actor=actor),
    ])  # fmt: skip
    (row,) = rows_of(exported(store, form="csv"))
    assert row["message"] == row["error"] == f"'{evil}"
    assert row["step"] == (f"'{evil}" if step == evil else "s")
    assert row["actor"] == (f"'{evil}" if actor else "")
    (row,) = rows_of(exported(store, form="csv", formulas=True))
    assert row["message"] == row["error"] == evil


def test_a_csv_opens_with_chinese_text_and_keeps_every_cell(store: EventStore) -> None:
    message = '推送 "代码", 第 1 步\nzweite Zeile; ende'
    when = datetime.fromisoformat("2011-10-01T00:38:44.546+02:00")
    store.append("a", [
        NewEvent(
            type="step.progressed", step="推送", data={"percent": 57, "message": message}, occurred_at=when, actor="林"
        ),
    ])  # fmt: skip
    text = exported(store, form="csv")
    assert text.startswith(b"\xef\xbb\xbfposition,")
    assert not exported(store, form="csv", bom=False).startswith(b"\xef\xbb\xbf")
    (row,) = rows_of(text)
    (event,) = store.read_log()
    assert (row["step"], row["actor"], row["message"]) == ("推送", "林", message)
    assert (row["occurred_at"], row["percent"], row["applied"]) == ("2011-09-30T22:38:44.546000Z", "0.0000", "true")
    assert json.loads(row["data"]) == {"percent": 57, "message": message}
    assert (row["position"], row["event_id"]) == ("1", str(event.event_id))


# -- XES --------------------------------------------------------------------------------------------------------------


def test_an_imported_history_leaves_as_the_xes_that_it_was(store: EventStore, tmp_path: Path) -> None:
    import_file(store, str(write_ndjson(tmp_path / "house.ndjson", HOUSE)))
    path = tmp_path / "out.xes"
    path.write_bytes(exported(store, form="xes"))
    report = import_file(store, str(path), prefix="")
    assert (report.known, report.read) == (17, 17)


def test_control_characters_which_xml_has_not_are_written_out(store: EventStore) -> None:
    evil = "\x1b[2J \x00 <&\"'> \ufffe 推送\n\t".replace("\x00", "\x01")
    store.append("a", [NewEvent(type="job.noted", data={"level": "info", "message": evil})])
    root = ElementTree.fromstring(exported(store, form="xes"))
    (message,) = [node.attrib["value"] for node in root.iter() if node.attrib.get("key") == "message"]
    assert message == "\\x1b[2J \\x01 <&\"'> \\ufffe 推送\n\t"


def test_members_of_other_kinds_than_usual_stop_no_export(store: EventStore) -> None:
    store.append("a", [
        NewEvent(type="step.completed", step="s", data={"error": "text", "transition": 5}),
        NewEvent(type="step.noted", step="t", data={"level": "info", "message": "m", "transition": 5, "error": None}),
        NewEvent(type="job.completed", data={"error": {"message": ["list"]}}),
    ])  # fmt: skip
    for form in ("ndjson", "csv", "xes"):
        assert exported(store, form=form)


def test_an_empty_log_is_an_empty_file_of_its_form(store: EventStore) -> None:
    assert exported(store) == b""
    assert rows_of(exported(store, form="csv")) == []
    assert ElementTree.fromstring(exported(store, form="xes")).findall("{*}trace") == []


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_name_of_the_file_says_its_form(cli: Cli, store: EventStore, tmp_path: Path) -> None:
    filled(store, jobs=2, length=20)
    for name in ("a.ndjson", "a.ndjson.gz", "a.csv", "a.xes", "a.xes.gz"):
        assert "40 events" in cli("export", "-o", str(tmp_path / name)).err
    assert gzip.decompress((tmp_path / "a.ndjson.gz").read_bytes()) == (tmp_path / "a.ndjson").read_bytes()
    assert gzip.decompress((tmp_path / "a.xes.gz").read_bytes()) == (tmp_path / "a.xes").read_bytes()
    packed = (tmp_path / "a.ndjson.gz").read_bytes()
    cli("export", "-o", str(tmp_path / "a.ndjson.gz"))
    assert (tmp_path / "a.ndjson.gz").read_bytes() == packed
    assert cli("export").out.encode() == (tmp_path / "a.ndjson").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.csv", "a.ndjson", "a.ndjson.gz", "a.xes", "a.xes.gz",
    ]  # fmt: skip


def test_cursors_and_jobs_select(cli: Cli, store: EventStore) -> None:
    filled(store, jobs=3, length=20)
    cursor = json.loads(cli("tail", "--json").out.split("\n")[9])["cursor"]
    assert cli("export", "--after", "5", "--upto", cursor).out.count("\n") == 5
    assert cli("export", "--job", "job:1", "--job", "job:2").out.count("\n") == 40
    assert len(rows_of(cli("export", "--prefix", "job:0", "--format", "csv", "--no-bom").out.encode())) == 20
    assert "not on this log's history" in cli("export", "--after", "999", code=1).err
    assert "--full is for ndjson" in cli("export", "--full", "--format", "csv", code=2).err


def test_an_export_that_fails_leaves_what_was_there(cli: Cli, store: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text("what was there")
    cli("export", "-o", str(path), "--job", "-", code=2)
    assert path.read_text() == "what was there"
    assert [found.name for found in tmp_path.iterdir()] == ["a.ndjson"]
    assert "/no/a.csv': No such file" in cli("export", "-o", str(tmp_path / "no" / "a.csv"), code=1).err
