"""What one server keeps while it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from spark_fast.ui.detail import Lookouts
from spark_fast.ui.fair_queue import Turns
from spark_fast.ui.polling import Poller
from spark_fast.ui.request_cache import Sent
from spark_fast.ui.threads import Threads

__all__ = ["Client", "Server", "State"]


class State:
    """The poller, the lookouts, the threads, the turns, and the requests that were sent from here."""

    def __init__(self) -> None:
        self.threads = Threads()
        self.turns = Turns()
        self.poller = Poller(self.threads)
        self.sent = Sent()
        self.lookouts = Lookouts(self.threads, self.sent)
        self.closing = False
        self.waiters = 0
        self.bells: set[asyncio.Event] = set()

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Looks at the runs while the app runs."""
        task = asyncio.create_task(self.poller.keep_looking())
        try:
            yield
        finally:
            self.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.threads.close()

    def close(self) -> None:
        """Ends the streams, and the waiting for turns."""
        self.closing = True
        self.turns.close()
        for bell in self.bells:
            bell.set()


async def _state(request: Request) -> State:  # async: others are called in a thread
    found = request.app.state.spark
    assert isinstance(found, State)
    return found


async def _client(request: Request) -> str:
    """The connection. Pages have connections of their own, also those of one person, or from behind one address."""
    return "" if request.client is None else f"{request.client.host} {request.client.port}"


Server = Annotated[State, Depends(_state)]
Client = Annotated[str, Depends(_client)]
