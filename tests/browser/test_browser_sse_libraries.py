"""Streams as Python reads them: httpx-sse, aiohttp-sse-client, and this project's own clients. See `ordeal.py`.

The first two leave it to their caller to connect again, so their readers do what their manuals say: with the last id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout
from aiohttp_sse_client.client import EventSource
from httpx_sse import connect_sse

import headway
from headway.client import Event
from tests.browser.ordeal import LAST_WORDS, Ordeal, ordeal
from tests.support.relays import until


class Reader:
    """What both libraries' readers do with a frame, and with the end of a connection."""

    def __init__(self, it: Ordeal) -> None:
        self.ids: list[str] = []
        self.over = False
        self._it = it
        self.renew()

    def renew(self) -> None:
        self.url = f"{self._it.url}/v1/stream?after=0&token={self._it.token()}"

    def headers(self) -> dict[str, str]:
        return {"Last-Event-ID": self.ids[-1]} if self.ids else {}

    def take(self, event: str | None, data: str, ident: str) -> bool:
        """Whether to go on with this connection."""
        if event == "reauth":
            self.renew()
            return False
        if event not in (None, "message"):
            return True
        self.ids.append(ident)
        self.over = json.loads(data)["data"]["message"] == LAST_WORDS
        return not self.over


def test_httpx_sse_misses_nothing_and_sees_nothing_twice(database_url: str) -> None:
    with ordeal(database_url, seed=3) as it, httpx.Client(timeout=60) as client:
        reader = Reader(it)

        def read() -> bool:
            try:
                with connect_sse(client, "GET", reader.url, headers=reader.headers()) as source:
                    for frame in source.iter_sse():
                        if not reader.take(frame.event, frame.data, frame.id):
                            break
            except httpx.TransportError:
                pass
            return reader.over

        with it.telling():
            until(read, 150)
        it.judge(reader.ids)


@pytest.mark.anyio
async def test_aiohttp_sse_client_misses_nothing_and_sees_nothing_twice(database_url: str) -> None:
    with ordeal(database_url, seed=4) as it:
        reader = await anyio.to_thread.run_sync(Reader, it)
        async with anyio.create_task_group() as tasks, ClientSession(timeout=ClientTimeout(sock_read=60)) as session:
            tasks.start_soon(anyio.to_thread.run_sync, it.tell_everything)
            with anyio.fail_after(150):
                while not reader.over:
                    await read_with_aiohttp(reader, session)
        await anyio.to_thread.run_sync(it.judge, reader.ids)


async def read_with_aiohttp(reader: Reader, session: ClientSession) -> None:
    try:
        async with EventSource(reader.url, session=session, headers=reader.headers()) as source:
            async for frame in source:
                going_on = await anyio.to_thread.run_sync(reader.take, frame.type, frame.data, frame.last_event_id)
                if not going_on:
                    break
    except (ClientError, ConnectionError):
        await anyio.sleep(0.02)


def test_the_clients_own_follower_misses_nothing_and_sees_nothing_twice(database_url: str) -> None:
    with ordeal(database_url, seed=5) as it, headway.Client(it.url, token=it.token) as client:
        with it.telling():
            ids = list(until_the_end(client.follow(after=0)))
        it.judge(ids)


def until_the_end(follower: headway.client.Follower) -> Iterator[str]:
    for event in follower:
        yield event.cursor
        if is_last(event):
            return


def is_last(event: Any) -> bool:
    return isinstance(event, Event) and event.data["message"] == LAST_WORDS


@pytest.mark.anyio
async def test_the_asynchronous_follower_misses_nothing_and_sees_nothing_twice(database_url: str) -> None:
    ids: list[str] = []
    with ordeal(database_url, seed=6) as it:
        async with anyio.create_task_group() as tasks, headway.AsyncClient(it.url, token=it.token) as client:
            tasks.start_soon(anyio.to_thread.run_sync, it.tell_everything)
            async with client.follow(after=0) as follower:
                async for event in follower:
                    ids.append(event.cursor)
                    if is_last(event):
                        break
        await anyio.to_thread.run_sync(it.judge, ids)
