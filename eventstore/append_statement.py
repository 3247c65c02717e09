"""The statement of an append: sql/append.sql with the inline projection's CTEs in it, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from eventstore import hot
from eventstore.batch import Head
from eventstore.codec import Prepared
from eventstore.hot import HotStatement, Param
from eventstore.pgarray import PG_EPOCH_US, Columns, PgArray
from eventstore.statements import LOCK_TIMEOUT, Conn
from eventstore.turn import COMMIT

_TEMPLATE: Final = Path(__file__).with_name("sql") / "append.sql"


_EVENTS: Final = Columns(
    "e",
    (
        ("position", "position", "int8"),
        ("job_id", "job_id", "text"),
        ("version", "version", "int4"),
        ("event_id", "event_id", "uuid"),
        ("type", "type", "text"),
        ("step", "step", "text"),
        ("attempt", "attempt", "int4"),
        ("seq", "seq", "int4"),
        ("text", "data", "raw_json"),
        ("salt", "salt", "bytea"),
        ("applied", "applied", "bool"),
        ("reason", "reason", "text"),
        ("ppm", "percent", "int4"),
        ("actor", "actor", "text"),
        ("occurred_us", "occurred_at", "times"),
        ("hash", "hash", "bytea"),
    ),
)


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
            **_EVENTS.params(fresh),
            **rows,
        }
        if commit:
            result, _ = hot.together(conn, (self._statement, params), (COMMIT, {}))
        else:
            result = self._statement.execute(conn, params)
        if hot.read_int(result, 0) != 1:
            return None
        return msgspec.structs.replace(new, now_us=hot.read_int(result, 1) + PG_EPOCH_US)
