"""The store that a `torch.distributed` job has: a TCPStore, under torchrun that of its agent.

    tcp://<host>:<port>/<prefix>

Torch is imported by the process that opens the store, and by no other. Its client waits for an answer for as long as
the connection lives, which one over a cut link may do for a quarter of an hour; so calls run in a thread beside, and
are given up when their time is over, together with the connection.
"""

import os
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from spark_fast.hosts.store import StoreGoneError, StoreSlowError

__all__ = ["TcpStore"]

_Result = TypeVar("_Result")

_ABSENT = b"\x00absent"
"""No value of ours. A swap of this for this changes nothing, and tells what stands there without waiting for it."""


class _Hand:
    """A thread that makes calls, one at a time. It is a daemon, so that a call that never returns keeps nobody."""

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
            del call, function, result  # a store that is given up is closed when nothing holds it

    def run(self, function: Callable[[], _Result], timeout: float) -> _Result:
        """What it returns or raises; StoreGoneError if that takes too long. Then this hand is of no use any more."""
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
        self._calls.put(None)


class TcpStore:
    """See Store. address: what follows `tcp://`; timeout: seconds that a call may take."""

    def __init__(self, address: str, timeout: float) -> None:
        place, _, prefix = address.partition("/")
        host, _, port = place.rpartition(":")
        self._timeout = timeout
        self._hand = _Hand()
        self._gone = False
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # it tells standard error of each wait that ran out
        distributed: Any = import_module("torch.distributed")

        def connect() -> Any:
            client = distributed.TCPStore(
                host.strip("[]"), int(port), None, False, timedelta(seconds=timeout), wait_for_workers=False
            )
            return distributed.PrefixStore(prefix or "spark_fast", client)

        self._store = self._call(connect, timeout + 1)
        self.get("job")  # connecting is half of it: what answers may be no store

    def _call(self, function: Callable[[], _Result], timeout: float | None = None) -> _Result:
        if self._gone:
            raise StoreGoneError("the connection to the job's store is lost")
        try:
            return self._hand.run(function, timeout or self._timeout)
        except StoreGoneError:
            self._gone = True
            raise
        except (RuntimeError, OSError) as error:  # all of torch's own errors are RuntimeErrors
            self._gone = True
            self._hand.close()
            said = str(error).splitlines() or [repr(error)]
            raise StoreGoneError(f"the job's store can't be reached: {said[0]}") from None

    def get(self, key: str) -> bytes | None:
        found: bytes = self._call(lambda: self._store.compare_set(key, _ABSENT, _ABSENT))
        return None if found == _ABSENT else found

    def set(self, key: str, value: bytes) -> None:
        self._call(lambda: self._store.set(key, value))

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        found: bytes = self._call(lambda: self._store.compare_set(key, expected or b"", desired))
        return found

    def wait(self, key: str, timeout: float) -> bytes | None:
        end = time.monotonic() + timeout
        while True:
            left = max(end - time.monotonic(), 0.001)
            if not self._call(partial(self._woken, key, left), left + self._timeout):
                return None
            found = self.get(key)
            # Whoever only looks for what is not there, as get() does, wakes those that wait for it too.
            if found is not None or time.monotonic() >= end:
                return found

    def _woken(self, key: str, timeout: float) -> bool:
        try:
            self._store.wait([key], timedelta(seconds=timeout))
        except RuntimeError as error:
            if "wait timeout" not in str(error):
                raise
            return False
        return True

    def delete(self, key: str) -> None:
        self._call(lambda: self._store.delete_key(key))

    def close(self) -> None:
        self._gone = True
        self._hand.close()
