"""What a consumer wants of a log. A filter is looked at after continuity was checked, never before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypedDict

import msgspec

from eventstore.cursor import Cursor, Where
from eventstore.errors import InvalidFilter
from eventstore.events import RecordedEvent

_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}")
MAX_EXACT: Final = 100
"""Up to this many full job ids are read through the index of jobs; more are sifted from the log."""

Test = Callable[[RecordedEvent], bool]
Select = Callable[[Sequence[RecordedEvent]], Sequence[RecordedEvent]]


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """`jobs` and `types` are full names, or a prefix with `*` at its end; `steps` are full names.

    None means any; an empty list means none at all. `applied`: only events that counted, or only those that didn't.
    """

    jobs: tuple[str, ...] | None = None
    types: tuple[str, ...] | None = None
    steps: frozenset[str] | None = None
    applied: bool | None = None

    @property
    def exact(self) -> tuple[str, ...] | None:
        """The job ids, if only full ones are wanted, and few."""
        if not self.jobs or len(self.jobs) > MAX_EXACT or any(name.endswith("*") for name in self.jobs):
            return None
        return self.jobs

    def compiled(self) -> Select:
        """A function that gives the events that pass, in order."""
        tests = self._tests()
        match tests:
            case []:
                return lambda events: events
            case [test]:
                return lambda events: [event for event in events if test(event)]
            case _:
                return lambda events: [event for event in events if all(test(event) for test in tests)]

    def _tests(self) -> list[Test]:
        tests: list[Test] = []
        if self.jobs is not None and "*" not in self.jobs:
            tests.append(_named(self.jobs, lambda event: event.job_id))
        if self.types is not None and "*" not in self.types:
            tests.append(_named(self.types, lambda event: event.type))
        if (steps := self.steps) is not None:
            tests.append(lambda event: event.step in steps)
        if (applied := self.applied) is not None:
            tests.append(lambda event: event.applied is applied)
        return tests


class Following(TypedDict, total=False):
    """The parameters of `eventstore.subscription.subscribe`."""

    after: str | int | Cursor | Where | None
    jobs: str | Iterable[str] | None
    types: str | Iterable[str] | None
    steps: str | Iterable[str] | None
    applied: bool | None
    redis_url: str | None
    listen: bool
    give_up_after: float | None


def make_filter(
    *,
    jobs: str | Iterable[str] | None = None,
    types: str | Iterable[str] | None = None,
    steps: str | Iterable[str] | None = None,
    applied: bool | None = None,
) -> Filter:
    """A filter from what a caller gives; one name may stand without a list. Raises `InvalidFilter` for a name
    that no job and no type can have.
    """
    wanted = _names(jobs)
    for name in wanted or ():
        prefix = name.removesuffix("*")
        if (prefix or name != "*") and not _JOB_ID.fullmatch(prefix):
            raise InvalidFilter("jobs", name, "full job ids, or a prefix like build:*")
    kinds = _names(types)
    for name in kinds or ():
        if "*" in name.removesuffix("*") or not name:
            raise InvalidFilter("types", name, "full names, or a prefix like step.*")
    chosen = _names(steps)
    return Filter(jobs=wanted, types=kinds, steps=None if chosen is None else frozenset(chosen), applied=applied)


def _names(given: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    return tuple(dict.fromkeys([given] if isinstance(given, str) else given))


def _named(names: tuple[str, ...], of: Callable[[RecordedEvent], str]) -> Test:
    full = frozenset(name for name in names if not name.endswith("*"))
    prefixes = tuple(name[:-1] for name in names if name.endswith("*"))
    if not prefixes:
        return lambda event: of(event) in full
    return lambda event: of(event).startswith(prefixes) or of(event) in full
