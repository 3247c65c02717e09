"""The statement of an append: sql/append.sql with the inline projection's CTEs in it, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from eventstore import hot, pgarray
from eventstore.batch import Head
from eventstore.codec import Prepared
from eventstore.hot import HotStatement, Param
from eventstore.pgarray import PG_EPOCH_US, PgArray
from eventstore.statements import LOCK_TIMEOUT, Conn
from eventstore.turn import COMMIT

_TEMPLATE: Final = Path(__file__).with_name("sql") / "append.sql"


class AppendStatement:
    """Joined once, from whole SQL: `inline` are named CTEs that select from `won`."""

    def __init__(self, inline: str) -> None:
        sql = _TEMPLATE.read_text("utf-8").replace("/*inline*/", f", {inline}" if inline else "")
        self._statement = HotStatement(sql)

    def run(
        self,
        conn: Conn,
        head: Head,
        new: Head,
        fresh: Sequence[Prepared],
        rows: Mapping[str, PgArray],
        *,
        notify: bool,
        commit: bool = False,
    ) -> Head | None:
        """Write a folded batch if the log is still at `head`: the new head with the database's clock; else None.

        `commit`: end the transaction that the connection is in, in the same round trip."""
        params: dict[str, Param | PgArray] = {
            "lock_timeout": hot.text(LOCK_TIMEOUT),
            "log_id": hot.int8(head.log_id),
            "epoch": hot.int8(head.epoch),
            "fold_version": hot.int8(head.fold_version),
            "head": hot.int8(head.position),
            "head_hash": hot.bytea(head.hash),
            "new_head": hot.int8(new.position),
            "new_hash": hot.bytea(new.hash),
            "recorded_at": hot.moment(fresh[0].recorded_us),
            "notify": hot.boolean(notify),
            "hint": hot.text(f"{head.log_id} {new.position}"),
            **_event_arrays(fresh),
            **rows,
        }
        if commit:
            result, _ = hot.together(conn, (self._statement, params), (COMMIT, {}))
        else:
            result = self._statement.execute(conn, params)
        if hot.read_int(result, 0) != 1:
            return None
        return msgspec.structs.replace(new, now_us=hot.read_int(result, 1) + PG_EPOCH_US)


def _event_arrays(batch: Sequence[Prepared]) -> dict[str, PgArray]:
    return {
        "e_position": pgarray.int8([e.position for e in batch]),
        "e_job_id": pgarray.text([e.job_id for e in batch]),
        "e_version": pgarray.int4([e.version for e in batch]),
        "e_event_id": pgarray.uuid([e.event_id for e in batch]),
        "e_type": pgarray.text([e.type for e in batch]),
        "e_step": pgarray.text([e.step for e in batch]),
        "e_attempt": pgarray.int4([e.attempt for e in batch]),
        "e_seq": pgarray.int4([e.seq for e in batch]),
        "e_data": pgarray.json([e.text for e in batch]),
        "e_salt": pgarray.bytea([e.salt for e in batch]),
        "e_applied": pgarray.bools([e.applied for e in batch]),
        "e_reason": pgarray.text([e.reason for e in batch]),
        "e_percent": pgarray.int4([e.ppm for e in batch]),
        "e_actor": pgarray.text([e.actor for e in batch]),
        "e_occurred_at": pgarray.times([e.occurred_us for e in batch]),
        "e_hash": pgarray.bytea([e.hash for e in batch]),
    }
