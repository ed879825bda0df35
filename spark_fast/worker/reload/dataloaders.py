"""DataLoaders that are asked for an iterator which nobody will use.

A script that runs again after a reload comes to `track(enumerate(loader), key=…)`: that makes an iterator of the loader
before `track()` can say that it goes on with the one that it had. A PyTorch DataLoader then draws from the random
generator and starts its workers; one with persistent workers begins the epoch over, under the iterator that is in use.
So while new code is on trial, a loader's iterator is made when it is first asked for an item.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["defer", "settle"]

_deferred: dict[type, tuple[Callable[..., object], Callable[..., object]]] = {}
"""The classes whose `__iter__` is replaced: what stands there, and what stood there."""


class _Later:
    """The iterator of a loader that is made when somebody uses it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def _begun(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        return next(self._begun())

    def __len__(self) -> int:
        return len(self._begun())

    def __getattr__(self, name: str) -> object:
        return getattr(self._begun(), name)


def defer(thread: int) -> None:
    """From here on, until settle(), a DataLoader that this thread asks for an iterator makes it when it is used."""
    base = getattr(sys.modules.get("torch.utils.data"), "DataLoader", None)
    if not isinstance(base, type):
        return
    for each in _tree(base):
        if "__iter__" in vars(each) and each not in _deferred:
            before = vars(each)["__iter__"]
            _deferred[each] = _deferring(before, thread), before
            each.__iter__ = _deferred[each][0]  # type: ignore[attr-defined]


def _tree(base: type) -> Iterator[type]:
    yield base
    below: list[type] = base.__subclasses__()
    for each in below:
        yield from _tree(each)


def _deferring(inner: Callable[..., object], thread: int) -> Callable[..., object]:
    def begin(self: object) -> object:
        if threading.get_ident() != thread:
            return inner(self)
        return _Later(lambda: inner(self))

    return begin


def settle() -> None:
    """Loaders make their iterators at once again."""
    while _deferred:
        each, (ours, before) = _deferred.popitem()
        if vars(each).get("__iter__") is ours:  # and not what new code has put there
            each.__iter__ = before  # type: ignore[attr-defined]
