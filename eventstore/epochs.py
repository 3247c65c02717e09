"""The epoch of a log: the number of its life. It goes up when the server's history may have become shorter.

A failover changes the timeline, a restore from a dump the system id. What the log holds at that moment is the common
history of the old epoch and the new one; consumers that saw more are told (`LogDiverged`), the others go on.
"""

from __future__ import annotations

import logging

from eventstore import statements
from eventstore.append_statement import AppendStatement
from eventstore.batch import Request, fold_batch
from eventstore.codec import Prepared, canonical, digest_of, uuid7
from eventstore.errors import FoldVersionMismatch, StoreUnavailable
from eventstore.events import LOG_JOB
from eventstore.inline import InlineProjection, NoProjection
from eventstore.statements import Conn

logger = logging.getLogger("headway.epochs")


def ensure_epoch(conn: Conn, log_id: int, system_id: str, timeline: str, projection: InlineProjection) -> None:
    """Begin a new epoch if the log was last written on another server or timeline; record it in the log itself."""
    head = statements.read_head(conn, log_id)
    if (head.system_id, head.timeline) == (system_id, timeline):
        return
    with conn.transaction():
        head, _, _ = statements.lock_log(conn, log_id, (), ())
        if (head.system_id, head.timeline) == (system_id, timeline):
            return
        begin_epoch(conn, log_id, system_id, timeline, projection)
    logger.warning(
        "log %s: epoch %d begins at position %d, because the server changed (%s/%s, before %s/%s)",
        head.name, head.epoch + 1, head.position, system_id, timeline, head.system_id, head.timeline,
    )  # fmt: skip


def begin_epoch(conn: Conn, log_id: int, system_id: str, timeline: str, projection: InlineProjection) -> None:
    """Close the running epoch at the present head and begin the next. Inside a transaction that holds the log's row."""
    before = statements.read_head(conn, log_id)
    conn.execute(statements.NEW_EPOCH, (log_id,))
    conn.execute(statements.BEGIN_EPOCH, (system_id, timeline, log_id))
    data = {
        "epoch": before.epoch + 1,
        "common_position": before.position,
        "system_id": system_id,
        "timeline": timeline,
    }
    append_log_event(conn, log_id, "log.epoch_started", data, projection)


def change_fold(conn: Conn, log_id: int, projection: InlineProjection) -> bool:
    """Let the log fold with the projection's rules from the next position on; False if it does already.

    Recorded by `log.fold_changed`: what stands before it keeps its verdicts, and is folded with the old rules again.
    Appenders with other rules get `FoldVersionMismatch` from now on. Raises it if the log is ahead of this code.
    """
    with conn.transaction():
        head, _, _ = statements.lock_log(conn, log_id, (), ())
        ours = projection.fold_version
        if head.fold_version == ours:
            return False
        if head.fold_version > ours:
            raise FoldVersionMismatch(ours, head.fold_version)
        conn.execute(statements.SET_FOLD, (ours, log_id))
        append_log_event(conn, log_id, "log.fold_changed", {"from": head.fold_version, "to": ours}, projection)
    return True


def append_log_event(conn: Conn, log_id: int, kind: str, data: dict[str, object], projection: InlineProjection) -> None:
    """Append what the server says of the log itself. Inside a transaction that holds the log's row.

    Raises `StoreUnavailable` if it was not appended; the transaction must not commit then.
    """
    head = statements.read_head(conn, log_id)
    states = NoProjection().load(conn, log_id, {LOG_JOB: ()})
    requests = [Request([log_event(kind, data)])]
    batch = fold_batch(head, requests, {}, states, projection, recorded_us=head.now_us)
    statement = AppendStatement(projection.write_ctes)
    if statement.run(conn, head, batch.head, batch.fresh, projection.rows(log_id, []), notify=True) is None:
        # The row is ours, so what was lost is the comparison of clocks: this process stood still for a second.
        raise StoreUnavailable(f"{kind} could not be recorded in time, nothing was changed: try again")


def log_event(kind: str, data: dict[str, object]) -> Prepared:
    """An event of the log about itself; only the server makes these."""
    event = Prepared()
    event.job_id, event.type = LOG_JOB, kind
    event.step = event.attempt = event.seq = event.occurred_us = None
    event.actor = "headway"
    event.event_id = uuid7()
    event.data, event.text = canonical(data)
    event.salt, event.digest = digest_of(event.text)
    return event
