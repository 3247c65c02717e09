"""The tables of the projections that Headway ships, as the migration makes them (`projections.shipped`)."""

from __future__ import annotations

from projections.shipped import shipped


def ddl() -> list[str]:
    """The statements that make the tables, in order."""
    return [statement for projection in shipped() for statement in projection.tables]
