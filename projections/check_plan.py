"""The rules of a plan, for `data.steps` of a `job.planned`, and of a single step that is added to one."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any, Final

from eventstore.codec import check_step
from eventstore.errors import InvalidEvent, Shown
from projections.numbers import is_finite, micro
from projections.state import DEPTH_LIMIT, STEP_LIMIT

MAX_LABEL: Final = 1024  # bytes of UTF-8
MIN_WEIGHT: Final = 1e-6
MAX_WEIGHT: Final = 1e9


def check_entries(steps: object, field: str) -> None:
    """Raise `InvalidEvent` unless these are the steps of a plan: names once, parents among them and without a cycle,
    groups at most 16 deep, and within a group either weights or ranges that do not overlap.
    """
    if type(steps) is not list and type(steps) is not tuple:
        raise InvalidEvent(field, steps, "an array of steps", "wrong_type")
    if len(steps) > STEP_LIMIT:
        raise InvalidEvent(field, f"{len(steps)} steps", f"at most {STEP_LIMIT} steps", "out_of_range")
    parents: dict[str, str | None] = {}
    groups: defaultdict[str | None, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for index, entry in enumerate(steps):
        at = f"{field}[{index}]"
        if type(entry) is not dict:
            raise InvalidEvent(at, entry, "an object with the name of a step", "wrong_type")
        if entry.get("step") is None:
            raise InvalidEvent(f"{at}.step", None, "the name of the step", "required")
        name, parent = entry["step"], entry.get("parent")
        check_name(name, f"{at}.step")
        if name in parents:
            raise InvalidEvent(f"{at}.step", name, "each step once", "twice")
        if parent is not None:
            check_name(parent, f"{at}.parent")
        parents[name] = parent
        _check_entry(entry, at)
        groups[parent].append((index, entry))
    _check_tree(parents, field)
    for members in groups.values():
        _check_ranges(members, field)


def check_name(name: object, field: str) -> None:
    """Raise `InvalidEvent` unless this can be the name of a step."""
    try:
        check_step(name)
    except InvalidEvent as error:
        raise InvalidEvent(field, Shown(error.given), error.rule, error.rule_code) from None


def check_weight(weight: object, field: str) -> None:
    """Raise `InvalidEvent` unless this is a number from 10⁻⁶ to 10⁹."""
    if type(weight) is not int and type(weight) is not float:
        raise InvalidEvent(field, weight, "a number", "wrong_type")
    if not is_finite(weight):
        raise InvalidEvent(field, weight, "a finite number", "not_finite")
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise InvalidEvent(field, weight, "a number from 0.000001 to 1000000000", "out_of_range")


def _check_entry(entry: dict[str, Any], at: str) -> None:
    label, weight, pair = entry.get("label"), entry.get("weight"), entry.get("range")
    if label is not None:
        if type(label) is not str:
            raise InvalidEvent(f"{at}.label", label, "text", "wrong_type")
        if len(label) * 4 > MAX_LABEL and len(label.encode("utf-8", "surrogatepass")) > MAX_LABEL:
            raise InvalidEvent(f"{at}.label", label, f"at most {MAX_LABEL} bytes of UTF-8", "too_long")
    if weight is not None:
        if pair is not None:
            raise InvalidEvent(f"{at}.weight", weight, "a weight or a range, not both", "mixed")
        check_weight(weight, f"{at}.weight")
    if pair is not None:
        _check_range(pair, f"{at}.range")


def _check_range(pair: object, field: str) -> None:
    rule = "[start, end] in percent, 0 ≤ start < end ≤ 100"
    if (type(pair) is not list and type(pair) is not tuple) or len(pair) != 2:
        raise InvalidEvent(field, pair, rule, "wrong_type")
    for place, value in enumerate(pair):
        if type(value) is not int and type(value) is not float:
            raise InvalidEvent(f"{field}[{place}]", value, "a number", "wrong_type")
        if not is_finite(value):
            raise InvalidEvent(f"{field}[{place}]", value, "a finite number", "not_finite")
        if not 0 <= value <= 100:
            raise InvalidEvent(f"{field}[{place}]", value, "a number from 0 to 100", "out_of_range")
    if micro(pair[0]) >= micro(pair[1]):
        raise InvalidEvent(field, pair, rule, "out_of_range")


def _check_tree(parents: dict[str, str | None], field: str) -> None:
    """Depth 0 is the plan's top. Each step is walked once: what is known of a parent is kept."""
    above: dict[str, int] = {}
    for index, name in enumerate(parents):
        path: dict[str, None] = {}
        at: str | None = name
        while at is not None and at not in above:
            if at in path:
                raise InvalidEvent(f"{field}[{index}].parent", parents[name], "no step above itself", "cycle")
            path[at] = None
            parent = parents[at]
            if parent is not None and parent not in parents:
                place = list(parents).index(at)
                raise InvalidEvent(f"{field}[{place}].parent", parent, "a step of this plan", "unknown_parent")
            at = parent
        level = -1 if at is None else above[at]
        for step in reversed(path):
            level += 1
            above[step] = level
        if above[name] > DEPTH_LIMIT:
            rule = f"groups at most {DEPTH_LIMIT} deep"
            raise InvalidEvent(f"{field}[{index}].parent", parents[name], rule, "out_of_range")


def _check_ranges(members: list[tuple[int, dict[str, Any]]], field: str) -> None:
    ranged = [(micro(entry["range"][0]), micro(entry["range"][1]), i) for i, entry in members if entry.get("range")]
    if not ranged:
        return
    for index, entry in members:
        if not entry.get("range"):
            rule = "a range, as the other steps of its group have"
            raise InvalidEvent(f"{field}[{index}].range", entry.get("weight"), rule, "mixed")
    ranged.sort()
    for (_, end, before), (start, _, index) in itertools.pairwise(ranged):
        if start < end:
            given = next(entry["range"] for i, entry in members if i == index)
            raise InvalidEvent(f"{field}[{index}].range", given, f"no overlap with {field}[{before}].range", "overlap")
