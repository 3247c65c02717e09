"""What the programmer is told in strict mode; without it each of these is one warning line, and the job goes on.

HeadwayError
└── Misuse      an argument breaks a rule: its text names the argument, what was given and the rule
"""

from __future__ import annotations


class HeadwayError(Exception):
    """Base of the errors of this package."""


class Misuse(HeadwayError, ValueError):
    """An argument breaks a rule. Raised only with `strict=True`."""
