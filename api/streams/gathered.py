"""`Gathered`: many who ask the database the same kind of question at once cost it a few questions."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

V = TypeVar("V")

MOST: Final = 32  # keys in one question
KEEP: Final = 0.25  # seconds that an answer is good for others
REMEMBERED: Final = 1_000


class _Answer(Generic[V]):
    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.value: V | None = None
        self.error: Exception | None = None
        self.at = 0.0


class Gathered(Generic[V]):
    """`ask(keys)` is called for all keys that were asked for while the last call was under way, a few at a time.

    So an answer is never older than its asking; one that was given up to `KEEP` seconds ago is used again for who says
    that it is good. An error goes to all who wait for it, and is not remembered.
    """

    def __init__(self, ask: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]]) -> None:
        self._ask = ask
        self._waiting: dict[str, _Answer[V]] = {}
        self._known: OrderedDict[str, _Answer[V]] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: str, *, good: Callable[[V], bool] | None = None) -> V | None:
        """The answer for a key; a remembered one only if it is `good`. None if there is none."""
        known = self._known.get(key) if good is not None else None
        if known is not None and good is not None and time.monotonic() - known.at < KEEP:
            value = known.value
            if value is not None and good(value):
                return value
        answer = self._waiting.get(key)
        if answer is None:
            answer = self._waiting[key] = _Answer()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        await answer.done.wait()
        if answer.error is not None:
            raise answer.error
        return answer.value

    async def _run(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:MOST]
                answers = {key: self._waiting.pop(key) for key in keys}
                await self._answer(answers)
        finally:
            self._task = None

    async def _answer(self, answers: dict[str, _Answer[V]]) -> None:
        try:
            found = await self._ask(list(answers))
        except Exception as error:
            for answer in answers.values():
                answer.error = error
        else:
            for key, answer in answers.items():
                answer.value, answer.at = found.get(key), time.monotonic()
                self._remember(key, answer)
        finally:
            for answer in answers.values():
                answer.done.set()

    def _remember(self, key: str, answer: _Answer[V]) -> None:
        self._known[key] = answer
        self._known.move_to_end(key)
        now = time.monotonic()
        while self._known:
            oldest = next(iter(self._known.values()))
            if now - oldest.at < KEEP and len(self._known) <= REMEMBERED:
                break
            self._known.popitem(last=False)
