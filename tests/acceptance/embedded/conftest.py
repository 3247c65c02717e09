"""Data folders and users of embedded servers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded_users import (
    ME,
    User,
    data_folder,
    end_all,
    processes,
    wait_until,
)


@pytest.fixture(scope="module")
def made() -> Iterator[Callable[[str], Path]]:
    """One data folder per account for all tests: making a cluster each time would be most of their time."""
    with ExitStack() as ending:
        yield functools.cache(lambda account: ending.enter_context(data_folder(account)))


@pytest.fixture
def folder(request: pytest.FixtureRequest, made: Callable[[str], Path]) -> Iterator[Path]:
    """A data folder in which nothing runs, and in which nothing must run after the test."""
    where = made(getattr(request, "param", ME))
    try:
        yield where
        wait_until(lambda: not processes(where))
    finally:
        end_all(where)


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A data folder for one test, of the account that the tests run as."""
    with data_folder(ME) as where:
        yield where


@pytest.fixture
def user() -> Iterator[Callable[..., User]]:
    with ExitStack() as ending:

        def more(folder: Path, **how: Any) -> User:
            one = User(folder, **how)
            ending.callback(lambda: one.process.poll() is None and one.kill())
            return one

        yield more
