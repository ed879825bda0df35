"""The state of one server while it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from spark_fast.ui.detail import RunWatchers
from spark_fast.ui.fair_queue import FairQueue
from spark_fast.ui.polling import Poller
from spark_fast.ui.request_cache import RequestCache
from spark_fast.ui.threads import Threads

__all__ = ["Client", "Server", "State"]


class State:
    """The parts of the server that all its routes share."""

    def __init__(self) -> None:
        self.threads = Threads()
        self.queue = FairQueue()
        self.poller = Poller(self.threads)
        self.cache = RequestCache()
        self.watchers = RunWatchers(self.threads, self.cache)
        self.closing = False
        self.waiters = 0
        self.bells: set[asyncio.Event] = set()

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the poller while the app runs."""
        task = asyncio.create_task(self.poller.keep_looking())
        try:
            yield
        finally:
            self.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.threads.close()

    def close(self) -> None:
        """End the streams, and the waiting in the queue."""
        self.closing = True
        self.queue.close()
        for bell in self.bells:
            bell.set()


async def _state(request: Request) -> State:  # async, since FastAPI calls other functions in a thread
    found = request.app.state.spark
    assert isinstance(found, State)
    return found


async def _client(request: Request) -> str:
    """Return the name of the client: its connection. Each page has its own, even where several share an address."""
    return "" if request.client is None else f"{request.client.host} {request.client.port}"


Server = Annotated[State, Depends(_state)]
Client = Annotated[str, Depends(_client)]
