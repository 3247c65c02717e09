"""Where a job stands, in a dozen fields: what an appender is told without asking the database."""

from __future__ import annotations

import msgspec

from projections.state import JobState


class JobStanding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job right after an append. `percent` is percent (0 to 100); `version` and `position` are those of its last
    event. Removed steps count in none of the four numbers of steps."""

    job_id: str
    title: str | None
    kind: str | None
    status: str
    percent: float
    message: str | None
    reason: str | None
    current_step: str | None
    steps_total: int
    steps_open: int
    steps_done: int
    steps_failed: int
    rejected: int
    version: int
    position: int


def standing(state: JobState) -> JobStanding:
    """The job's own fields of a state; which of its steps are held does not matter."""
    return JobStanding(
        job_id=state.job_id,
        title=state.title,
        kind=state.kind,
        status=state.status,
        percent=state.percent / 10_000,
        message=state.message,
        reason=state.reason,
        current_step=state.current_step,
        steps_total=state.steps_total,
        steps_open=state.steps_open,
        steps_done=state.steps_done,
        steps_failed=state.steps_failed,
        rejected=state.rejected,
        version=state.version,
        position=state.position,
    )
