"""A store in this process, as the hosts of a job share it, and as another user reaches it."""

import threading
import time
from collections.abc import Sequence

__all__ = ["MemoryStore"]


class MemoryStore:
    """See spark_fast.hosts.store.Store. Its values are open to tests, which do what another user could do."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def get(self, key: str) -> bytes | None:
        with self._changed:
            return self.values.get(key)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._changed:
            return [self.values.get(key) for key in keys]

    def set(self, key: str, value: bytes) -> None:
        with self._changed:
            self.values[key] = value
            self._changed.notify_all()

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        with self._changed:
            if self.values.get(key) == expected:
                self.values[key] = desired
                self._changed.notify_all()
            return self.values.get(key) or expected or b""

    def wait(self, key: str, timeout: float) -> bytes | None:
        return self._wait([key], timeout)[0]

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        return self._wait(keys, timeout)

    def _wait(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        end = time.monotonic() + timeout
        with self._changed:
            while not self.values.keys() >= set(keys) and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            return [self.values.get(key) for key in keys]

    def delete(self, *keys: str) -> None:
        with self._changed:
            for key in keys:
                self.values.pop(key, None)

    def close(self) -> None:
        """Nothing is held."""
