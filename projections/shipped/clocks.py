"""How long the steps of one job work, without the times in which they wait: folded from its applied events.

A clock starts with the first report of work of an attempt and stops when the attempt ends; it stands while the step or
the job waits. Only what completed is measured. The whole of it is decided by the job's events in their order.
"""

from __future__ import annotations

from typing import Final

import msgspec

from eventstore.events import RecordedEvent

JOB: Final = ""
"""Stands for the job where a step's name is expected: no step has this name."""
WHOLE: Final = 1_000_000  # ppm
MOST_STEPS: Final = 30
LONGEST_WORKER: Final = 200  # characters

WORK: Final = frozenset("step." + verb for verb in ("started", "progressed", "resumed", "waiting", "noted"))
ENDS: Final = frozenset("step." + verb for verb in ("completed", "failed", "skipped", "cancelled", "reset", "removed"))


class Clock(msgspec.Struct, array_like=True, omit_defaults=True):
    """Times in microseconds since 1970. `paused`: since when it stands, None while it runs; `waited`: how long it
    stood before; `last`: the last report; `worker`: who does it, if that was said."""

    began: int
    last: int
    waited: int = 0
    paused: int | None = None
    attempt: int = 0
    worker: str | None = None

    def pause(self, us: int) -> None:
        if self.paused is None:
            self.paused = us

    def go_on(self, us: int) -> None:
        if self.paused is not None:
            self.waited += max(us - self.paused, 0)
            self.paused = None

    def worked(self, us: int) -> int:
        """Microseconds of work up to then."""
        return max((us if self.paused is None else min(self.paused, us)) - self.began - self.waited, 0)


class JobClocks(msgspec.Struct, array_like=True):
    """The clocks of a job: its own, and those of the steps that are at work. `done`: steps that completed; `marks`: how
    much work was done when a mark was reached first (`mark_of`)."""

    kind: str = ""
    job: Clock | None = None
    steps: dict[str, Clock] = {}
    done: int = 0
    marks: dict[int, int] = {}


class Measured(msgspec.Struct):
    """What a batch of events measured: (kind, step) → microseconds of each attempt that completed, and of each pause
    between two reports of a step at work; worker → its last report; (kind, mark) → (work done at the mark, work that
    was left then) of each job that completed."""

    durations: dict[tuple[str, str], list[int]] = {}
    gaps: dict[tuple[str, str], list[int]] = {}
    workers: dict[str, int] = {}
    left: dict[tuple[str, int], list[tuple[int, int]]] = {}


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(JobClocks).decode


def encode(clocks: JobClocks) -> str:
    return _encode(clocks).decode()


def decode(text: str | bytes) -> JobClocks:
    return _decode(text)


def mark_of(ppm: int, done: int) -> int:
    """How far a job is, roughly: 1, 5, 10 … 95 for its percentage; 0, -1, -2 … -30 for the steps that it completed as
    long as it has none."""
    return max(ppm // 50_000 * 5, 1) if ppm else -min(done, MOST_STEPS)


def tick(clocks: JobClocks, event: RecordedEvent, measured: Measured) -> bool:
    """Fold one applied event. True: the job is over for good, its clocks are no longer needed."""
    us = event.recorded_us if event.occurred_us is None else event.occurred_us
    if event.type == "job.planned":
        kind = event.data.get("kind")
        clocks.kind = clocks.kind if kind is None else str(kind)
    elif event.step is not None:
        if clocks.job is None and event.type in WORK | ENDS:
            clocks.job = Clock(us, us)
        _tick_step(clocks, event, us, measured)
    else:
        _tick_job(clocks, event.type, us)
    if clocks.job is not None:
        clocks.job.last = max(clocks.job.last, us)
    if event.ppm == WHOLE:
        if clocks.job is not None:
            total = clocks.job.worked(us)
            measured.durations.setdefault((clocks.kind, JOB), []).append(total)
            for mark, worked in clocks.marks.items():
                measured.left.setdefault((clocks.kind, mark), []).append((worked, max(total - worked, 0)))
        return True
    if clocks.job is not None:
        clocks.done += event.type == "step.completed"
        mark = mark_of(event.ppm, clocks.done)
        if mark not in clocks.marks:
            clocks.marks[mark] = clocks.job.worked(us)
    return False


def _tick_job(clocks: JobClocks, kind: str, us: int) -> None:
    match kind:
        case "job.started" | "job.progressed" | "job.resumed" | "job.reopened":
            if clocks.job is None:
                clocks.job = Clock(us, us)
            clocks.job.go_on(us)
            if kind == "job.resumed":
                for clock in clocks.steps.values():
                    clock.go_on(us)
        case "job.waiting":
            if clocks.job is not None:
                clocks.job.pause(us)
            for clock in clocks.steps.values():
                clock.pause(us)
        case "job.failed" | "job.cancelled":
            clocks.steps.clear()
            if clocks.job is not None:
                clocks.job.pause(us)  # what follows if it is reopened goes on from here


def _tick_step(clocks: JobClocks, event: RecordedEvent, us: int, measured: Measured) -> None:
    step, kind = str(event.step), event.type
    clock = clocks.steps.get(step)
    if kind in ENDS:
        if clock is not None:
            _gap(clocks.kind, step, clock, us, measured)
            if kind == "step.completed":
                measured.durations.setdefault((clocks.kind, step), []).append(clock.worked(us))
            del clocks.steps[step]
        return
    if kind == "step.started" and (clock is None or event.attempt is None or event.attempt > clock.attempt):
        worker = event.data.get("worker")
        clock = Clock(
            us, us, attempt=event.attempt or 0, worker=None if worker is None else str(worker)[:LONGEST_WORKER]
        )
        clocks.steps[step] = clock
    elif kind in WORK and kind != "step.noted":
        if clock is None:
            clock = clocks.steps[step] = Clock(us, us, attempt=event.attempt or 0)
        else:
            _gap(clocks.kind, step, clock, us, measured)
        if kind == "step.waiting":
            clock.pause(us)
        else:
            clock.go_on(us)
    if clock is not None:
        clock.last = max(clock.last, us)
        if clock.worker is not None:
            measured.workers[clock.worker] = max(us, measured.workers.get(clock.worker, us))


def _gap(kind: str, step: str, clock: Clock, us: int, measured: Measured) -> None:
    """The pause between two reports of a step at work; none while it waits."""
    if clock.paused is None:
        measured.gaps.setdefault((kind, step), []).append(max(us - clock.last, 0))


__all__ = ["ENDS", "JOB", "WORK", "Clock", "JobClocks", "Measured", "decode", "encode", "mark_of", "tick"]
