"""The projections there are: the shipped ones, and those that other packages bring by entry point.

[project.entry-points."headway.projections"]
steps_done = "mypackage.read_models:StepsDone"
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from projections.projection import Projection, ProjectionError, check_projection
from projections.shipped import shipped

GROUP: Final = "headway.projections"


class NoSuchProjection(ProjectionError):
    code = "no_such_projection"


def known() -> dict[str, Projection | EntryPoint]:
    """All projections by name; of other packages' ones the entry point, so that nothing foreign is imported yet.

    Raises `ProjectionError` if two have one name.
    """
    found: dict[str, Projection | EntryPoint] = {projection.name: projection for projection in shipped()}
    for point in entry_points(group=GROUP):
        taken = found.get(point.name)
        if taken is not None:
            by = "Headway" if isinstance(taken, Projection) else _whose(taken)
            raise ProjectionError(
                f"projection {point.name}: {_whose(point)} and {by} both bring one of this name: uninstall one of them"
            )
        found[point.name] = point
    return found


def load(names: Iterable[str] = ()) -> list[Projection]:
    """The projections of these names, or all. Raises `ProjectionError` for a name that nobody brings, and for one whose
    package can't be imported."""
    found = known()
    wanted = list(dict.fromkeys(names)) or list(found)
    for name in wanted:
        if name not in found:
            there = ", ".join(sorted(found)) or "none"
            raise NoSuchProjection(f"there is no projection {name!r}; there are: {there}")
    return [_load(found[name]) for name in wanted]


def _load(found: Projection | EntryPoint) -> Projection:
    if isinstance(found, Projection):
        return found
    try:
        loaded = found.load()
        made = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise ProjectionError(
            f"projection {found.name} of {_whose(found)} can't be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, Projection):
        raise ProjectionError(f"projection {found.name} of {_whose(found)}: {found.value} is not a Projection")
    if made.name != found.name:
        raise ProjectionError(
            f"projection {found.name} of {_whose(found)}: its name is {made.name!r}: give the entry point that name"
        )
    return check_projection(made)


def _whose(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist is not None else point.value
