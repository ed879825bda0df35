"""Where the server does what may block, so that its event loop never does.

What reads memory and small files goes to one pool; what may wait for the lock of a run goes to another, a few at a time
for each run: a run whose lock is kept by somebody takes no thread from the others.
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
_READERS = 4


class BusyError(Exception):
    """Too much has been asked for already. It says what, for people."""


class Threads:
    """The threads of one server."""

    def __init__(self) -> None:
        self._readers = ThreadPoolExecutor(_READERS, "read")
        self._askers = ThreadPoolExecutor(_ASKERS, "ask")
        self._asked: Counter[str] = Counter()

    async def read(self, look: Callable[[], _Result]) -> _Result:
        """The result of a function that takes milliseconds and waits for nobody."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, look)

    async def ask(self, run: str, send: Callable[[], _Result]) -> _Result:
        """The result of a function that may wait for other senders of a run. BusyError if too many do already."""
        if self._asked[run] >= _ASKS_OF_RUN or self._asked.total() >= _ASKS_WAITING:
            raise BusyError(f"too much was asked of run {run} at once: another sender holds its log")
        self._asked[run] += 1
        try:
            future = asyncio.get_running_loop().run_in_executor(self._askers, send)
            future.add_done_callback(lambda _: self._done(run))
        except BaseException:
            self._done(run)
            raise
        return await future

    def asked(self, run: str) -> int:
        """How many functions are at work, or wait, for a run."""
        return self._asked[run]

    def _done(self, run: str) -> None:
        self._asked[run] -= 1
        if not self._asked[run]:
            del self._asked[run]

    def close(self) -> None:
        """Waits for nothing: what was sent is sent."""
        for pool in (self._readers, self._askers):
            pool.shutdown(wait=False, cancel_futures=True)
