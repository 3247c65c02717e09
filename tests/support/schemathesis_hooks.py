"""What schemathesis must know of our API besides the OpenAPI document: loaded by its command line (SCHEMATHESIS_HOOKS).

Rules between two parameters can't be said in a document. A request that breaks one of them is refused, which is right,
and no proof of anything: such requests are not generated.
"""

from __future__ import annotations

import re
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def is_true(value: Any) -> bool:
    return value is True or value == "true"


def is_time(value: Any) -> bool:
    return isinstance(value, str) and re.match("[0-9]{4}-[0-9]{2}-", value) is not None


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    return not (breaks_a_pair(case.query or {}) or both_expectations(case.headers or {}) or odd_number(case.body))


def breaks_a_pair(given: dict[str, Any]) -> bool:
    return (
        ("at" in given and "min_version" in given)
        or (is_true(given.get("occurred")) and not any(is_time(given.get(name)) for name in ("at", "from", "to")))
        or (is_true(given.get("formulas")) and given.get("format") != "csv")
        or ("reason" in given and is_true(given.get("applied")))
        or ("since" in given and "until" in given)
        or ("jobs" in given and "prefix" in given)
    )


def both_expectations(headers: Any) -> bool:
    return {"if-match", "if-none-match"} <= {name.lower() for name in headers}


def odd_number(body: Any) -> bool:
    """7.0 is an integer to a schema, and none to us."""
    return isinstance(body, dict) and isinstance(body.get("ttl"), float)
