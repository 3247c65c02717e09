"""Events of the log as the fold wants them: data decoded once, and the stored verdict held against the new one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

import msgspec

from eventstore import statements
from eventstore.errors import EventStoreError, FoldVersionMismatch
from eventstore.events import LOG_JOB, RecordedEvent
from eventstore.statements import Conn
from projections.fold import FOLDS, Evolve, initial
from projections.state import JobState

_decode: Final = msgspec.json.Decoder().decode


class FoldMismatch(EventStoreError):
    """Folding the log again gave another verdict than the one that was stored: the fold or the log was changed."""

    code: ClassVar[str] = "fold_mismatch"

    def __init__(self, position: int, stored: object, recomputed: object) -> None:
        super().__init__(
            f"position {position}: stored verdict {stored}, folded again {recomputed}: the rules or the rows were"
            " changed; `headway verify` tells whether it was the rows"
        )
        self.position, self.stored, self.recomputed = position, stored, recomputed


class PastEvent:
    """A recorded event with its data decoded (`eventstore.inline.FoldEvent`)."""

    __slots__ = (
        "actor", "attempt", "data", "job_id", "occurred_us", "position", "recorded_us", "seq", "step", "type",
        "version",
    )  # fmt: skip

    def __init__(self, event: RecordedEvent) -> None:
        self.job_id = event.job_id
        self.type = event.type
        self.step = event.step
        self.attempt = event.attempt
        self.seq = event.seq
        self.data: dict[str, Any] = _decode(event.data_json)
        self.actor = event.actor
        self.occurred_us = event.occurred_us
        self.recorded_us = event.recorded_us
        self.position = event.position
        self.version = event.version


class Rules:
    """Which rules a log was folded with, where: `log.fold_changed` events say from which position on."""

    def __init__(self, first: int, changes: Sequence[tuple[int, int]] = ()) -> None:
        self._after = [position for position, _ in changes]
        self._folds = [_fold(version) for version in (first, *(version for _, version in changes))]

    def at(self, position: int) -> Evolve:
        """The rules that gave the event at this position its verdict."""
        return self._folds[bisect_left(self._after, position)]


def read_rules(conn: Conn, log_id: int) -> Rules:
    """The rules of a log. Raises `FoldVersionMismatch` if it was folded with some that this code does not have."""
    rows = conn.execute(statements.FOLD_CHANGES, (log_id,), binary=True).fetchall()
    changes = [(position, _decode(data)) for position, data in rows]
    first = changes[0][1]["from"] if changes else statements.read_head(conn, log_id).fold_version
    return Rules(first, [(position, change["to"]) for position, change in changes])


def _fold(version: int) -> Evolve:
    try:
        return FOLDS[version]
    except KeyError:
        raise FoldVersionMismatch(max(FOLDS), version) from None


def fold_past(states: dict[str, JobState], events: Iterable[RecordedEvent], rules: Rules) -> None:
    """Fold events of the log into the states of their jobs. Raises `FoldMismatch` if a verdict isn't the stored one."""
    get, rules_at = states.get, rules.at
    for event in events:
        job_id = event.job_id
        state = get(job_id)
        if state is None:
            if job_id == LOG_JOB:
                continue
            state = states[job_id] = initial(job_id)
        _, verdict = rules_at(event.position)(state, PastEvent(event))
        if verdict != (event.applied, event.reason, event.ppm):
            raise FoldMismatch(event.position, (event.applied, event.reason, event.ppm), tuple(verdict))
