"""The asynchronous projections that Headway brings. `headway project` keeps them up to date.

durations.py   how long steps and jobs take, and how often they report (`eta`, `conditions` read it)
activity.py    what happened on each day
failures.py    failures by fingerprint: the same fault once, with its count        fingerprint.py
"""

from __future__ import annotations

from projections.projection import Projection


def shipped() -> list[Projection]:
    """One of each."""
    from projections.shipped.activity import Activity
    from projections.shipped.durations import Durations
    from projections.shipped.failures import Failures

    return [Durations(), Activity(), Failures()]
