"""The committer's cache of job states: least recently used first out, by size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

LIMIT: Final = 64 * 1024 * 1024  # bytes


class StateCache:
    """States by job. After `suspect`, a state is used again only when `confirm` has seen its version in the log.

    A state is a function of its job's events, so the same version means the same state.
    """

    def __init__(self, size: Callable[[Any], int], limit: int = LIMIT) -> None:
        self._size_of = size
        self._limit = limit
        self._size = 0
        self._trusted: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._suspects: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, job_id: str) -> Any | None:
        """The state, if it is known to be current."""
        entry = self._trusted.get(job_id)
        if entry is None:
            return None
        self._trusted.move_to_end(job_id)
        return entry[0]

    def suspects(self, job_ids: Iterable[str]) -> list[str]:
        """Those of the jobs whose state is held but may be old."""
        return [job_id for job_id in job_ids if job_id in self._suspects]

    def held(self, job_ids: Iterable[str]) -> list[str]:
        """Those of the jobs whose state is held, current or not."""
        return [job_id for job_id in job_ids if job_id in self._trusted or job_id in self._suspects]

    def suspect(self) -> None:
        """Somebody else appended: any state may be old now."""
        self._suspects.update(self._trusted)
        self._trusted.clear()

    def confirm(self, versions: Mapping[str, int]) -> None:
        """Trust the suspected states that are at these versions; drop the others among them."""
        for job_id, version in versions.items():
            entry = self._suspects.pop(job_id, None)
            if entry is None:
                continue
            if entry[0].version == version:
                self._trusted[job_id] = entry
            else:
                self._size -= entry[1]

    def put(self, job_id: str, state: Any) -> None:
        self.drop(job_id)
        size = self._size_of(state)
        self._trusted[job_id] = (state, size)
        self._size += size
        while self._size > self._limit:
            oldest = self._suspects or self._trusted
            self._size -= oldest.popitem(last=False)[1][1]

    def drop(self, job_id: str) -> None:
        entry = self._trusted.pop(job_id, None) or self._suspects.pop(job_id, None)
        if entry is not None:
            self._size -= entry[1]

    def clear(self) -> None:
        self._trusted.clear()
        self._suspects.clear()
        self._size = 0
