"""The store of a `torch.distributed` job through PyTorch's own client: for servers whose protocol `tcp` does not speak.

The process that opens the store imports PyTorch. PyTorch's client waits for an answer as long as the connection lives,
which over a cut link may be a quarter of an hour. So a second thread makes the calls. A call whose time is over is
given
up, and so is the connection.
"""

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from spark_fast.hosts.call_thread import CallThread
from spark_fast.hosts.store import OneByOne, StoreGoneError, wait_for_values

__all__ = ["TorchStore"]

_Result = TypeVar("_Result")

_ABSENT = b"\x00absent"
"""No value of ours. Swapping it for itself changes nothing, and returns a key's value without waiting for one."""


class TorchStore(OneByOne):
    """See Store. address: what follows `tcp://`; timeout: seconds that a call may take."""

    def __init__(self, address: str, timeout: float) -> None:
        place, _, prefix = address.partition("/")
        host, _, port = place.rpartition(":")
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # else it writes to standard error when a wait times out
        distributed: Any = import_module("torch.distributed")
        self._timeout = timeout
        self._thread = CallThread()
        self._gone = False

        def connect() -> Any:
            client = distributed.TCPStore(
                host.strip("[]"), int(port), None, False, timedelta(seconds=timeout), wait_for_workers=False
            )
            return distributed.PrefixStore(prefix or "spark_fast", client)

        self._store = self._call(connect, timeout + 1)
        self.get("job")  # what has accepted the connection may be no store

    def _call(self, function: Callable[[], _Result], timeout: float | None = None) -> _Result:
        if self._gone:
            raise StoreGoneError("the connection to the job's store is lost")
        try:
            return self._thread.run(function, timeout or self._timeout)
        except StoreGoneError:
            self._gone = True
            raise
        except (RuntimeError, OSError) as error:  # all of torch's own errors are RuntimeErrors
            self._gone = True
            self._thread.close()
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
        return self.wait_many([key], timeout)[0]

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        def wait(end: float) -> None:
            left = max(end - time.monotonic(), 0.001)
            self._call(partial(self._woken, list(keys), left), left + self._timeout)

        return wait_for_values(wait, lambda: self.get_many(keys), timeout)

    def _woken(self, keys: list[str], timeout: float) -> bool:
        try:
            self._store.wait(keys, timedelta(seconds=timeout))
        except RuntimeError as error:
            if "wait timeout" not in str(error):
                raise
            return False
        return True

    def delete(self, *keys: str) -> None:
        for key in keys:
            self._call(partial(self._store.delete_key, key))

    def close(self) -> None:
        self._gone = True
        self._thread.close()
