"""Whose value or call goes next, where the pages and scripts of one server ask a run for more than its share.

To a run the server is one sender. Its clients take turns, so that one which asks without a pause holds up itself: it
waits here, where it takes no thread, and another's next request is sent before its second.
"""

import asyncio
from collections import OrderedDict, deque

from spark_fast.client.rate_limit import TokenBucket
from spark_fast.ui.threads import BusyError

__all__ = ["Turns"]

_RUNS = 256
_WAITING = 256
_WAITING_OF_CLIENT = 16


class Turns:
    """The turns at all runs."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    async def take(self, run: str, client: str) -> None:
        """Waits for the client's turn. BusyError if too many of its requests, or of all, wait already."""
        line = self._lines.get(run)
        if line is None:
            if len(self._lines) >= _RUNS:
                self._lines = {name: each for name, each in self._lines.items() if not each.idle}
            line = self._lines[run] = _Line(run)
        await line.take(client)

    def close(self) -> None:
        """Whoever waits is told that it is over."""
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
            raise BusyError(f"more values and calls were asked of run {self._run} than are sent in some seconds")
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
