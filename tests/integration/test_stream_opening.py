"""Where a stream starts, what passes its filter, and how it is refused."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.streams.asked import LOG_PARAMETERS
from tests.support.http import Server, serving
from tests.support.sse_client import Frame, chained, stream


@pytest.fixture(scope="module")
def server(shared_database: str) -> Iterator[Server]:
    with serving(shared_database) as running:
        yield running


@pytest.fixture
def job() -> str:
    return f"build:{uuid.uuid4().hex[:8]}"


def report(server: Server, job: str, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """Append events; what the answer says of each."""
    answer = httpx.post(f"{server.url}/v1/jobs/{job}/events", json=list(events))
    assert answer.status_code == 201, answer.text
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


def progress(step: str, percent: int, message: str = "推送") -> dict[str, Any]:
    return {"type": "step.progressed", "step": step, "data": {"percent": percent, "message": message}}


def positions(frames: list[Frame]) -> list[int]:
    return [frame.data["position"] for frame in frames if frame.event is None]


def test_a_job_stream_begins_with_the_snapshot_and_goes_on_where_it_ends(server: Server, job: str) -> None:
    report(server, job, {"type": "job.started"}, progress("push", 10))
    with stream(server.port, f"/v1/jobs/{job}/stream") as reading:
        assert reading.headers["content-type"] == "text/event-stream"
        assert (reading.headers["cache-control"], reading.headers["x-accel-buffering"]) == ("no-store", "no")
        snapshot, caught_up = reading.until("caught_up")
        assert (snapshot.event, snapshot.id, reading.parser.retry) == ("snapshot", None, 2_000)
        assert [step["step"] for step in snapshot.data["job"]["steps"]] == ["push"]
        cursor = snapshot.data["cursor"]
        assert cursor == snapshot.data["job"]["cursor"] == caught_up.data["cursor"]
        told = report(server, job, progress("push", 20), progress("push", 30))
        events = reading.events(2)
        assert chained(events, cursor) == [answer["position"] for answer in told]
        assert reading.last_id == told[-1]["cursor"] == events[-1]["cursor"]


def test_a_job_stream_shows_what_counted_and_all_if_asked(server: Server, job: str) -> None:
    report(server, job, progress("push", 50))
    with (
        stream(server.port, f"/v1/jobs/{job}/stream") as usual,
        stream(server.port, f"/v1/jobs/{job}/stream?events=all") as everything,
    ):
        for reading in (usual, everything):
            reading.until("caught_up")
        told = report(server, job, progress("push", 40), progress("push", 60))
        assert [answer["applied"] for answer in told] == [False, True]
        assert [event["position"] for event in usual.events(1)] == [told[1]["position"]]
        assert [event["reason"] for event in everything.events(2)] == ["regression", None]


def test_a_cursor_is_taken_from_the_header_before_the_address(server: Server, job: str) -> None:
    first, second, third = (answer["cursor"] for answer in report(server, job, *(progress("a", n) for n in (1, 2, 3))))
    path = f"/v1/jobs/{job}/stream"

    def starts(query: str, header: str | None = None) -> int:
        with stream(server.port, path + query, {"Last-Event-ID": header} if header else {}) as reading:
            found: int = reading.events(1)[0]["position"]
            return found

    of_second, of_third = int(second.split("_")[1]), int(third.split("_")[1])
    assert starts(f"?after={first}") == of_second
    assert starts(f"?after={first}", second) == of_third
    assert starts(f"?after={second}&last_event_id={first}&lastEventId={first}") == of_third
    assert starts(f"?last_event_id={second}&lastEventId={first}") == of_third
    assert starts(f"?lastEventId={first}") == of_second
    assert starts("?after=-1") == starts("?after=") == of_second - 1


def test_the_first_frame_names_the_cursor_that_was_given(server: Server, job: str) -> None:
    first, _ = (answer["cursor"] for answer in report(server, job, progress("a", 1), progress("a", 2)))
    with stream(server.port, f"/v1/jobs/{job}/stream?after={first}") as reading:
        assert reading.events(1)[0]["prev"] == first


def test_the_log_stream_begins_at_the_start_and_now_is_the_end(server: Server, job: str) -> None:
    report(server, job, progress("a", 1))
    with stream(server.port, "/v1/stream") as whole, stream(server.port, "/v1/stream?after=now") as live:
        frames = whole.until("caught_up")
        assert positions(frames) == list(range(1, len(frames)))
        (caught_up,) = live.until("caught_up")
        report(server, job, progress("a", 2))
        assert chained(live.events(1), caught_up.data["cursor"]) == chained(whole.events(1), frames[-1].data["cursor"])


def test_filters_show_what_they_name(server: Server, job: str) -> None:
    other = f"deploy:{job}"
    with (
        stream(server.port, f"/v1/stream?after=now&prefix={other[:9]}") as by_prefix,
        stream(server.port, "/v1/stream?after=now&types=step.*,job.noted&steps=b") as by_step,
        stream(server.port, f"/v1/jobs/{job}/stream?after=now&wait=true&types=job.started") as by_type,
    ):
        for reading in (by_prefix, by_step, by_type):
            reading.until("caught_up")
        report(server, job, progress("a", 1), {"type": "job.started"}, progress("b", 1))
        report(server, other, progress("b", 1), progress("c", 1))
        report(server, job, {"type": "job.completed"})
        assert [event["step"] for event in by_prefix.events(2)] == ["b", "c"]
        assert [event["job_id"] for event in by_step.events(2)] == [job, other]
        frames = by_type.until("end")
        assert [frame.event for frame in frames] == ["end"], "job.started came on a running job, and did not count"


def test_many_jobs_on_one_stream_each_begin_with_their_snapshot_of_one_moment(server: Server, job: str) -> None:
    other, absent = job + "-b", job + "-c"
    report(server, job, progress("a", 1))
    report(server, other, progress("a", 1))
    with stream(server.port, f"/v1/stream?jobs={job},{other},{absent}") as reading:
        one, two, _ = reading.until("caught_up")
        assert [one.data["job"]["job_id"], two.data["job"]["job_id"]] == [job, other]
        assert one.data["cursor"] == two.data["cursor"]
        report(server, absent, progress("a", 1))
        report(server, job, progress("a", 2), progress("a", 1))
        report(server, other, progress("a", 2))
        events = reading.events(3)
        assert [event["job_id"] for event in events] == [absent, job, other], "what did not count is left out"
        chained(events, one.data["cursor"])


def test_a_job_that_has_ended_ends_its_stream_and_204_says_that_you_have_it_all(server: Server, job: str) -> None:
    started, done = report(server, job, {"type": "job.started"}, {"type": "job.completed"})
    path = f"/v1/jobs/{job}/stream"
    with stream(server.port, path) as reading:
        frames = list(reading)
        assert [frame.event for frame in frames] == ["snapshot", "caught_up", "end"]
        assert frames[-1].data == {"job_id": job, "status": "completed", "cursor": frames[0].data["cursor"]}
        assert reading.ended_well
    with stream(server.port, path, {"Last-Event-ID": started["cursor"]}) as reading:
        assert [frame.event for frame in reading] == [None, "caught_up", "end"]
    with stream(server.port, path, {"Last-Event-ID": done["cursor"]}) as reading:
        assert reading.status == 204
    report(server, job, {"type": "job.noted", "data": {"level": "info", "message": "too late"}})
    with stream(server.port, path, {"Last-Event-ID": done["cursor"]}) as reading:
        assert reading.status == 204, "what came after the end did not count"
    with stream(server.port, path + "?events=all", {"Last-Event-ID": done["cursor"]}) as reading:
        assert [frame.event for frame in reading] == [None, "caught_up", "end"]


def test_a_live_stream_ends_when_its_job_does_also_by_its_last_step(server: Server, job: str) -> None:
    plan = {"type": "job.planned", "data": {"steps": [{"step": "a"}]}}
    report(server, job, plan)
    with stream(server.port, f"/v1/jobs/{job}/stream") as reading:
        reading.until("caught_up")
        report(server, job, {"type": "step.started", "step": "a"}, {"type": "step.completed", "step": "a"})
        frames = reading.until("end")
        assert [frame.event for frame in frames] == [None, None, "end"]
        assert (frames[-1].data["status"], frames[-1].data["cursor"]) == ("completed", frames[-2].id)
        assert reading.next() is None
        assert reading.ended_well


def test_a_job_that_was_reopened_is_followed_on(server: Server, job: str) -> None:
    failed = {"type": "job.failed", "data": {"error": {"message": "no"}}}
    first, *_ = report(server, job, {"type": "job.started"}, failed, {"type": "job.reopened"})
    with stream(server.port, f"/v1/jobs/{job}/stream?after={first['cursor']}") as reading:
        assert [frame.event for frame in reading.until("caught_up")] == [None, None, "caught_up"]
        report(server, job, {"type": "job.cancelled"})
        assert reading.until("end")[-1].data["status"] == "cancelled"


def test_a_job_that_has_not_begun_is_404_or_waited_for(server: Server, job: str) -> None:
    for query in ("", "?after=0", "?after=now", "?snapshot=true"):
        with stream(server.port, f"/v1/jobs/{job}/stream{query}") as reading:
            assert (reading.status, reading.headers["content-type"]) == (404, "application/problem+json")
    with stream(server.port, f"/v1/jobs/{job}/stream?wait=true") as reading:
        snapshot, _ = reading.until("caught_up")
        assert snapshot.data["job"] is None
        (told,) = report(server, job, {"type": "job.started"})
        assert chained(reading.events(1), snapshot.data["cursor"]) == [told["position"]]


def test_a_snapshot_comes_also_with_a_cursor_if_asked(server: Server, job: str) -> None:
    first, second = report(server, job, progress("a", 1), progress("a", 2))
    headers = {"Last-Event-ID": first["cursor"]}
    with stream(server.port, f"/v1/jobs/{job}/stream?snapshot=true", headers) as reading:
        snapshot, _ = reading.until("caught_up")
        assert snapshot.data["cursor"] == second["cursor"]


@pytest.mark.parametrize(
    "query",
    [
        "after=abc", "after=1e3", "after=%2B5", "after=-2", "after=9223372036854775808", "last_event_id=x",
        "shape=legacy", "mode=slow", "events=some", "snapshot=1", "types=*x", "wait=maybe", "nonsense=1",
        "after=1&after=2", "types=" + ",".join(f"step.t{n}" for n in range(101)),
    ],
)  # fmt: skip
def test_what_is_no_stream_is_400(server: Server, job: str, query: str) -> None:
    report(server, job, progress("a", 1))
    answer = httpx.get(f"{server.url}/v1/jobs/{job}/stream?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json"), answer.text


def test_jobs_and_a_prefix_are_not_asked_for_together(server: Server, job: str) -> None:
    for jobs, prefix in ((f"{job},other", "x"), (job, job[:3])):
        answer = httpx.get(f"{server.url}/v1/stream?jobs={jobs}&prefix={prefix}")
        assert (answer.status_code, answer.json()["field"]) == (400, "prefix"), answer.text
    with stream(server.port, f"/v1/stream?jobs={job}&prefix=&after=now") as reading:
        reading.until("caught_up")


@pytest.mark.parametrize("count", [1, 100, 101])
def test_the_document_says_how_many_jobs_a_stream_takes(server: Server, count: int) -> None:
    jobs = ",".join(["j"] * (count - 1) + ["k"])
    given = next(parameter for parameter in LOG_PARAMETERS if parameter.name == "jobs")
    assert (re.fullmatch(given.schema["pattern"], jobs) is not None) == (count <= 100)
    with stream(server.port, f"/v1/stream?jobs={jobs}&after=now") as reading:
        assert reading.status == (200 if count <= 100 else 400)


def test_a_cursor_in_the_header_that_is_none_is_400(server: Server, job: str) -> None:
    report(server, job, progress("a", 1))
    answer = httpx.get(f"{server.url}/v1/jobs/{job}/stream", headers={"Last-Event-ID": "0001_2"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        ("9007199254740992", "ahead"),
        ("0007_0000000000000001_00000000", "epoch"),
        ("0001_0000000000000001_00000000", "hash"),
    ],
)
def test_a_cursor_of_another_history_is_told_by_a_gap(server: Server, job: str, cursor: str, reason: str) -> None:
    report(server, job, progress("a", 1))
    for path in (f"/v1/jobs/{job}/stream", "/v1/stream"):
        with stream(server.port, path, {"Last-Event-ID": cursor}) as reading:
            (gap,) = reading
            assert (reading.status, gap.event, gap.data["reason"], gap.data["cursor"]) == (200, "gap", reason, cursor)
            assert reading.parser.retry is not None
            assert reading.parser.retry >= 5_000
            with stream(server.port, f"{path}?after={gap.data['common']}") as again:
                again.until("caught_up")


def test_nothing_in_a_message_can_forge_a_frame(server: Server, job: str) -> None:
    report(server, job, progress("a", 1))
    evil = [
        "x\n\ndata: forged", "x\r\rid: 1\r", "x\u2028event: end\u2029", "\x85id: 9\x85", "\ufeffdata: x", "</script>",
        "x\nretry: 1\n", "\\n\\n", "\U0001f4a5",
    ]  # fmt: skip
    with stream(server.port, f"/v1/jobs/{job}/stream?after=now") as live:
        live.until("caught_up")
        told = report(server, job, *(progress("a", n + 2, text) for n, text in enumerate(evil)))
        assert [event["data"]["message"] for event in live.events(len(evil))] == evil
    with stream(server.port, f"/v1/jobs/{job}/stream?after={told[0]['position'] - 1}") as reading:
        assert [event["data"]["message"] for event in reading.events(len(evil))] == evil
