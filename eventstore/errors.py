"""The errors of the log.

    EventStoreError
    ├── InvalidEvent             invalid_event          a field breaks a rule; names field, given and rule
    ├── InvalidCursor            invalid_cursor         not a cursor at all
    ├── InvalidFilter            invalid_filter         names that no job, type or consumer can have
    ├── NoSuchConsumer           no_such_consumer       there is no checkpoint of that name
    ├── CheckpointMoved          checkpoint_moved       somebody else moved the consumer's checkpoint
    ├── WrongExpectedVersion     wrong_expected_version the job is at another version
    ├── EventIdConflict          event_id_conflict      the id is taken by an event with other content
    ├── JobFull                  job_full               the job is at its limit of events
    ├── LogDiverged              log_diverged           the cursor is not on this log's history
    ├── ChainBroken              chain_broken           a stored event is not the one that was appended
    ├── NoSuchLog                no_such_log            the log was never created
    ├── StoreBusy                store_busy             retryable: the queue is full or the log is locked
    ├── StoreUnavailable         store_unavailable      retryable: nothing was written
    │   └── StorageFull          storage_full           retryable: the database's disk is full, nothing was written
    ├── AppendRefused            append_refused         the database can't hold what the call says; nothing was written
    ├── StoreClosed              store_closed           this store was closed; make a new one
    ├── OutcomeUnknown           outcome_unknown        retryable with the same ids: the answer got lost
    ├── FoldVersionMismatch      fold_version_mismatch  retryable elsewhere: this process folds with older rules
    ├── Forked                   forked                 the call was queued in the parent process
    └── UnsafeDurability         unsafe_durability      the server may lose what it acknowledged

`code` is stable and goes over the wire; `retryable` says that the same call may succeed later.
"""

from __future__ import annotations

import reprlib
from typing import Any, ClassVar, Final
from uuid import UUID

_bounded: Final = reprlib.Repr()
_bounded.maxlevel, _bounded.maxother, _bounded.maxlong = 2, 80, 80


class EventStoreError(Exception):
    """Base of all errors of the log."""

    code: ClassVar[str] = "event_store_error"
    retryable: ClassVar[bool] = False


class InvalidEvent(EventStoreError, ValueError):
    """A report breaks a rule; nothing of its call was written.

    `field` is the path of the offending field (`events[3].data.percent`), `given` a short repr, `rule` what is allowed,
    `rule_code` one stable word (`not_finite`, `too_long`, `nul_not_allowed`, `out_of_range`, `wrong_type`, …).
    """

    code = "invalid_event"

    def __init__(self, field: str, given: object, rule: str, rule_code: str = "invalid") -> None:
        shown = given if isinstance(given, Shown) else shorten(given)
        self.field, self.given, self.rule, self.rule_code = printable(field, 200), str(shown), rule, rule_code
        super().__init__(f"{self.field}: {rule}; given {shown}")

    def at(self, prefix: str) -> InvalidEvent:
        """The same error, one level further out: `at("events[3]")`."""
        return type(self)(
            f"{prefix}.{self.field}" if self.field else prefix, Shown(self.given), self.rule, self.rule_code
        )


class Shown(str):
    """A text that was shortened and escaped already."""

    __slots__ = ()


def shorten(value: object, limit: int = 80) -> Shown:
    """A repr that fits a line: about `limit` characters, controls escaped, nothing deep or huge spelled out."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return Shown(f"an integer of {value.bit_length()} bits")
    rest = ""
    if isinstance(value, str | bytes) and len(value) > limit:
        value, rest = value[: limit // 2], f"… ({len(value)} long)"
    try:
        text = repr(value) if isinstance(value, str) else _bounded.repr(value)
    except Exception:  # the repr of a caller's own class may do anything
        text = f"<{type(value).__name__}>"
    return Shown(printable(text, limit) + rest)


def printable(text: str, limit: int) -> str:
    """The text on one line, controls and what else can't be seen escaped, cut at the limit."""
    text = text if text.isprintable() else repr(text[:limit])[1:-1]
    return text if len(text) <= limit else text[: limit - 1] + "…"


class InvalidCursor(EventStoreError, ValueError):
    code = "invalid_cursor"

    def __init__(self, given: object) -> None:
        super().__init__(f"cursor: give EEEE_PPPPPPPPPPPPPPPP_HHHHHHHH, a position, -1 or now; given {shorten(given)}")
        self.given = str(shorten(given))


class InvalidFilter(EventStoreError, ValueError):
    """`field` is the parameter, `given` a short repr, `rule` what is allowed."""

    code = "invalid_filter"

    def __init__(self, field: str, given: object, rule: str) -> None:
        shown = shorten(given)
        super().__init__(f"{field}: {rule}; given {shown}")
        self.field, self.given, self.rule = field, str(shown), rule


