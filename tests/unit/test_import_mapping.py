"""What a row of a history becomes: job id, event id, type, attempt."""

from __future__ import annotations

import re
import uuid
from zoneinfo import available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.errors import InvalidEvent
from projections.importing import default_prefix
from projections.importing.happenings import moment, zone_of
from projections.importing.mapping import Activity, event_id_of, job_id_of

CASES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}")


@pytest.mark.parametrize(
    ("case", "job"),
    [
        ("173688", "b:173688"),
        ("Fall 7/b", "b:Fall@207@2Fb"),
        ("a@20", "b:a@4020"),
        ("工单", "b:@E5@B7@A5@E5@8D@95"),
        (".", "b:."),
        ("\n", "b:@0A"),
    ],
)
def test_a_case_that_no_job_id_can_hold_is_written_with_at_signs(case: str, job: str) -> None:
    assert job_id_of("b:", case) == job


@given(CASES)
def test_every_case_has_a_valid_job_id(case: str) -> None:
    assert JOB_ID.fullmatch(job_id_of("b:", case))


@given(CASES, CASES)
def test_different_cases_have_different_job_ids(one: str, other: str) -> None:
    assert (job_id_of("b:", one) == job_id_of("b:", other)) is (one == other)


def test_long_cases_that_begin_the_same_stay_apart() -> None:
    ids = {job_id_of("b:", "x" * 500 + end) for end in ("", "1", "2")}
    assert len(ids) == 3
    assert {len(job_id) for job_id in ids} == {200}


def test_without_a_prefix_a_case_must_begin_with_a_letter_or_digit() -> None:
    assert job_id_of("", "bpic:1") == "bpic:1"
    for case in ("_1", "工单", "headway.log"):
        with pytest.raises(InvalidEvent):
            job_id_of("", case)


def test_the_id_of_a_row_depends_on_all_that_it_says_and_on_nothing_else() -> None:
    row = ("b:1", "survey", "start", 1_317_000_000_123_456, "ann", 0)
    first = event_id_of(*row)
    assert event_id_of(*row) == first
    others = [
        ("b:2", *row[1:]),
        (*row[:1], "print", *row[2:]),
        (*row[:2], "complete", *row[3:]),
        (*row[:3], row[3] + 1, *row[4:]),
        (*row[:4], "bob", 0),
        (*row[:4], None, 0),
        (*row[:5], 1),
    ]
    assert len({first, *(event_id_of(*other) for other in others)}) == 8


def test_the_id_of_a_row_never_changes_between_versions_of_headway() -> None:
    """Else a second import would add everything once more."""
    assert uuid.UUID(bytes=event_id_of("b:1", "survey", "start", 1_317_000_000_123_456, "ann", 0)) == uuid.UUID(
        "0132a351-327b-8382-9904-32050b30fb9a"
    )


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_the_id_of_a_row_is_a_uuid_of_version_8_at_any_time(us: int) -> None:
    ident = uuid.UUID(bytes=event_id_of("b:1", "a", "start", us, None, 0))
    assert (ident.version, ident.variant) == (8, uuid.RFC_4122)


def meanings(transitions: str) -> list[tuple[str, int | None]]:
    activity = Activity()
    return [activity.meaning(name)[:2] for name in transitions.split()]


@pytest.mark.parametrize(
    ("transitions", "expected"),
    [
        ("schedule schedule", [("step.added", None), ("step.noted", None)]),
        ("start schedule", [("step.started", 1), ("step.noted", None)]),
        ("start complete start complete", [
            ("step.started", 1), ("step.completed", 1), ("step.started", 2), ("step.completed", 2),
        ]),
        ("complete complete", [("step.completed", 1), ("step.completed", 2)]),
        ("start start", [("step.started", 1), ("step.started", 1)]),
        ("start suspend resume", [("step.started", 1), ("step.waiting", 1), ("step.resumed", 1)]),
        ("complete resume start", [("step.completed", 1), ("step.resumed", None), ("step.started", 2)]),
        ("start ate_abort start pi_abort", [
            ("step.started", 1), ("step.failed", 1), ("step.started", 2), ("step.failed", 2),
        ]),
        ("schedule withdraw start", [("step.added", None), ("step.cancelled", None), ("step.started", 1)]),
        ("start withdraw start", [("step.started", 1), ("step.cancelled", 1), ("step.started", 2)]),
        ("autoskip manualskip", [("step.skipped", None), ("step.skipped", None)]),
        ("assign reassign unknown paid", [("step.noted", None)] * 4),
    ],
)  # fmt: skip
def test_transitions_mean_what_the_standard_says(transitions: str, expected: list[tuple[str, int | None]]) -> None:
    assert meanings(transitions) == expected


def test_a_transition_without_a_meaning_is_named_in_the_note() -> None:
    assert Activity().meaning("reassign").data == {"level": "info", "message": "reassign", "transition": "reassign"}


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("2011-10-01T00:38:44.546+02:00", 1_317_422_324_546_000),
        ("2011-09-30T22:38:44.546Z", 1_317_422_324_546_000),
        ("2011-09-30 22:38:44.5461239Z", 1_317_422_324_546_123),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
    ],
)
def test_times_are_iso_8601_with_a_zone(text: str, us: int) -> None:
    assert moment(text, None) == us


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("2011-10-01T00:00:00", "no zone"),
        ("2011-10-01", "no zone"),
        ("yesterday", "no time"),
        ("1317422324", "no time"),
        ("0000-01-01T00:00:00Z", "no time"),
        ("10000-01-01T00:00:00Z", "no time"),
        ("2011-02-30T00:00:00Z", "no time"),
        ("2011-10-01T00:00:00+99:99", "no time"),
        ("infinity", "no time"),
        ("٢٠١١-10-01T00:00:00Z", "no time"),
        ("0001-01-01T00:00:00+05:00", "not from year 1"),
        ("9999-12-31T23:00:00-05:00", "not from year 1"),
    ],
)
def test_other_times_are_refused(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        moment(text, None)


def test_a_zone_is_assumed_only_for_times_that_name_none() -> None:
    assert moment("2011-10-01T02:00:00", zone_of("+02:00")) == moment("2011-10-01T00:00:00Z", zone_of("+02:00"))
    if available_timezones():
        assert moment("2011-07-01T02:00:00", zone_of("Europe/Berlin")) == moment("2011-07-01T00:00:00Z", None)


@pytest.mark.parametrize("name", ["", "Mars", "+25:00", "+01:75", "../etc/passwd", "/etc/passwd", "+1"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no such zone"):
        zone_of(name)


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("data/bpic2012.xes.gz", "bpic2012:"),
        ("Road Traffic (2).csv", "Road-Traffic-2:"),
        ("v1.2.ndjson", "v1.2:"),
        ("订单.csv", None),
        ("-", None),
        (".gz", None),
    ],
)
def test_the_prefix_is_the_name_of_the_file_where_that_says_something(path: str, prefix: str | None) -> None:
    assert default_prefix(path) == prefix
