"""A report on its way: what the job's code said, and what is sent of it."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec


class Run(msgspec.Struct, eq=False):
    """One run of a job by this process, from its first report to its end.

    `base` is, per step, the highest attempt that the log had before this run: attempts count on from there, so that a
    job which is started again after a crash is not mistaken for its late former self. None: not asked yet.
    """

    job_id: str
    worker: str
    base: dict[str, int] | None = None
    reopen: tuple[bytes, bytes] | None = None  # before which event a `job.reopened` goes, and its own id


class Report(msgspec.Struct, eq=False, gc=False):
    """A fact in the queue. `attempt` counts this run's attempts from 1; id and time were fixed when it was queued."""

    run: Run
    type: str
    step: str | None
    attempt: int | None
    seq: int | None
    occurred_us: int
    event_id: bytes
    data: dict[str, Any]


class Scope:
    """What reports: a job, or one attempt at a step. Numbers its reports; called under the reporter's lock."""

    __slots__ = ("_pid", "_seq", "attempt", "progress_type", "run", "step")

    def __init__(self, run: Run, step: str | None = None, attempt: int | None = None) -> None:
        self.run, self.step, self.attempt = run, step, attempt
        self.progress_type = "job.progressed" if step is None else "step.progressed"
        self._seq = -1
        self._pid = os.getpid()

    def report(self, kind: str, data: dict[str, Any]) -> Report:
        """The next report of this scope. A child process gives no `seq`: parent and child would count the same."""
        seq = None
        if self.attempt is not None and self._pid == os.getpid():
            self._seq += 1
            seq = self._seq
        return Report(self.run, kind, self.step, self.attempt, seq, now_us(), new_event_id(), data)


class Outgoing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as a transport sends it: redacted, within the limits, ready for any wire."""

    job_id: str
    type: str
    step: str | None
    attempt: int | None
    seq: int | None
    occurred_us: int
    event_id: bytes
    data: dict[str, Any]


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the log knows of a job before this run: its status, and the highest attempt of each step."""

    status: str
    attempts: dict[str, int]


def new_event_id() -> bytes:
    """A UUID of version 7 (RFC 9562) as 16 bytes: its milliseconds make neighbours in time neighbours in the index."""
    noise = os.urandom(10)
    ms = time.time_ns() // 1_000_000
    return ms.to_bytes(6, "big") + bytes((0x70 | noise[0] & 0x0F, noise[1], 0x80 | noise[2] & 0x3F)) + noise[3:]


def now_us() -> int:
    """This machine's wall clock, microseconds since 1970: the worker's claim of when it happened."""
    return time.time_ns() // 1_000