class NoSuchConsumer(EventStoreError, LookupError):
    code = "no_such_consumer"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no consumer {shorten(name)}: see `headway consumers list`")
        self.name = name


class CheckpointMoved(EventStoreError):
    """The checkpoint is not where this consumer left it: it was reset or deleted, or another process uses its name.

    `expected` and `actual` are positions, `actual` is None if the checkpoint is gone.
    """

    code = "checkpoint_moved"

    def __init__(self, name: str, expected: int, actual: int | None) -> None:
        where = "was deleted" if actual is None else f"was moved to position {actual}"
        super().__init__(
            f"the checkpoint of consumer {shorten(name)} {where}, this process left it at {expected}:"
            " start the consumer again, and only once"
        )
        self.name, self.expected, self.actual = name, expected, actual


class WrongExpectedVersion(EventStoreError):
    code = "wrong_expected_version"

    def __init__(self, job_id: str, expected: object, actual: int) -> None:
        wanted = expected if isinstance(expected, int) else "no job"
        super().__init__(f"job {job_id!r} is at version {actual}, expected {wanted}: read it again, then decide anew")
        self.job_id, self.expected, self.actual = job_id, expected, actual


class EventIdConflict(EventStoreError):
    """The id belongs to an event with other content. `position` is None where telling it would tell of another job."""

    code = "event_id_conflict"

    def __init__(self, event_id: object, position: int | None = None, differs: str | None = None) -> None:
        where = "" if position is None else f" at position {position} (differs in {differs})"
        super().__init__(f"event id {event_id} is taken{where}: a retry sends the same content, a new event a new id")
        self.event_id, self.position, self.differs = str(event_id), position, differs


class JobFull(EventStoreError):
    code = "job_full"

    def __init__(self, job_id: str, limit: int) -> None:
        super().__init__(f"job {job_id!r} has {limit} events; only the event that ends it is accepted now")
        self.job_id, self.limit = job_id, limit


class LogDiverged(EventStoreError):
    """The cursor is not on this log's history. `reason`: ahead, epoch or hash; `common` the last common cursor.

    Reason `hole`: events after `common` are missing in the database itself; only a restore helps.
    """

    code = "log_diverged"

    def __init__(self, cursor: str, reason: str, common: str) -> None:
        super().__init__(f"cursor {cursor} is not on this log's history ({reason}); go on from {common}")
        self.cursor, self.reason, self.common = cursor, reason, common


class ChainBroken(EventStoreError):
    """The stored history was changed. `position` is the first that is wrong; `what` says how it shows."""

    code = "chain_broken"

    def __init__(self, position: int, what: str) -> None:
        super().__init__(f"position {position}: {what}; compare with a backup or a cursor that a consumer holds")
        self.position, self.what = position, what


class NoSuchLog(EventStoreError, LookupError):
    code = "no_such_log"

    def __init__(self, log: str) -> None:
        super().__init__(f"there is no log {shorten(log)}: create it with `headway logs create NAME`")
        self.log = log


class StoreBusy(EventStoreError):
    code = "store_busy"
    retryable = True


class StoreUnavailable(EventStoreError):
    code = "store_unavailable"
    retryable = True


class StorageFull(StoreUnavailable):
    code = "storage_full"


class AppendRefused(EventStoreError):
    """It passed every check here, and yet the database refuses it, for example a text that its encoding has not."""

    code = "append_refused"


class StoreClosed(EventStoreError):
    code = "store_closed"

    def __init__(self) -> None:
        super().__init__("this store was closed: make a new one")


class OutcomeUnknown(EventStoreError):
    """`event_ids` are those of the call, in order: also the ones that the store drew for events without an id."""

    code = "outcome_unknown"
    retryable = True

    def __init__(self, detail: str = "the answer of the database got lost", event_ids: tuple[UUID, ...] = ()) -> None:
        super().__init__(f"{detail}: retry with the same event ids, that decides")
        self.detail, self.event_ids = detail, event_ids


class FoldVersionMismatch(EventStoreError):
    code = "fold_version_mismatch"
    retryable = True

    def __init__(self, ours: int, theirs: int) -> None:
        super().__init__(f"the log folds with version {theirs}, this process with {ours}: upgrade the older one")
        self.ours, self.theirs = ours, theirs


class Forked(EventStoreError):
    code = "forked"

    def __init__(self) -> None:
        super().__init__("this call was queued in the parent process; in the child, append again with the same ids")


class UnsafeDurability(EventStoreError):
    code = "unsafe_durability"

    def __init__(self, settings: dict[str, Any]) -> None:
        named = ", ".join(f"{name} = {value}" for name, value in sorted(settings.items()))
        super().__init__(
            f"PostgreSQL runs with {named}: a crash could lose acknowledged events; turn it on and restart"
        )
        self.settings = settings
