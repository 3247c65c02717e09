"""The template of a new project: services with code, tests and assets, enough of it that a push takes time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

SERVICES: Final = (
    "accounts billing catalog checkout delivery discounts exports gateway inbox inventory invoices ledger media "
    "notifications orders payments pricing profiles refunds reports reviews search shipping stock"
).split()
ENVIRONMENTS: Final = ("staging", "preview", "production")
MODULES: Final = 20  # source files in a service
ASSET: Final = 384 * 1024  # bytes of the binary asset in a service

_WORDS: Final = (
    "order item price stock user cart page view total count state event queue batch cache limit token query field"
).split()


class Commit:
    """Files that belong together, and why: one commit."""

    def __init__(self, message: str, files: Iterator[tuple[str, bytes]]) -> None:
        self.message, self.files = message, files


def commits(project: str, seed: int = 1) -> list[Commit]:
    """The template as a series of commits."""
    rng = random.Random(seed)  # noqa: S311 - content, not a secret
    half = len(SERVICES) // 2
    return [
        Commit(f"Begin {project} from the template", _base(project)),
        Commit("Add the services of the shop", _services(SERVICES[:half], rng)),
        Commit("Add the services behind the shop", _services(SERVICES[half:], rng)),
        Commit("Add assets", _assets(rng)),
        Commit("Add texts in English and Chinese", _texts()),
    ]


def write(folder: Path, files: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    """Write the files below a folder; gives each name after it was written."""
    for name, content in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        yield name


def _base(project: str) -> Iterator[tuple[str, bytes]]:
    yield "README.md", f"# {project}\n\nMade from a template.\n".encode()
    yield "Makefile", b"test:\n\tpython -m pytest\n"
    yield ".gitignore", b"__pycache__/\n.venv/\n"
    yield "ci.json", json.dumps({"steps": ["lint", "test", "image"], "services": SERVICES}, indent=2).encode()


def _services(names: list[str], rng: random.Random) -> Iterator[tuple[str, bytes]]:
    for name in names:
        yield f"services/{name}/README.md", f"# {name}\n".encode()
        yield f"services/{name}/Dockerfile", b'FROM python:3.12-slim\nCOPY . /app\nCMD ["python", "-m", "app"]\n'
        for number in range(MODULES):
            yield f"services/{name}/src/part_{number:02}.py", _module(rng)
            yield f"services/{name}/tests/test_part_{number:02}.py", _test(number)


def _module(rng: random.Random) -> bytes:
    lines = ['"""Generated from the template."""', ""]
    for number in range(60):
        first, second = rng.choice(_WORDS), rng.choice(_WORDS)
        lines += [
            f"def {first}_{second}_{number}(value: int) -> int:",
            f'    """Revision {rng.getrandbits(128):032x}."""',
            f"    return value * {rng.randrange(1_000)} + {rng.randrange(1_000)}",
            "",
        ]
    return "\n".join(lines).encode()


def _test(number: int) -> bytes:
    return f"def test_part_{number}_is_imported() -> None:\n    assert {number} >= 0\n".encode()


def _assets(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    for name in SERVICES:
        yield f"services/{name}/assets/preview.bin", rng.randbytes(ASSET)


def _texts() -> Iterator[tuple[str, bytes]]:
    for name in SERVICES:
        texts = {"en": {"title": name.title()}, "zh": {"title": f"{name} 服务"}}
        for language, text in texts.items():
            path = f"services/{name}/texts/{language}.json"
            yield path, json.dumps(text, ensure_ascii=False, indent=2).encode()
