"""From a folded state to the same view that a snapshot of the tables gives."""

from __future__ import annotations

from datetime import datetime
from operator import attrgetter

import msgspec

from eventstore.events import to_datetime
from projections.snapshots import AttemptView, JobSnapshot, StepView
from projections.state import REMOVED, AttemptState, JobState, StepState
from projections.step_rules import COUNT


def view_of(state: JobState, cursor: str) -> JobSnapshot:
    """What `read_snapshot` would have said when the tables held this state; `cursor` is the log's place then.

    The state must hold its attempts (fold the job from its first event).
    """
    steps = sorted((step for step in state.steps.values() if step.status != REMOVED), key=attrgetter("ordinal"))
    assert state.created_us is not None
    assert state.updated_us is not None
    return JobSnapshot(
        job_id=state.job_id,
        title=state.title,
        kind=state.kind,
        status=state.status,
        percent=state.percent / 10_000,
        message=state.message,
        reason=state.reason,
        current_step=state.current_step,
        continues=state.continues,
        metadata=_raw(state.metadata),
        error=_raw(state.error),
        error_stack=state.error_stack,
        plan_version=state.plan_version,
        steps_total=state.steps_total,
        steps_open=state.steps_open,
        steps_done=state.steps_done,
        steps_failed=state.steps_failed,
        rejected=state.rejected,
        version=state.version,
        position=state.position,
        first_position=state.first_position,
        created_at=to_datetime(state.created_us),
        started_at=_time(state.started_us),
        updated_at=to_datetime(state.updated_us),
        ended_at=_time(state.ended_us),
        until=_time(state.until_us),
        cursor=cursor,
        steps=[_step(step, state.attempts.get(step.step, {})) for step in steps],
    )


def _step(step: StepState, attempts: dict[int, AttemptState]) -> StepView:
    start = step.start
    return StepView(
        step=step.step,
        parent=step.parent,
        label=step.label,
        weight=step.weight / 1_000_000 if start is None else None,
        range=None if start is None else (start / 1_000_000, (start + step.weight) / 1_000_000),
        status=step.status,
        percent=step.frac / 10_000,
        done=step.done if step.mode == COUNT else None,
        total=step.total,
        unit=step.unit,
        attempt=step.attempt,
        message=step.message,
        reason=step.reason,
        metadata=_raw(step.metadata),
        error=_raw(step.error),
        error_stack=step.error_stack,
        started_at=_time(step.started_us),
        updated_at=_time(step.updated_us),
        ended_at=_time(step.ended_us),
        until=_time(step.until_us),
        rejected=step.rejected,
        attempts=[attempt_view(attempts[number]) for number in sorted(attempts)],
    )


def attempt_view(attempt: AttemptState) -> AttemptView:
    return AttemptView(
        attempt=attempt.attempt,
        status=attempt.status,
        percent=attempt.percent / 10_000,
        worker=attempt.worker,
        started_at=to_datetime(attempt.started_us),
        ended_at=_time(attempt.ended_us),
        error=_raw(attempt.error),
        error_stack=attempt.error_stack,
    )


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


def _time(us: int | None) -> datetime | None:
    return None if us is None else to_datetime(us)
