"""Every route there is: method, path, who may. What is not in this table does not exist.

The table decides 404, 405, 401 and 403 before a handler runs; the OpenAPI document and the authorization matrix of the
tests are checked against it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from api.auth import Scope


class Route(NamedTuple):
    """`scopes`: one of them is needed; None: open to everybody. `stream`: takes stream tokens too."""

    method: str
    path: str
    scopes: frozenset[Scope] | None
    stream: bool = False


_APPEND: Final = frozenset((Scope.APPEND,))
_READ: Final = frozenset((Scope.READ,))
_HISTORY: Final = frozenset((Scope.READ, Scope.AUDIT))

ROUTES: Final[tuple[Route, ...]] = (
    Route("POST", "/v1/jobs/{job}/events", _APPEND),
    Route("POST", "/v1/events", _APPEND),
    Route("GET", "/v1/jobs", _HISTORY),
    Route("GET", "/v1/jobs/{job}", _HISTORY),
    Route("GET", "/v1/jobs/{job}/events", _HISTORY),
    Route("GET", "/v1/events", _HISTORY),
    Route("GET", "/v1/jobs/{job}/diff", _HISTORY),
    Route("GET", "/v1/jobs/{job}/stream", _READ, stream=True),
    Route("GET", "/v1/stream", _READ, stream=True),
    Route("POST", "/v1/stream-tokens", _READ),
    Route("GET", "/healthz", None),
    Route("GET", "/readyz", None),
    Route("GET", "/metrics", frozenset((Scope.ADMIN,))),
    Route("GET", "/", None),
    Route("GET", "/openapi.json", None),
    Route("GET", "/docs", None),
    Route("GET", "/problems/{code}", None),
)

_EXACT: Final[dict[str, dict[str, Route]]] = {}
_PATTERNS: Final[list[tuple[re.Pattern[str], dict[str, Route]]]] = []


def _index() -> None:
    by_path: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, {})[route.method] = route
    for path, methods in by_path.items():
        if "{" in path:
            pattern = re.sub(r"\{[a-z]+\}", "([^/]+)", path)
            _PATTERNS.append((re.compile(pattern), methods))
        else:
            _EXACT[path] = methods


_index()


def find(path: str) -> tuple[dict[str, Route], str | None] | None:
    """The routes of a path by method, and the part of the path that is variable; None if there is no such path."""
    if (methods := _EXACT.get(path)) is not None:
        return methods, None
    for pattern, methods in _PATTERNS:
        if (found := pattern.fullmatch(path)) is not None:
            return methods, found[1]
    return None
