"""GUARANTEES.md names a test for each promise, and each test that it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INVARIANTS = {f"I{n}" for n in range(1, 10)}
INPUTS = {f"I{n}" for n in range(1, 24)}
FAULTS = (
    {f"C{n}" for n in range(1, 9)}
    | {f"S{n}" for n in range(1, 10)}
    | {f"A{n}" for n in range(1, 7)}
    | {"I24", "A16", "P1", "P2", "P7", "P8", "P13", "R1", "R2", "R3", "R4", "R5", "R9", "R14"}
)


def promises() -> list[tuple[str, set[str], str, list[str]]]:
    """Section, letters, promise and tests of each row."""
    rows = []
    section = ""
    for line in (ROOT / "GUARANTEES.md").read_text(encoding="utf-8").splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 3 and cells[1] != "promise" and set(line) - set("|-"):
            rows.append((section, set(cells[0].split(", ")), cells[1], re.findall(r"`(tests/[^`]*)`", cells[2])))
    return rows


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


@pytest.mark.parametrize(("section", "letters", "promise", "tests"), promises())
def test_each_test_that_is_named_is_there(section, letters, promise, tests):
    assert tests, f"{promise}: no test is named"
    for test in tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), f"{promise}: there is no {path}"
        assert name in names_in(path), f"{promise}: there is no {test}"


def test_no_promise_is_left_out():
    named: dict[str, set[str]] = {}
    for section, letters, _, _ in promises():
        named.setdefault(section, set()).update(letters)
    assert INVARIANTS - named["Invariants"] == set()
    assert INPUTS - named["Bad inputs"] == set()
    assert FAULTS - set().union(*named.values()) == set()
