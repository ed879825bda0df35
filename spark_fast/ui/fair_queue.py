"""A fair queue of the clients of one server that set values of a run or call its functions.

A run takes only so many values and calls a second from one sender, and the whole server is one sender. Its clients take
turns: one that asks without a pause waits here, without a thread, and the next request of another client goes first.
"""

import asyncio
from collections import OrderedDict, deque

from spark_fast.client.rate_limit import TokenBucket
from spark_fast.ui.threads import BusyError

__all__ = ["FairQueue"]

_RUNS = 256
_WAITING = 256
_WAITING_OF_CLIENT = 16


class FairQueue:
    """The clients that wait, for each run."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    async def take(self, run: str, client: str) -> None:
        """Wait for the client's turn. Raise BusyError if too many of its requests, or of all clients, wait already."""
        line = self._lines.get(run)
        if line is None:
            if len(self._lines) >= _RUNS:
                self._lines = {name: each for name, each in self._lines.items() if not each.idle}
            line = self._lines[run] = _Line(run)
        await line.take(client)

    def close(self) -> None:
        """End all waiting: take() raises BusyError."""
        for line in self._lines.values():
            line.close()


class _Line:
    def __init__(self, run: str) -> None:
        self._run = run
        self._share = TokenBucket()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        return not self._waiting and self._share.full

    async def take(self, client: str) -> None:
        if not self._waiting and self._share.wait() == 0:
            self._share.take()
            return
        if len(self._waiting.get(client, ())) >= _WAITING_OF_CLIENT or self._count() >= _WAITING:
            raise BusyError(f"too many values and calls wait for run {self._run} already")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        if self._timer is None:
            self._come_back()
        await turn

    def close(self) -> None:
        while self._waiting:
            turn = self._next()
            if not turn.done():
                turn.set_exception(BusyError("the server ends"))

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _next(self) -> "asyncio.Future[None]":
        client, turns = self._waiting.popitem(last=False)
        turn = turns.popleft()
        if turns:
            self._waiting[client] = turns  # behind the others
        return turn

    def _come_back(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._share.wait(), self._let_go_on)

    def _let_go_on(self) -> None:
        self._timer = None
        while self._waiting and self._share.wait() == 0:
            turn = self._next()
            if not turn.done():  # its client may have gone
                turn.set_result(None)
                self._share.take()
        if self._waiting:
            self._come_back()
