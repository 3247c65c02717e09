"""The routes `GET /v1/jobs/{job}/stream` and `GET /v1/stream`."""

from __future__ import annotations

from api.problems import NotFound
from api.requests import Exchange
from api.services import Services


async def job_stream(services: Services, exchange: Exchange) -> None:
    """A job: its snapshot, then what follows."""
    del services, exchange
    raise NotFound("not yet")


async def log_stream(services: Services, exchange: Exchange) -> None:
    """The log, or some jobs of it."""
    del services, exchange
    raise NotFound("not yet")
