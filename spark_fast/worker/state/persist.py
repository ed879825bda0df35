"""Values that outlive a reload of the code."""

import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from spark_fast.worker.state.mappings import replace_items

__all__ = ["clear_all_persisted", "clear_persisted", "has_persisted", "persist", "restore", "snapshot"]

Value = TypeVar("Value")

_values: dict[str, object] = {}
_lock = threading.RLock()


class _Making:
    """A key whose value is being made."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.thread: int | None = None


_making: dict[str, _Making] = {}


def persist(key: str, initializer: Callable[[], Value]) -> Value:
    """The value of this key; made by `initializer()` the first time in the life of the process.

    What is persisted lives on when the code is replaced, and its classes run the new methods. Costs some 100 ns once
    the value is there. Threads that ask for one key at the same time run one initializer; an initializer may persist
    other keys. One that raises stores nothing, and the next call runs one again. Raises RuntimeError if an initializer
    asks for its own key. A forked child has what its parent had. `spark-fast reset` starts a process with nothing.
    """
    try:
        return _values[key]  # type: ignore[return-value]
    except KeyError:
        pass
    if not callable(initializer):
        raise TypeError(f"persist({key!r}, …) wants a function that makes the value: persist({key!r}, lambda: …)")
    if "IPython" in sys.modules:
        from spark_fast.worker.reload import notebook

        notebook.attend()
    with _lock:
        making = _making.setdefault(key, _Making())
    if making.thread == threading.get_ident():
        raise RuntimeError(f"the initializer of {key!r} asks for {key!r} itself")
    with making.lock:
        # Another thread may take back, or forget, what is stored meanwhile.
        value: object = _values.get(key, making)
        if value is making:
            making.thread = threading.get_ident()
            try:
                value = _values[key] = initializer()
            finally:
                making.thread = None
    with _lock:
        _making.pop(key, None)
    return value  # type: ignore[return-value]


def has_persisted(key: str) -> bool:
    """Whether a value is stored under this key."""
    return key in _values


def clear_persisted(key: str) -> bool:
    """Forgets the value of this key: the next persist() makes a new one. Whether there was one."""
    return _values.pop(key, _values) is not _values


def clear_all_persisted() -> None:
    """Forgets all values."""
    _values.clear()


def snapshot() -> dict[str, object]:
    """What is stored now, for restore()."""
    return dict(_values)


def restore(values: dict[str, object]) -> None:
    """Stores what a snapshot had, and nothing else: new code that failed leaves no value behind."""
    replace_items(_values, values)


def forget_after_fork() -> None:
    # Another thread of the parent may have been in the middle of it.
    global _lock
    _lock = threading.RLock()
    _making.clear()
