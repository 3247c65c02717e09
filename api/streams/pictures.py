"""Snapshots as the first frames of streams."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from api.streams.frames import Control, control
from eventstore.cursor import Cursor, parse_cursor
from eventstore.store import EventStore
from projections.snapshots import JobSnapshot, read_snapshots


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A job's snapshot, ready to be sent; what follows it comes after `cursor`."""

    frame: bytes
    cursor: Cursor
    status: str


class _Shown(msgspec.Struct):
    job: JobSnapshot
    cursor: str


def read_pictures(store: EventStore, job_ids: Sequence[str]) -> dict[str, Picture]:
    """Those of the jobs that the log has, all of one moment. Blocking."""
    found = read_snapshots(store, job_ids)
    return {job_id: _picture(view) for job_id, view in found.items()}


def _picture(view: JobSnapshot) -> Picture:
    cursor = parse_cursor(view.cursor)
    assert isinstance(cursor, Cursor)
    frame = control(Control.SNAPSHOT, _Shown(job=view, cursor=view.cursor))
    return Picture(frame=frame, cursor=cursor, status=view.status)
