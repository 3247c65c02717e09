"""The routes `GET /v1/jobs/{job}/stream` and `GET /v1/stream`.

An EventSource that comes back and gets 204, 401, 429, 500 or 503 stays away for good. So who was connected before
(`Last-Event-ID`) and can't be served now gets 200, a `retry:` and the end; 204 says only "ended, and you have it all".
"""

from __future__ import annotations

from typing import Final

from api.problems import ApiError, Stopping, kind_of
from api.requests import Exchange
from api.services import Services
from api.streams import frames
from api.streams.asked import Asked, ask_for_job, ask_for_log
from api.streams.link import HEADERS
from api.streams.subscriber import Subscriber, reauth

LATER: Final = (5.0, 30.0)  # seconds after which who was sent away comes back


async def job_stream(services: Services, exchange: Exchange) -> None:
    """A job: its snapshot, then what follows."""
    assert exchange.job_id is not None
    await _stream(services, exchange, ask_for_job(exchange, exchange.job_id))


async def log_stream(services: Services, exchange: Exchange) -> None:
    """The log, or some jobs of it."""
    await _stream(services, exchange, ask_for_log(exchange, exchange.principal))


async def _stream(services: Services, exchange: Exchange, asked: Asked) -> None:
    if exchange.grant is not None and exchange.grant.expired:
        await _send_away(exchange, reauth("expired"))
        services.metrics.stream_ended("reauth")
        return
    try:
        if services.stopping.is_set():
            raise Stopping("this server stops: come back in a moment")
        with services.limits.open_stream(exchange.principal):
            await Subscriber(services.streams, services.tenant(exchange.principal), exchange, asked).run()
    except Exception as error:
        kind = kind_of(error)
        if exchange.answered or not asked.reconnects or (kind.retry_after is None and kind.status != 429):
            raise
        services.metrics.stream_ended(error.code if isinstance(error, ApiError) else "unavailable")
        await _send_away(exchange, frames.some_time(*LATER))


async def _send_away(exchange: Exchange, words: bytes) -> None:
    await exchange.send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
    await exchange.send({"type": "http.response.body", "body": words, "more_body": False})
