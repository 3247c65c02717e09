"""For who runs the server: is it alive, can it work, how is it doing."""

from __future__ import annotations

from typing import Final

from litestar import get
from litestar.handlers import HTTPRouteHandler


@get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


HANDLERS: Final[list[HTTPRouteHandler]] = [healthz]
