"""Values that outlive a reload of the code: persist(), has_persisted() and so on."""

import threading
from collections.abc import Callable
from typing import TypeVar

from spark_fast.worker.state.mappings import replace_items

__all__ = ["Persisted", "clear_all_persisted", "clear_persisted", "current", "has_persisted", "persist"]

Value = TypeVar("Value")


class _Making:
    """The lock of a key whose value is being made, and the thread that makes it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.thread: int | None = None


class Persisted:
    """The values of this process that outlive a reload, by key."""

    def __init__(self) -> None:
        self._values: dict[str, object] = {}
        self._lock = threading.RLock()
        self._making: dict[str, _Making] = {}
        """The makings in progress, by key."""
        self.before_making: Callable[[], object] = bool
        """Called before a value is made. The package replaces it, to patch a notebook's cells."""

    def get(self, key: str, initializer: Callable[[], Value]) -> Value:
        """Return the value of this key, made by `initializer()` if there is none: see persist()."""
        try:
            return self._values[key]  # type: ignore[return-value]
        except KeyError:
            pass
        if not callable(initializer):
            raise TypeError(f"persist({key!r}, …) wants a function that makes the value: persist({key!r}, lambda: …)")
        self.before_making()
        with self._lock:
            making = self._making.setdefault(key, _Making())
        if making.thread == threading.get_ident():
            raise RuntimeError(f"the initializer of {key!r} asks for {key!r} itself")
        with making.lock:
            # One look-up, since another thread may remove the stored value at any time.
            value: object = self._values.get(key, making)
            if value is making:
                making.thread = threading.get_ident()
                try:
                    value = self._values[key] = initializer()
                finally:
                    making.thread = None
        with self._lock:
            self._making.pop(key, None)
        return value  # type: ignore[return-value]

    def has(self, key: str) -> bool:
        """Return whether there is a value of this key."""
        return key in self._values

    def clear(self, key: str) -> bool:
        """Forget the value of this key; return whether there was one."""
        return self._values.pop(key, self._values) is not self._values

    def clear_all(self) -> None:
        """Forget all values."""
        self._values.clear()

    def snapshot(self) -> dict[str, object]:
        """Return the present values, for restore()."""
        return dict(self._values)

    def restore(self, values: dict[str, object]) -> None:
        """Keep the values of a snapshot and no others, so that new code that failed leaves no value behind."""
        replace_items(self._values, values)

    def after_fork(self) -> None:
        """Forget, in a forked child, what other threads of the parent were making, and the lock that one may hold."""
        self._lock = threading.RLock()
        self._making.clear()


current = Persisted()
"""The persisted values of this process. Its forked children inherit them."""


def persist(key: str, initializer: Callable[[], Value]) -> Value:
    """Return the value of this key, made by `initializer()` the first time in the life of the process.

    A persisted value lives on when a reload replaces the code, and its methods are then those of the new code. A call
    costs some 100 ns once the value exists. If several threads ask for one key at the same time, one initializer runs.
    An initializer may persist other keys. If it raises, nothing is stored, and the next call runs an initializer again.
    Raises RuntimeError if an initializer asks for its own key. A forked child inherits its parent's values.
    `spark-fast reset` starts a process without any.
    """
    return current.get(key, initializer)


def has_persisted(key: str) -> bool:
    """Return whether a value is stored under this key."""
    return current.has(key)


def clear_persisted(key: str) -> bool:
    """Forget the value of this key, so that the next persist() makes a new one; return whether there was one."""
    return current.clear(key)


def clear_all_persisted() -> None:
    """Forget all values."""
    current.clear_all()
