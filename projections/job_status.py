"""Whether jobs are there, and whether they are over: what must be known to go on with a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from eventstore import pgarray
from eventstore.errors import NoSuchLog
from eventstore.store import EventStore
from projections.state import JOB_ENDED

_STATUSES: Final = (
    "SELECT logs.head, jobs.job_id, jobs.status, jobs.position FROM logs LEFT JOIN jobs"
    " ON jobs.log_id = logs.log_id AND jobs.job_id = ANY(%s) WHERE logs.log_id = %s"
)


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is None for a job that the log does not have. `position`: of the job's last event. `head`: of the log's
    last event when this was true.
    """

    status: str | None
    position: int
    head: int

    @property
    def ended(self) -> bool:
        return self.status in JOB_ENDED


def read_statuses(store: EventStore, job_ids: Sequence[str]) -> dict[str, JobStatus]:
    """The status of each job, all of one moment."""
    log_id = store.log_id()
    with store.database.session() as conn:
        rows = conn.execute(_STATUSES, (pgarray.text(job_ids), log_id), binary=True).fetchall()
    if not rows:
        raise NoSuchLog(str(log_id))
    head = rows[0][0]
    found = {row[1]: JobStatus(status=row[2], position=row[3], head=head) for row in rows if row[1] is not None}
    missing = JobStatus(status=None, position=0, head=head)
    return {job_id: found.get(job_id, missing) for job_id in job_ids}
