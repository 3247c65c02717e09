"""How good are the ranges of `eta`? Asked of a history: at moments of jobs whose end is known, by what was known then.

    found = calibrate(jobs_of(store))
    print(found.text())

The first part of the jobs is learned from, the others are asked about. No database is written; a job that never ended
(an import invents no ends) counts as ended by its last event.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Final

import msgspec

from eventstore.events import RecordedEvent, to_datetime
from eventstore.store import EventStore
from projections.conditions import told
from projections.eta import Basis, Estimate, eta_of
from projections.fold import evolve, initial
from projections.past import PastEvent
from projections.shipped.clocks import JOB, WHOLE, JobClocks, Measured, mark_of, tick
from projections.shipped.durations import left_in_classes, steps_in_classes
from projections.snapshots import JobSnapshot
from projections.usual import Usual
from projections.views import view_of

LEARN: Final = 0.7
"""The part of the jobs, in the order of their beginnings, that is learned from."""
MOMENTS: Final = (10, 60, 300, 1_800, 3_600, 21_600, 86_400, 259_200, 604_800, 1_209_600, 2_592_000)
"""When a job that still goes on is asked about: seconds after its first event. Parts of its whole time would not do:
who asks at 90 % of it knows that it is nearly over."""
AIM: Final = 80.0
"""Percent of the answers that should hold the truth."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One question: how many seconds after the job's beginning, what was said, and how many were left in truth."""

    job_id: str
    moment: float
    estimate: Estimate | None
    truth: float

    @property
    def inside(self) -> bool:
        """Whether the range holds the truth, to the second."""
        said = self.estimate
        return said is not None and said.low is not None and said.high is not None and (
            said.low - 0.5 <= self.truth <= said.high + 0.5
        )  # fmt: skip


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: `learned` jobs, and the answers about the others."""

    learned: int
    answers: list[Answer]

    @property
    def ranges(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.estimate is not None and answer.estimate.low is not None]

    @property
    def inside(self) -> float:
        """Percent of the ranges that held the truth."""
        return _percent(sum(answer.inside for answer in self.ranges), len(self.ranges))

    def text(self) -> str:
        """A table for people."""
        asked, ranges = len(self.answers), len(self.ranges)
        longer = sum(a.estimate is not None and a.estimate.longer for a in self.answers)
        others = len({answer.job_id for answer in self.answers})
        lines = [
            f"learned from {self.learned:,} jobs; asked {asked:,} times about {others:,} others:"
            f" {_percent(ranges, asked):.0f} % got a range, {_percent(longer, asked):.0f} % are longer than usual",
            f"{'':<18}{'ranges':>9}{'truth inside':>14}{'aim':>7}{'below':>8}{'above':>8}{'median width':>14}",
        ]
        groups: defaultdict[str, list[Answer]] = defaultdict(list)
        for answer in sorted(self.ranges, key=lambda answer: answer.moment):
            assert answer.estimate is not None
            groups["all"].append(answer)
            groups[f"by {answer.estimate.basis}"].append(answer)
            groups[f"after {told(answer.moment)}"].append(answer)
        first = ["all", "by rate", "by history", "by both"]
        lines += [
            _line(name, groups[name])
            for name in [*first, *(name for name in list(groups) if name not in first)]
            if groups[name]
        ]
        return "\n".join(lines)


def calibrate(
    jobs: Iterable[Sequence[RecordedEvent]], *, learn: float = LEARN, moments: Sequence[float] = MOMENTS
) -> Calibration:
    """Learn from the first jobs and ask about the others. `jobs`: the events of each, whole and in order."""
    histories = sorted((events for events in jobs if len(events) > 1), key=lambda events: _when(events[0]))
    border = int(len(histories) * learn)
    past = Past()
    for events in histories[:border]:
        past.learn(events)
    answers = [answer for events in histories[border:] for answer in _ask(past, events, moments)]
    return Calibration(learned=border, answers=answers)


def jobs_of(store: EventStore) -> Iterator[list[RecordedEvent]]:
    """The events of each job of a log, in memory; for logs that fit there."""
    jobs: defaultdict[str, list[RecordedEvent]] = defaultdict(list)
    for page in store.replay():
        for event in page:
            jobs[event.job_id].append(event)
    jobs.pop("headway.log", None)
    yield from jobs.values()


class Past:
    """What was learned from whole jobs: measure → (kind, step or mark) → class → count."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, defaultdict[tuple[str, str | int], Counter[int]]] = defaultdict(
            lambda: defaultdict(Counter)
        )

    def learn(self, events: Sequence[RecordedEvent]) -> None:
        measured = _run(JobClocks(), _ended(events))
        for (kind, step, measure, number), count in steps_in_classes(measured).items():
            self._counts[measure][kind, step][number] += count
        for (kind, mark, measure, number), count in left_in_classes(measured).items():
            self._counts[measure][kind, mark][number] += count

    def usual(self, clocks: JobClocks, job: JobSnapshot) -> Usual:
        mark = mark_of(round(job.percent * 10_000), clocks.done)
        steps = [JOB, *(step.step for step in job.steps)]
        return Usual(
            durations={step: self._counts["duration"][clocks.kind, step] for step in steps},
            gaps={step: self._counts["gap"][clocks.kind, step] for step in steps},
            left={mark: self._counts["left"][clocks.kind, mark]},
            ratio={mark: self._counts["ratio"][clocks.kind, mark]},
            clocks=clocks,
        )


