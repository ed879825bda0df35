"""Where the server does what may block, so that its event loop never does.

What reads memory and small files goes to one pool; what may wait for the lock of a run goes to another, a few at a time
for each run, the others in line for a second: a run whose lock is kept by somebody takes no thread from the others.
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
"""How many threads one run gets at most."""
_IN_LINE = 16
"""How many wait at most until one of these is free: milliseconds, unless somebody keeps the lock of the run."""
_PATIENCE = 1.0
"""Seconds for which they wait."""
_READERS = 4


class BusyError(Exception):
    """Too much has been asked for already. It says what, for people."""


class Threads:
    """The threads of one server."""

    def __init__(self) -> None:
        self._readers = ThreadPoolExecutor(_READERS, "read")
        self._askers = ThreadPoolExecutor(_ASKERS, "ask")
        self._asked: Counter[str] = Counter()
        self._seats: dict[str, asyncio.Semaphore] = {}

    async def read(self, look: Callable[[], _Result]) -> _Result:
        """The result of a function that takes milliseconds and waits for nobody."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, look)

    async def ask(self, run: str, send: Callable[[], _Result]) -> _Result:
        """The result of a function that may wait for other senders of a run. BusyError if too many do already, or if
        those that were asked before are not done in a second."""
        busy = BusyError(f"too much was asked of run {run} at once: another sender holds its log")
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
        """How many functions are at work, or wait, for a run."""
        return self._asked[run]

    def _leave(self, run: str, seats: asyncio.Semaphore | None = None) -> None:
        if seats is not None:
            seats.release()
        self._asked[run] -= 1
        if not self._asked[run]:
            del self._asked[run], self._seats[run]

    def close(self) -> None:
        """Waits for nothing: what was sent is sent."""
        for pool in (self._readers, self._askers):
            pool.shutdown(wait=False, cancel_futures=True)
