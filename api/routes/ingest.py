"""Appending over HTTP: `POST /v1/jobs/{job}/events` and `POST /v1/events`."""

from __future__ import annotations

import msgspec

from api.problems import MalformedRequest
from api.requests import Exchange
from api.services import Services
from eventstore.events import NewEvent

_decode = msgspec.json.Decoder(NewEvent | list[NewEvent]).decode


async def append_to_job(services: Services, exchange: Exchange) -> None:
    """One event, or an array of them, to one job."""
    job_id = exchange.job_id
    assert job_id is not None
    body = await exchange.body()
    try:
        given = _decode(body)
    except msgspec.MsgspecError as error:
        raise MalformedRequest(str(error)) from None
    events = given if isinstance(given, list) else [given]
    answers = await services.tenant(exchange.principal).writer.append(job_id, events)
    new = any(not answer.duplicate for answer in answers)
    await exchange.respond_json(
        201 if new else 200,
        {"events": [{"position": answer.position, "cursor": answer.cursor} for answer in answers]},
    )


async def append_to_many(services: Services, exchange: Exchange) -> None:
    """Events of many jobs."""
    del services, exchange
    raise MalformedRequest("not yet")
