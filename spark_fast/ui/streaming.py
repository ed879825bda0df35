"""The stream of changes, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from spark_fast.ui.api import ERRORS
from spark_fast.ui.state import Server, State

__all__ = ["router"]

router = APIRouter(responses=ERRORS)

_ALIVE = 10.0
"""Seconds without an event after which a comment shows that the connection still stands."""


@router.get(
    "/api/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The events"}},
)
async def stream(
    server: Server, run: Annotated[str | None, Query(description="A run that the stream shows in full.")] = None
) -> StreamingResponse:
    """Stream the whole state, and then each change. The stream does not end."""
    return StreamingResponse(_events(server, run), media_type="text/event-stream")


async def _events(server: State, run: str | None) -> AsyncIterator[bytes]:
    bell = asyncio.Event()
    server.bells.add(bell)
    server.poller.feed.bells.add(bell)
    feeds = [server.poller.feed]
    if run is not None:
        feeds.append(server.watchers.enter(run, bell))
    try:
        await server.poller.look()
        server.poller.hurry()
        yield b"retry: 1000\n\n"
        last: list[int | None] = [None] * len(feeds)
        while not server.closing:
            bell.clear()
            news = b""
            for index, feed in enumerate(feeds):
                number, text = feed.since(last[index])
                last[index] = number
                news += text
            if news:
                yield news
                continue
            try:
                async with asyncio.timeout(_ALIVE):
                    await bell.wait()
            except TimeoutError:
                yield b": still here\n\n"
    finally:
        server.bells.discard(bell)
        server.poller.feed.bells.discard(bell)
        if run is not None:
            server.watchers.leave(run, bell)
