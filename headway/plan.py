"""Plans: the steps that a job is going to do, in order, with what each weighs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from headway.payload import text


class StepDef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step of a plan; made by `step_def`."""

    step: str
    label: str | None = None
    weight: float | None = None
    range: tuple[float, float] | None = None
    parent: str | None = None


def step_def(
    name: str,
    *,
    label: str | None = None,
    weight: float | None = None,
    range: tuple[float, float] | None = None,
    parent: str | None = None,
) -> StepDef:
    """A step for `headway.job(plan=[…])`.

    `label` is what people read; `weight` (default 1) its share among its siblings, or `range` the part of the bar that
    it fills, `(0, 30)` in percent. Within a group all steps have weights or all have ranges. `parent` names the step
    that this one is a part of.
    """
    return StepDef(step=name, label=label, weight=weight, range=range, parent=parent)


def plan_data(plan: Iterable[StepDef | str]) -> list[dict[str, Any]]:
    """The plan as `steps` of a `job.planned`."""
    steps: list[dict[str, Any]] = []
    for entry in plan:
        given = StepDef(step=entry) if isinstance(entry, str) else entry
        found = msgspec.to_builtins(given)
        if given.range is not None:
            found["range"] = list(given.range)
        if given.label is not None:
            found["label"] = text(given.label)
        steps.append(found)
    return steps