def _ask(past: Past, events: Sequence[RecordedEvent], moments: Sequence[float]) -> Iterator[Answer]:
    first, last = _when(events[0]), _when(events[-1])
    whole = JobClocks()
    _run(whole, _ended(events))
    if last <= first or whole.job is None:
        return
    total = whole.job.worked(last)
    clocks, state, taken = JobClocks(), initial(events[0].job_id), 0
    for moment in sorted(moments):
        now = first + int(moment * 1_000_000)
        if now >= last:
            return
        while _when(events[taken]) <= now and events[taken].ppm != WHOLE:
            state, _ = evolve(state, PastEvent(events[taken]))
            _run(clocks, [events[taken]])
            taken += 1
        if clocks.job is None or state.created_us is None:
            continue
        snapshot = view_of(state, "")
        yield Answer(
            job_id=snapshot.job_id,
            moment=moment,
            estimate=eta_of(snapshot, past.usual(clocks, snapshot), to_datetime(now)),
            truth=(total - clocks.job.worked(now)) / 1e6,
        )


def _run(clocks: JobClocks, events: Iterable[RecordedEvent]) -> Measured:
    measured = Measured()
    for event in events:
        if event.applied:
            tick(clocks, event, measured)
    return measured


def _ended(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """The events, with an end where there is none."""
    if events[-1].ppm == WHOLE or events[-1].type in ("job.failed", "job.cancelled"):
        return list(events)
    end = msgspec.structs.replace(events[-1], type="job.completed", step=None, ppm=WHOLE, data_json=b"{}", applied=True)
    return [*events, end]


def _when(event: RecordedEvent) -> int:
    return event.recorded_us if event.occurred_us is None else event.occurred_us


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def _line(name: str, answers: list[Answer]) -> str:
    said = [(a.estimate.low, a.estimate.high, a) for a in answers if a.estimate is not None]
    below = sum(low is not None and a.truth < low - 0.5 for low, _, a in said)
    above = sum(high is not None and a.truth > high + 0.5 for _, high, a in said)
    widths = [high / max(low, 1.0) for low, high, _ in said if low is not None and high is not None]
    inside = _percent(sum(a.inside for a in answers), len(answers))
    return (
        f"{name:<18}{len(answers):>9,}{inside:>12.1f} %{AIM:>5.0f} %{_percent(below, len(answers)):>6.1f} %"
        f"{_percent(above, len(answers)):>6.1f} %{f'× {median(widths):.1f}':>14}"
    )


__all__ = ["Answer", "Basis", "Calibration", "calibrate", "jobs_of"]
