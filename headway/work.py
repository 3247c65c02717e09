"""What jobs and steps have in common: they report, and nothing that goes wrong with that reaches the work itself."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import operator
import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Concatenate, Final, Literal, ParamSpec, Self, TypeVar, cast

from headway.errors import Misuse
from headway.payload import MAX_INT, describe, plain, text
from headway.report import Scope
from headway.reporter import Reporter

logger = logging.getLogger("headway")

P = ParamSpec("P")
R = TypeVar("R")
W = TypeVar("W", bound="Work")
Level = Literal["debug", "info", "warning", "error"]
Moment = datetime | timedelta | float
"""A time: a datetime, or from now on: a timedelta or seconds."""

_LEVELS: Final = ("debug", "info", "warning", "error")


def harmless(method: Callable[Concatenate[W, P], None]) -> Callable[Concatenate[W, P], None]:
    """Let no exception of this report reach the job, but a `Misuse` with `strict=True`."""

    @functools.wraps(method)
    def report(self: W, /, *args: P.args, **kwargs: P.kwargs) -> None:
        reporter = self._reporter
        if reporter is None:
            return
        try:
            method(self, *args, **kwargs)
        except Misuse as error:
            if reporter.strict:
                raise
            reporter.warn_once(f"misuse of {method.__name__}", "%s: %s", method.__name__, error)
        except Exception as error:
            reporter.warn_once(
                f"fault in {method.__name__}", "%s: %s: %s", method.__name__, type(error).__name__, error
            )

    return report


class Work:
    """A job or a step while it runs. Use it with `with` or `async with`; it may be entered once."""

    _prefix: str
    _variable: ContextVar[Any]

    def __init__(self, reporter: Reporter | None) -> None:
        self._reporter = reporter
        self._scope: Scope | None = None
        self._ended = False
        self._pid = os.getpid()
        self._token: Token[Any] | None = None

    def __bool__(self) -> bool:
        """False for the stand-in that `current_step()` gives where no step runs."""
        return self._reporter is not None

    # -- what can be said -------------------------------------------------------------------------------------------

    @harmless
    def progress(
        self,
        percent: float | None = None,
        *,
        done: int | None = None,
        total: int | None = None,
        unit: str | None = None,
        message: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """How far it is: `percent` from 0 to 100, or `done` of `total` (without total: a count, the bar waits).

        May be called as often as you like: some ten reports per second are sent, the last one always. The bar never
        goes back: a lower value than before is kept in the log, marked, and not shown.
        """
        data = progress_data(percent, done, total)
        if unit is not None:
            data["unit"] = text(str(unit))
        if message is not None:
            data["message"] = text(str(message))
        if metadata is not None:
            data["metadata"] = plain(metadata)
        if percent is None and done is None:
            if message is None:
                raise Misuse("give percent, or done and total, or a message")
            self._tell("noted", {"level": "info", "message": data["message"]})
        elif self._scope is not None and self._reporter is not None and not self._ended:
            self._reporter.progress(self._scope, data)

    @harmless
    def note(self, /, message: str, level: Level = "info", **data: Any) -> None:
        """A line for the log; `level` is debug, info, warning or error."""
        if level not in _LEVELS:
            raise Misuse(f"level: one of {', '.join(_LEVELS)}; given {level!r}")
        more = {"data": plain(data)} if data else {}
        self._tell("noted", {"level": level, "message": text(str(message)), **more})

    def wait(self, reason: str | None = None, *, until: Moment | None = None) -> Waiting:
        """It waits for something else; the percentage stands still. `resume()` ends it, or the end of `with`:

        with step.wait("approval by the owner"):
            approval.wait()
        """
        self._wait(reason, until)
        return Waiting(self)

    @harmless
    def _wait(self, reason: str | None, until: Moment | None) -> None:
        data = {} if reason is None else {"reason": text(str(reason))}
        if until is not None:
            data["until"] = timestamp(until)
        self._tell("waiting", data)

    @harmless
    def resume(self) -> None:
        """It goes on after `wait`."""
        self._tell("resumed", {})

    @harmless
    def complete(self, message: str | None = None, *, result: Any = None) -> None:
        """It is done. The end of the `with` block says so by itself; call this to add a message or a result."""
        data: dict[str, Any] = {} if message is None else {"message": text(str(message))}
        if result is not None:
            data["result"] = plain(result)
        self._end("completed", data)

    @harmless
    def cancel(self, reason: str | None = None) -> None:
        """It was stopped on purpose."""
        self._end("cancelled", {} if reason is None else {"reason": text(str(reason))})

    @harmless
    def fail(self, error: BaseException | str, *, retry_at: Moment | None = None) -> None:
        """It failed, with this exception or text. An exception that leaves the `with` block says so by itself."""
        told = describe(error) if isinstance(error, BaseException) else {"message": text(str(error))}
        data: dict[str, Any] = {"error": told}
        if retry_at is not None:
            data["retry_at"] = timestamp(retry_at)
        self._end("failed", data)

    # -- with and async with ----------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin without `with`; then end it by `complete`, `fail` or `cancel`."""
        self._begin()
        return self

    def _begin(self) -> None:
        raise NotImplementedError

    def _left_with(self, error: BaseException) -> None:
        self.fail(error)

    def __enter__(self) -> Self:
        self._begin()
        self._token = self._variable.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> bool | None:
        if self._token is not None:
            try:
                self._variable.reset(self._token)
            except ValueError:  # left in another context than entered, as a generator may be
                self._variable.set(None)
        if self._pid != os.getpid():
            return None  # a child process that unwinds: the job is the parent's
        if error is None:
            self.complete()
        elif isinstance(error, Exception) or (isinstance(error, SystemExit) and error.code not in (None, 0)):
            self._left_with(error)
        else:
            self.cancel(f"interrupted by {type(error).__name__}")
        return None

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> bool | None:
        return self.__exit__(kind, error, at)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """As a decorator: each call of the function is one such job or step. `{name}` in its name is an argument."""
        signature = inspect.signature(function)

        def anew(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Work:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return self._again(bound.arguments)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with anew(args, kwargs):
                    return await cast(Callable[P, Awaitable[Any]], function)(*args, **kwargs)

            return cast(Callable[P, R], run_async)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with anew(args, kwargs):
                return function(*args, **kwargs)

        return run

    def _again(self, arguments: dict[str, Any]) -> Work:
        raise NotImplementedError

    # -- how it is said ---------------------------------------------------------------------------------------------

    def _tell(self, verb: str, data: dict[str, Any]) -> None:
        if self._reporter is not None and self._scope is not None and not self._ended:
            self._reporter.report(self._scope, f"{self._prefix}.{verb}", data)

    def _end(self, verb: str, data: dict[str, Any]) -> None:
        self._tell(verb, data)
        if not self._ended and self._reporter is not None and self._scope is not None:
            self._ended = True
            self._reporter.ended(self._scope)


class Waiting:
    """What `wait` gives: leaving its `with` block resumes the work."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if error is None:
            self._work.resume()

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, at: object) -> None:
        self.__exit__(kind, error, at)


def progress_data(percent: float | None, done: int | None, total: int | None) -> dict[str, Any]:
    """The numbers of a progress report. Raises `Misuse`."""
    data: dict[str, Any] = {}
    if percent is not None:
        if done is not None or total is not None:
            raise Misuse("percent: give either percent, or done and total")
        data["percent"] = _percent(percent)
    elif done is not None:
        data["done"] = _count("done", done)
        if total is not None and (whole := _count("total", total)):
            data["total"] = whole
    elif total is not None:
        raise Misuse("total: give done too")
    return data


def _percent(value: object) -> float:
    if isinstance(value, str | bytes | bool):
        raise Misuse(f"percent: a number from 0 to 100; given {value!r}")
    try:
        number = value if type(value) is int else float(cast(float, value))
    except (TypeError, ValueError, OverflowError):
        raise Misuse(f"percent: a number from 0 to 100; given a {type(value).__name__}") from None
    if not (math.isfinite(number) and 0 <= number <= 100):
        raise Misuse(f"percent: a number from 0 to 100; given {number}")
    return number


def _count(name: str, value: object) -> int:
    try:
        number = operator.index(cast(int, value))
    except TypeError:
        raise Misuse(f"{name}: a whole number; given a {type(value).__name__}") from None
    if isinstance(value, bool) or not 0 <= number <= MAX_INT:
        raise Misuse(f"{name}: a whole number from 0 to 2^53; given {value!r}")
    return number


def timestamp(moment: Moment) -> str:
    """The time as text with its zone. A datetime without a zone is local time. Raises `Misuse`."""
    try:
        if isinstance(moment, datetime):
            found = moment.astimezone(UTC)
        else:
            found = datetime.now(UTC) + (moment if isinstance(moment, timedelta) else timedelta(seconds=moment))
    except (TypeError, ValueError, OverflowError, OSError):
        raise Misuse(f"a time: a datetime, a timedelta, or seconds from now; given {moment!r}") from None
    return found.isoformat().replace("+00:00", "Z")
