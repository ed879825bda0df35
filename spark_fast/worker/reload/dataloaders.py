"""Makes the iterators of PyTorch's DataLoaders lazily while new code is on probation.

A script that runs again after a reload comes to `track(enumerate(loader), key=…)`. Python makes the loader's iterator
before it calls `track()`, but `track()` goes on with the iterator that it had and never uses the new one. To make an
iterator, a DataLoader draws from the random generator and starts its workers. With persistent workers it even restarts
the epoch, under the iterator in use. So the new iterator is made only when it is first asked for an item.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["DeferredLoaders"]


class DeferredLoaders:
    """Replaces `__iter__` of DataLoader and its subclasses, from begin() to end()."""

    def __init__(self) -> None:
        # By class: the replacement of its __iter__, and the original.
        self._replaced: dict[type, tuple[Callable[..., object], Callable[..., object]]] = {}

    def begin(self, thread: int) -> None:
        """Make the iterators of DataLoaders lazily in this thread. Do nothing if PyTorch is not loaded."""
        base = getattr(sys.modules.get("torch.utils.data"), "DataLoader", None)
        if not isinstance(base, type):
            return
        for each in _with_subclasses(base):
            if "__iter__" in vars(each) and each not in self._replaced:
                before = vars(each)["__iter__"]
                self._replaced[each] = _deferring(before, thread), before
                each.__iter__ = self._replaced[each][0]  # type: ignore[attr-defined]

    def end(self) -> None:
        """Make iterators at once again, in all threads."""
        while self._replaced:
            each, (ours, before) = self._replaced.popitem()
            if vars(each).get("__iter__") is ours:  # else new code has replaced it
                each.__iter__ = before  # type: ignore[attr-defined]


class _Later:
    """An iterator of a loader that is made at its first use."""

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


def _with_subclasses(base: type) -> Iterator[type]:
    yield base
    below: list[type] = base.__subclasses__()
    for each in below:
        yield from _with_subclasses(each)


def _deferring(inner: Callable[..., object], thread: int) -> Callable[..., object]:
    def begin(self: object) -> object:
        if threading.get_ident() != thread:
            return inner(self)
        return _Later(lambda: inner(self))

    return begin
