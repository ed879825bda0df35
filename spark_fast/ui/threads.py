"""The threads for all work that may block, so that the event loop of the server never does.

One pool reads memory and small files. Another sends requests, which may have to wait for the lock of a run. Each run
gets a few of its threads at a time, and further requests wait a second for one. So a run whose lock is held takes no
thread from the others.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["BusyError", "Threads"]

_Result = TypeVar("_Result")

_ASKERS = 32
_ASKS_WAITING = 256
_ASKS_OF_RUN = 4
"""Threads that one run gets at most."""
_IN_LINE = 16
"""Requests of one run that wait for a thread at most: for milliseconds, unless the lock of the run is held."""
_PATIENCE = 1.0
"""Seconds for which they wait at most."""
_READERS = 4


class BusyError(Exception):
    """Too many requests wait already. The message says where."""


class Threads:
    """The threads of one server."""

    def __init__(self) -> None:
        self._readers = ThreadPoolExecutor(_READERS, "read")
        self._askers = ThreadPoolExecutor(_ASKERS, "ask")
        self._asked: Counter[str] = Counter()
        self._seats: dict[str, asyncio.Semaphore] = {}

    async def read(self, look: Callable[[], _Result]) -> _Result:
        """Return the result of a function that takes milliseconds and waits for no lock."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, look)

    async def ask(self, run: str, send: Callable[[], _Result]) -> _Result:
        """Return the result of a function that may wait for other senders of a run.

        Raise BusyError if too many wait already, or if no thread is free within a second.
        """
        busy = BusyError(f"too many requests wait for run {run}: another sender holds its log")
        if self._asked[run] >= _ASKS_OF_RUN + _IN_LINE or self._asked.total() >= _ASKS_WAITING:
            raise busy
        self._asked[run] += 1
        seats = self._seats.setdefault(run, asyncio.Semaphore(_ASKS_OF_RUN))
        try:
            async with asyncio.timeout(_PATIENCE):
                await seats.acquire()
        except TimeoutError:
            self._leave(run)
            raise busy from None
        except BaseException:
            self._leave(run)
            raise
        try:
            future = asyncio.get_running_loop().run_in_executor(self._askers, send)
        except BaseException:
            self._leave(run, seats)
            raise
        future.add_done_callback(lambda _: self._leave(run, seats))
        return await future

    def asked(self, run: str) -> int:
        """Return how many functions work or wait for a run."""
        return self._asked[run]

    def _leave(self, run: str, seats: asyncio.Semaphore | None = None) -> None:
        if seats is not None:
            seats.release()
        self._asked[run] -= 1
        if not self._asked[run]:
            del self._asked[run], self._seats[run]

    def close(self) -> None:
        """End the threads without waiting for them: a request that was sent stays sent."""
        for pool in (self._readers, self._askers):
            pool.shutdown(wait=False, cancel_futures=True)
