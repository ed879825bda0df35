"""Calls that may never return: a second thread makes them, so that the caller can give them up."""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from spark_fast.hosts.store import StoreSlowError

__all__ = ["CallThread"]

_Result = TypeVar("_Result")


class CallThread:
    """A thread that makes calls, one at a time. It is a daemon: a call that never returns doesn't keep the process."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], list[Any], threading.Event] | None]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._work, name="spark_fast store", daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, result, done = call
            try:
                result.append((True, function()))
            except Exception as error:
                result.append((False, error))
            done.set()
            del call, function, result  # a store that was given up is closed once nothing refers to it

    def run(self, function: Callable[[], _Result], timeout: float) -> _Result:
        """Call the function in the thread. Return its result, or raise its exception.

        Raises StoreSlowError if the call takes longer than `timeout` seconds. The thread then makes no other call.
        """
        result: list[Any] = []
        done = threading.Event()
        self._calls.put((function, result, done))
        if not done.wait(timeout):
            self._calls.put(None)
            raise StoreSlowError(f"the job's store has not answered for {timeout:.3g} s")
        fine, found = result[0]
        if not fine:
            raise found
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the thread after its current call."""
        self._calls.put(None)
