"""An example of the documentation as a line for a shell."""

from __future__ import annotations

import json
import shlex

from api.openapi.operations import Example
from api.routes import Route

BASE = "http://127.0.0.1:8000"


def address(route: Route, example: Example) -> str:
    """The path and query of an example."""
    path = route.path.replace("{job}", example.job).replace("{code}", example.code)
    return f"{path}?{example.query}" if example.query else path


def content(example: Example) -> str:
    """The body of an example as it is sent."""
    return example.body if isinstance(example.body, str) else json.dumps(example.body, ensure_ascii=False)


def curl_line(route: Route, example: Example, *, keyless: bool) -> str:
    """The example with curl; $HEADWAY_KEY stands for the key."""
    words = ["curl"]
    if example.endless or route.stream:
        words.append("-N")
    lines = [" ".join([*words, shlex.quote(BASE + address(route, example))])]
    if not keyless and route.scopes is not None:
        lines.append('-H "Authorization: Bearer $HEADWAY_KEY"')
    lines += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in example.headers.items()]
    if example.body is not None:
        lines.append(f"-H {shlex.quote(f'Content-Type: {example.kind}')}")
        lines.append(f"--data-binary {shlex.quote(content(example))}")
    return " \\\n  ".join(lines)
