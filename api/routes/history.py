"""What was reported: the history of a job, and of the log."""

from __future__ import annotations

from typing import Final

from litestar.handlers import HTTPRouteHandler

HANDLERS: Final[list[HTTPRouteHandler]] = []
