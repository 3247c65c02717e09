"""Whole files: the same history in every form, and what is refused without a trace."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore.memory import InMemoryEventStore
from projections.importing import Columns, ImportRefused, ImportReport, import_file, spool
from projections.progress import Progress
from tests.support.files import FIELDS, HOUSE, Row, at, write_csv, write_ndjson, write_xes

Write = Callable[[Path, list[Row]], Path]
FORMS: dict[str, Write] = {
    "house.ndjson": write_ndjson,
    "house.ndjson.gz": write_ndjson,
    "house.csv": write_csv,
    "house.xes": write_xes,
    "house.xes.gz": write_xes,
}


def memory() -> InMemoryEventStore:
    return InMemoryEventStore(projection=Progress())


def said(store: InMemoryEventStore) -> list[tuple[Any, ...]]:
    """What the log holds, without what depends on the day."""
    return [
        (e.job_id, e.type, e.step, e.attempt, e.actor, e.occurred_us, e.event_id, e.applied, e.reason, e.ppm, e.data)
        for e in store.read_log()
    ]


@pytest.mark.parametrize("name", FORMS)
def test_each_form_of_a_history_gives_the_same_jobs(tmp_path: Path, name: str) -> None:
    rows = sorted(HOUSE, key=lambda row: row[0]) if "xes" in name else HOUSE
    with memory() as reference, memory() as store:
        import_file(reference, str(write_ndjson(tmp_path / "house.jsonl", HOUSE)))
        report = import_file(store, str(FORMS[name](tmp_path / name, rows)))
        assert sorted(said(store), key=str) == sorted(said(reference), key=str)
        assert (report.read, report.jobs, report.settled) == (17, 2, 17)


def test_a_case_becomes_a_job_and_its_activities_steps(tmp_path: Path) -> None:
    with memory() as store:
        import_file(store, str(write_ndjson(tmp_path / "house.ndjson", HOUSE)))
        got = [(e.type, e.step, e.attempt, e.actor, e.applied, e.reason) for e in store.read_job("house:7")]
        assert got == [
            ("step.added", "survey", None, "ann", True, None),
            ("step.started", "survey", 1, "bob", True, None),
            ("step.waiting", "survey", 1, "bob", True, None),
            ("step.resumed", "survey", 1, "bob", True, None),
            ("step.completed", "survey", 1, "bob", True, None),
            ("step.noted", "survey", None, "ann", False, "step_ended"),
            ("step.started", "survey", 2, None, True, None),
            ("step.failed", "survey", 2, "bob", True, None),
            ("step.started", "survey", 3, "bob", True, None),
            ("step.completed", "survey", 3, "bob", True, None),
        ]
        assert [e.type for e in store.read_job("house:9")] == [
            "step.completed", "step.started", "step.cancelled", "step.skipped", "step.noted", "step.noted",
            "step.completed",
        ]  # fmt: skip


def test_a_second_import_adds_nothing_whatever_the_form(tmp_path: Path) -> None:
    with memory() as store:
        import_file(store, str(write_ndjson(tmp_path / "house.ndjson", HOUSE)))
        before = said(store)
        for name, write in FORMS.items():
            report = import_file(store, str(write(tmp_path / name, sorted(HOUSE, key=lambda row: row[0]))))
            assert (report.known, report.applied, report.rejected) == (17, 0, {})
        assert said(store) == before


def test_a_file_that_has_grown_adds_what_is_new(tmp_path: Path) -> None:
    with memory() as store:
        import_file(store, str(write_ndjson(tmp_path / "house.ndjson", HOUSE[:12])))
        report = import_file(store, str(write_ndjson(tmp_path / "house.ndjson", HOUSE)))
        assert (report.known, report.applied + sum(report.rejected.values())) == (12, 5)


def test_rows_of_a_case_go_by_time_and_where_times_are_equal_by_place(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("1", "b", "start", at(2), None),
        ("1", "z", "start", at(1), None),
        ("1", "a", "start", at(1), None),
        ("1", "c", "start", at(0.5), None),
    ]
    for name, write in FORMS.items():
        with memory() as store:
            import_file(store, str(write(tmp_path / name, rows)))
            assert [e.step for e in store.read_log()] == ["c", "z", "a", "b"]


def test_over_all_cases_lines_go_by_time_and_xes_case_by_case(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("2", "a", "start", at(5), None),
        ("2", "b", "start", at(9), None),
        ("1", "a", "start", at(7), None),
    ]
    orders = {}
    for name, write in FORMS.items():
        with memory() as store:
            import_file(store, str(write(tmp_path / name, rows)))
            orders[name] = [e.job_id for e in store.read_log()]
    by_time, by_case = ["house:2", "house:1", "house:2"], ["house:2", "house:2", "house:1"]
    assert orders == {name: by_case if "xes" in name else by_time for name in FORMS}


def test_a_trace_that_is_split_is_one_job(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("1", "a", "complete", at(5), None),
        ("2", "a", "start", at(1), None),
        ("1", "a", "complete", at(2), None),
    ]
    with memory() as store:
        import_file(store, str(write_xes(tmp_path / "house.xes", rows)))
        assert [(e.job_id, e.attempt) for e in store.read_log()] == [("house:1", 1), ("house:1", 2), ("house:2", 1)]
        assert [e.occurred_at.second for e in store.read_job("house:1") if e.occurred_at] == [2, 5]


def test_columns_of_other_names_are_mapped_and_the_rest_is_named(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "loans.csv",
        [("1", "x", "sign", "ann", "2011-10-01 00:00:00Z")],
        header=("Case ID", "Amount", "What", "Who", "When"),
        delimiter=";",
    )
    columns = Columns(case="Case ID", activity="What", time="When", resource="Who")
    with memory() as store:
        report = import_file(store, str(path), columns=columns)
        assert [(e.job_id, e.type, e.step, e.actor) for e in store.read_log()] == [
            ("loans:1", "step.completed", "sign", "ann")
        ]
    assert report.ignored_columns == ["Amount"]


def test_the_names_of_xes_are_known_in_csv_too(tmp_path: Path) -> None:
    header = ("case:concept:name", "concept:name", "lifecycle:transition", "time:timestamp", "org:resource")
    with memory() as store:
        assert import_file(store, str(write_csv(tmp_path / "a.csv", HOUSE, header=header))).settled == 17


def test_a_byte_order_mark_windows_lines_and_quoted_line_breaks_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + 'case,note,activity,time\r\n1,"two\r\nlines",签字,2011-10-01T00:00:00Z\r\n\r\n'.encode()
    )
    with memory() as store:
        import_file(store, str(path), form="csv")
        assert [e.step for e in store.read_log()] == ["签字"]


def test_xml_in_utf_16_is_read(tmp_path: Path) -> None:
    path = write_xes(tmp_path / "a.xes", HOUSE)
    path.write_bytes(path.read_text().replace("UTF-8", "UTF-16").encode("utf-16"))
    with memory() as store:
        assert import_file(store, str(path)).settled == 17


def test_nested_attributes_lists_and_globals_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.xes"
    path.write_text(
        '<xes:log xmlns:xes="u"><xes:global scope="event"><string key="concept:name" value="no"/></xes:global>'
        '<xes:trace><string key="other" value="o"><string key="concept:name" value="no"/></string>'
        '<string key="concept:name" value="1"/><xes:event><string key="concept:name" value="yes">'
        '<string key="concept:name" value="no"/></string><list key="l"><values><string key="concept:name" value="no"/>'
        '</values></list><date key="time:timestamp" value="2011-10-01T00:00:00Z"/></xes:event></xes:trace>'
        '<xes:trace><string key="concept:name" value="2"/></xes:trace></xes:log>'
    )
    with memory() as store:
        report = import_file(store, str(path))
        assert [(e.job_id, e.step) for e in store.read_log()] == [("a:1", "yes")]
    assert report.cases_without_events == 1


# -- what is refused --------------------------------------------------------------------------------------------------

CSV = ",".join(FIELDS) + "\n"
GOOD = "1,a,start,2011-10-01T00:00:00Z,ann\n"
TRACE = '<log><trace><string key="concept:name" value="1"/>'
BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE log [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {name} "{f"&{inner};" * 10}">' for inner, name in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>\n<log>&i;</log>"
)
BAD: dict[str, tuple[str | bytes, int | None, str]] = {
    "empty.csv": ("", None, "the file is empty"),
    "header_only.csv": (CSV, None, "no event in the file"),
    "blank.csv": ("\n\n\n", None, "no header and no rows"),
    "no_traces.xes": ("<log></log>", None, "no event in the file"),
    "no_zone.csv": (CSV + GOOD + "1,a,complete,2011-10-01T00:00:01,ann\n", 3, "--zone"),
    "range.csv": (CSV + GOOD + "1,a,complete,10000-10-01T00:00:01Z,ann\n", 3, "year 1 to 9999"),
    "no_time.csv": (CSV + "1,a,complete,,ann\n", 2, "the event has no time"),
    "no_case.csv": (CSV + ",a,complete,2011-10-01T00:00:01Z,ann\n", 2, "the event has no case"),
    "no_activity.csv": (CSV + "1,,complete,2011-10-01T00:00:01Z,ann\n", 2, "the event has no activity"),
    "long_activity.csv": (CSV + f"1,{'a' * 201},,2011-10-01T00:00:01Z,ann\n", 2, "activity: 1 to 200 characters"),
    "escape.csv": (CSV + "1,a\x1b[2J,,2011-10-01T00:00:01Z,ann\n", 2, "without control characters"),
    "actor.csv": (CSV + "1,a,,2011-10-01T00:00:01Z,an\x00n\n", 2, "resource: text without NUL"),
    "transition.csv": (CSV + "1,a,st\x1bart,2011-10-01T00:00:01Z,ann\n", 2, "transition"),
    "columns.csv": ("id,activity,time\n1,a,2011-10-01T00:00:00Z\n", 1, "the columns are: id, activity, time"),
    "columns.ndjson": ('{"id": "1", "activity": "a"}\n', 1, "--case COLUMN"),
    "twice.csv": ("case,case,activity,time\n1,2,a,2011-10-01T00:00:00Z\n", 1, "two columns are called 'case'"),
    "narrow.csv": (CSV + GOOD + "1,a,complete\n", 3, "3 columns, and the header has 5"),
    "wide.csv": (CSV + GOOD + GOOD.replace("\n", ",x\n"), 3, "6 columns"),
    "quote.csv": (CSV + GOOD + '1,"a,start,x,y\n', 3, "not CSV"),
    "latin.csv": ((CSV + "1,\xe4,start,x,y\n").encode("latin-1"), 2, "not UTF-8"),
    "utf16.csv": (CSV.encode("utf-16"), None, "UTF-16"),
    "duplicate.csv": (CSV + GOOD + "2,a,,2011-10-01T00:00:00Z,\n" + GOOD, 4, "the same event as in line 2"),
    "contradiction.csv": (CSV + GOOD + GOOD.replace("ann", "bob"), 3, "contradicts line 2"),
    "list.ndjson": ('{"case": "1", "activity": "a", "time": "2011-10-01T00:00:00Z"}\n[]\n', 2, "not a JSON object"),
    "cut.ndjson": ('{"case": "1", "activity": "a", "time": "2011-10-01T00:00:00Z"}\n{"case": "1", "ac', 2, "not JSON"),
    "deep.ndjson": ('{"case": ' + "[" * 100_000, 1, "not JSON"),
    "kind.ndjson": ('{"case": "1", "activity": {}, "time": "2011-10-01T00:00:00Z"}\n', 1, "activity: a text is needed"),
    "surrogate.ndjson": ('{"case": "1", "activity": "\\ud800", "time": "2011-10-01T00:00:00Z"}\n', 1, "not JSON"),
    "nan.ndjson": ('{"case": NaN, "activity": "a", "time": "2011-10-01T00:00:00Z"}\n', 1, "not JSON"),
    "long.ndjson": ('{"case": "' + "a" * 1_100_000, 1, "longer than 1,048,576 bytes"),
    "bomb.xes": (BOMB, 2, "<!DOCTYPE"),
    "external.xes": ('<!DOCTYPE log SYSTEM "file:///etc/passwd">\n<log/>', 1, "<!DOCTYPE"),
    "parameter.xes": ('<!DOCTYPE log [<!ENTITY % x SYSTEM "http://127.0.0.1/x"> %x;]><log/>', 1, "<!DOCTYPE"),
    "entity.xes": ("<log>&a;</log>", 1, "undefined entity"),
    "html.xes": ("<html></html>", 1, "no XES"),
    "cut.xes": (TRACE + "<event>", 1, "not well-formed"),
    "mismatched.xes": (TRACE + "\n</event></log>", 2, "not well-formed"),
    "no_name.xes": ("<log>\n<trace>\n<event/></trace></log>", 3, "no concept:name before its first event"),
    "outside.xes": ("<log>\n<event/></log>", 2, "outside of a trace"),
    "no_activity.xes": (TRACE + "\n<event/></trace></log>", 2, "the event has no activity"),
    "deep.xes": ("<log>" + "<a>" * 100_000, 1, "nested more than 100 deep"),
    "giant.xes": (TRACE + '<string key="' + "a" * 5_000_000, 1, "a tag or text of more than"),
    "binary.xes": ("<log>\x00</log>", 1, "not well-formed"),
    "packed.zip": ("PK\x03\x04" + "x" * 50, None, "unpack it first"),
    "noise.gz": (b"\x1f\x8b\x08\x00" + bytes(range(256)), None, "damaged"),
    "cut.csv.gz": (gzip.compress(CSV.encode() + GOOD.encode() * 9)[:-9], None, "ends too early"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_line_and_nothing_of_it_is_imported(tmp_path: Path, name: str) -> None:
    text, line, what = BAD[name]
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with memory() as store:
        with pytest.raises(ImportRefused) as refused:
            import_file(store, str(path))
        assert store.head().position == 0
    assert what in str(refused.value)
    assert (refused.value.file, refused.value.line) == (str(path), line)
    assert len(str(refused.value)) < 600


def test_a_mistake_at_the_very_end_leaves_nothing_in_the_log(tmp_path: Path) -> None:
    rows: list[Row] = [("1", f"a{place}", "start", at(place), None) for place in range(3_000)]
    for name, write in FORMS.items():
        with memory() as store:
            with pytest.raises(ImportRefused):
                import_file(store, str(write(tmp_path / name, [*rows, ("1", "z", "start", "never", None)])))
            assert store.head().position == 0


def test_a_case_above_the_limit_is_refused_by_its_name(tmp_path: Path) -> None:
    rows: list[Row] = [("ok", "a", "start", at(0), None)]
    rows += [("huge", "a", "start", at(place), None) for place in range(101)]
    for name, write in FORMS.items():
        with memory() as store:
            with pytest.raises(ImportRefused, match=r"'house:huge' has more than 100 events"):
                import_file(store, str(write(tmp_path / name, rows)), max_job_events=100)
            assert store.head().position == 0
            assert import_file(store, str(write(tmp_path / name, rows)), max_job_events=101).settled == 102


def test_second_copies_are_left_out_or_kept_as_asked(tmp_path: Path) -> None:
    copies: list[Row] = [("1", "a", "complete", at(1), "ann")] * 3
    path = str(write_ndjson(tmp_path / "a.ndjson", copies))
    with memory() as store:
        report = import_file(store, path, duplicates="skip")
        assert (report.read, report.repeated, report.applied) == (3, 2, 1)
    with memory() as store:
        assert import_file(store, path, duplicates="keep").applied == 3
        assert [e.attempt for e in store.read_log()] == [1, 2, 3]
        assert import_file(store, path, duplicates="keep").known == 3


def test_contradictions_are_refused_unless_both_are_wanted(tmp_path: Path) -> None:
    path = str(
        write_csv(tmp_path / "a.csv", [("1", "a", "complete", at(1), "ann"), ("1", "a", "complete", at(1), "bob")])
    )
    with memory() as store:
        with pytest.raises(ImportRefused, match="contradicts"):
            import_file(store, path, duplicates="skip")
        assert import_file(store, path, duplicates="keep").applied == 2


def test_checking_needs_no_log(tmp_path: Path) -> None:
    report = import_file(None, str(write_xes(tmp_path / "house.xes", HOUSE)))
    assert (report.read, report.jobs, report.appended, report.settled) == (17, 2, False, 0)


def test_standard_input_needs_a_prefix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_ndjson(tmp_path / "a.ndjson", HOUSE)

    def given_input() -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(path.open("rb")))

    with memory() as store:
        given_input()
        with pytest.raises(ImportRefused, match="--prefix"):
            import_file(store, "-")
        sys.stdin.close()
        given_input()
        assert import_file(store, "-", prefix="house:").settled == 17
        sys.stdin.close()


@pytest.mark.parametrize("prefix", ["-x", "a b", "é:", "x" * 101, "a/"])
def test_a_prefix_that_no_job_id_can_begin_with_is_refused(tmp_path: Path, prefix: str) -> None:
    with memory() as store, pytest.raises(ImportRefused, match="prefix"):
        import_file(store, str(write_ndjson(tmp_path / "a.ndjson", HOUSE)), prefix=prefix)


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "CHUNK", 1_000)
    monkeypatch.setattr(spool, "BLOCK", 8)

    def peak(count: int) -> int:
        rows = [(str(place % (count // 10)), f"a{place % 7}", "start", at(place), None) for place in range(count)]
        path = str(write_ndjson(tmp_path / f"{count}.ndjson.gz", rows[::-1]))
        del rows
        tracemalloc.start()
        try:
            assert import_file(None, path, prefix="x:").read == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1_000)
    assert peak(20_000) < 2 * peak(5_000)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORDS = st.sampled_from("schedule start suspend resume complete ate_abort withdraw autoskip assign START".split())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, WORDS | TEXT, st.integers(0, 9), st.none() | TEXT), min_size=1, max_size=20))
def test_whatever_rows_are_given_all_are_kept_or_none(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    written: list[Row] = [(case, step, word, at(second), who) for case, step, word, second, who in rows]
    path = str(write_ndjson(tmp_path / "any.ndjson", written))
    with memory() as store:
        try:
            report: ImportReport | None = import_file(store, path, duplicates="keep")
        except ImportRefused as refused:
            report = None
            assert refused.line is not None
        assert store.head().position == (0 if report is None else len(rows))
        if report is not None:
            assert report.settled == len(rows)
            assert import_file(store, path, duplicates="keep").known == len(rows)
            assert all(json.loads(event.data_json) is not None for event in store.read_log())
