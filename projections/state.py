"""The state of one job: itself, its steps, its attempts, and the sums of its groups. Plain data, integers only.

Fractions and percentages are parts per million (ppm), weights are parts per million of a weight (`micro`), times are
microseconds since 1970. Metadata and errors are kept as JSON text with sorted keys, ready to be stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, Final

import msgspec

ONE: Final = 1_000_000
"""The whole, in ppm."""
CAP: Final = 990_000
"""What an unfinished job shows at most."""
STEP_LIMIT: Final = 10_000
"""Steps that a job may ever name, removed ones included; then `plan_full`."""
DEPTH_LIMIT: Final = 16
"""Groups above a step, the job itself not counted."""

PENDING: Final = "pending"
RUNNING: Final = "running"
WAITING: Final = "waiting"
RETRYING: Final = "retrying"
COMPLETED: Final = "completed"
SKIPPED: Final = "skipped"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
ABANDONED: Final = "abandoned"
REMOVED: Final = "removed"

STATUSES: Final = (PENDING, RUNNING, WAITING, RETRYING, COMPLETED, SKIPPED, FAILED, CANCELLED, ABANDONED)
"""The statuses of a step of the plan, in the order of `GroupState.counts`."""
SLOT: Final = {status: index for index, status in enumerate(STATUSES)}
OPEN: Final = frozenset((PENDING, RUNNING, WAITING, RETRYING))
STEP_ENDED: Final = frozenset((COMPLETED, SKIPPED, FAILED, CANCELLED, ABANDONED, REMOVED))
JOB_ENDED: Final = frozenset((COMPLETED, FAILED, CANCELLED))


class GroupState(msgspec.Struct, gc=False):
    """The sums of a group (the job is the root group). Contribution of a child: weight·f, and its gap once it began.

    `rem` is what is missing, `rem0` what was missing when `base` was the fraction; both micro × ppm. `tail` is the gap
    after the last range, part of `rem` until the group is complete. `counts` says how many children have which status.
    """

    base: int = 0
    rem: int = 0
    rem0: int = 0
    mark: int = 0
    tail: int = 0
    counts: list[int] = msgspec.field(default_factory=lambda: [0] * len(STATUSES))


class StepState(msgspec.Struct, gc=False):
    """A step. `frac` is its fraction now, `mark` the highest it ever had; the two differ after a reset only.

    `own` is what reports said of a group itself (its status is derived from its children). `open` says that attempt
    number `attempt` has begun and not ended. `gap` and `start` are set for steps with a range.
    """

    step: str
    parent: str | None = None
    ordinal: int = 0
    label: str | None = None
    weight: int = ONE
    gap: int = 0
    start: int | None = None
    status: str = PENDING
    frac: int = 0
    mark: int = 0
    begun: bool = False
    mode: str | None = None
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    base: int = 0
    done0: int = 0
    attempt: int = 0
    seq: int | None = None
    open: bool = False
    message: str | None = None
    metadata: str | None = None
    reason: str | None = None
    error: str | None = None
    error_stack: str | None = None
    started_us: int | None = None
    updated_us: int | None = None
    ended_us: int | None = None
    until_us: int | None = None
    rejected: int = 0
    own: str | None = None
    group: GroupState | None = None


class AttemptState(msgspec.Struct, gc=False):
    """One try at a step. `percent` is what this attempt reached by its own reports, set when it ends."""

    step: str
    attempt: int
    status: str = RUNNING
    worker: str | None = None
    percent: int = 0
    started_us: int = 0
    ended_us: int | None = None
    error: str | None = None
    error_stack: str | None = None


class Job(msgspec.Struct):
    """What is kept of a job. `percent` is what is shown; `absolute` the last percentage reported for the job itself.

    `steps_named` counts the steps that it ever had, `first_position` is where its first event stands.
    """

    job_id: str
    version: int = 0
    position: int = 0
    first_position: int = 0
    status: str = PENDING
    percent: int = 0
    title: str | None = None
    kind: str | None = None
    continues: str | None = None
    message: str | None = None
    metadata: str | None = None
    reason: str | None = None
    error: str | None = None
    error_stack: str | None = None
    current_step: str | None = None
    plan_version: int = 0
    planned: bool = False
    auto_complete: bool = False
    absolute: int | None = None
    seq: int | None = None
    steps_named: int = 0
    last_ordinal: int = 0
    steps_total: int = 0
    steps_open: int = 0
    steps_done: int = 0
    steps_failed: int = 0
    rejected: int = 0
    created_us: int | None = None
    started_us: int | None = None
    updated_us: int | None = None
    ended_us: int | None = None
    until_us: int | None = None
    root: GroupState = msgspec.field(default_factory=GroupState)
    steps: dict[str, StepState] = msgspec.field(default_factory=dict)
    attempts: dict[str, dict[int, AttemptState]] = msgspec.field(default_factory=dict)


class JobState(Job):
    """A job while it is folded: with what was touched since the last `rows`, its size, and a cache.

    `steps` may hold some of the steps only (with their ancestors), `attempts` those begun or ended since they were
    last written.
    """

    touched: dict[str, StepState] = msgspec.field(default_factory=dict)
    touched_attempts: dict[tuple[str, int], AttemptState] = msgspec.field(default_factory=dict)
    text_size: int = 0
    weights: list[int] | None = None

    @property
    def complete(self) -> bool:
        """Whether all steps of the job are held."""
        return len(self.steps) == self.steps_named


def in_plan_order(steps: Iterable[StepState]) -> list[StepState]:
    """The steps as the plan lists them. Where several settle at once their order decides the times of their groups, and
    must not be the order in which they happened to be loaded."""
    return sorted(steps, key=attrgetter("ordinal", "step"))


_KEPT: Final = Job.__struct_fields__
_kept: Final = attrgetter(*_KEPT)
_encode: Final = msgspec.json.Encoder().encode
_sorted: Final = msgspec.json.Encoder(order="sorted").encode
_decode: Final = msgspec.json.Decoder(Job).decode


def json_text(value: object) -> str:
    """JSON text with sorted keys: the same value always gives the same text."""
    return _sorted(value).decode()


def encode_state(state: JobState) -> bytes:
    """The state as JSON; two states of the same history have the same bytes. What was touched is left out."""
    kept = dict(zip(_KEPT, _kept(state), strict=True))
    kept["steps"] = dict(sorted(state.steps.items()))
    kept["attempts"] = {step: dict(sorted(tries.items())) for step, tries in sorted(state.attempts.items())}
    return _encode(kept)


def decode_state(raw: bytes) -> JobState:
    """The state that `encode_state` wrote."""
    return JobState(*_kept(_decode(raw)))


def snapshot(state: JobState) -> dict[str, Any]:
    """A plain JSON-able view: the job's fields, `steps` in plan order, `attempts` by step and number.

    `percent_ppm` in parts per million, times `*_us` in microseconds since 1970, `metadata` and `error` decoded.
    """
    view: dict[str, Any] = {name: getattr(state, name) for name in _JOB_VIEW}
    view["percent_ppm"] = state.percent
    view["indeterminate"] = not state.planned and state.absolute is None
    _decoded(view, state)
    steps = in_plan_order(state.steps.values())
    view["steps"] = [_step_view(step) for step in steps]
    view["attempts"] = [
        _attempt_view(attempts[number])
        for step in steps
        for attempts in (state.attempts.get(step.step, {}),)
        for number in sorted(attempts)
    ]
    return view


_JOB_VIEW: Final = (
    "job_id", "version", "position", "status", "title", "kind", "continues", "message", "reason", "error_stack",
    "current_step", "plan_version", "auto_complete", "steps_total", "steps_open", "steps_done", "steps_failed",
    "rejected", "created_us", "started_us", "updated_us", "ended_us", "until_us",
)  # fmt: skip
_STEP_VIEW: Final = (
    "step", "parent", "label", "status", "done", "total", "unit", "attempt", "seq", "message", "reason", "error_stack",
    "started_us", "updated_us", "ended_us", "until_us", "rejected",
)  # fmt: skip
_ATTEMPT_VIEW: Final = ("step", "attempt", "status", "worker", "error_stack", "started_us", "ended_us")


def _step_view(step: StepState) -> dict[str, Any]:
    view: dict[str, Any] = {name: getattr(step, name) for name in _STEP_VIEW}
    view["percent_ppm"] = step.frac
    view["weight"] = None if step.start is not None else step.weight
    view["range"] = None if step.start is None else [step.start, step.start + step.weight]
    view["group"] = step.group is not None
    _decoded(view, step)
    return view


def _attempt_view(attempt: AttemptState) -> dict[str, Any]:
    view: dict[str, Any] = {name: getattr(attempt, name) for name in _ATTEMPT_VIEW}
    view["percent_ppm"] = attempt.percent
    view["error"] = None if attempt.error is None else msgspec.json.decode(attempt.error)
    return view


def _decoded(view: dict[str, Any], source: Job | StepState) -> None:
    view["metadata"] = None if source.metadata is None else msgspec.json.decode(source.metadata)
    view["error"] = None if source.error is None else msgspec.json.decode(source.error)
