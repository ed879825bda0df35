"""Loops that pass a checkpoint before each item."""

import operator
from collections.abc import Iterable
from typing import TypeVar, overload

from spark_fast._core import KeyedTrack, Track
from spark_fast.worker.state import loops

__all__ = ["track"]

Item = TypeVar("Item")


@overload
def track(iterable: Iterable[Item], *, total: int | None = None) -> "Track[Item]": ...
@overload
def track(iterable: Iterable[Item], *, total: int | None = None, key: str) -> "KeyedTrack[Item]": ...
@overload
def track(
    iterable: Iterable[Item], *, total: int | None = None, key: str | None
) -> "Track[Item] | KeyedTrack[Item]": ...
def track(
    iterable: Iterable[Item], *, total: int | None = None, key: str | None = None
) -> "Track[Item] | KeyedTrack[Item]":
    """Iterates over `iterable` with a `checkpoint()` before each item, and shows in the status how far it is.

    Args:
        iterable: anything that can be iterated over; more than once if the result is.
        total: the number of items, for progress and the time left. Default: `len(iterable)` where it has one.
        key: a name under which the loop keeps its place through a reload of the code. The loop of the new code that
            has this key goes on with the *same iterator*: its `iterable` is looked at only if there is none. The very
            next item comes, none is lost; an item whose body had not come round, since a checkpoint within it was left,
            is handed out once more. A loop that ends, is broken out of, or raises, forgets its place. What counts along
            belongs inside: `track(enumerate(loader), key="batch")`. A generator that itself passes checkpoints is begun
            anew.

    One more checkpoint is passed when the end is reached. Loops may be nested; four levels are shown. Costs a fraction
    of a `tqdm` loop per item: the GIL is yielded no more often than each 50 µs. Raises what `checkpoint()` raises, and
    the item that it stood before is the next one if the loop is then continued. Raises RuntimeError if a living loop
    has the same key. Any thread may iterate, each over its own.
    """
    if total is None:
        try:
            hint = operator.length_hint(iterable, -1)
        except Exception:  # a __len__ that says that it can't, or more than fits: a bare loop would not ask
            hint = -1
        total = hint if hint >= 0 else None
    elif total < 0:
        raise ValueError(f"total is a number of items: {total}")
    if key is None:
        return Track(iterable, total)
    if not isinstance(key, str) or not key:
        raise TypeError(f"key is a name: {key!r}")
    return KeyedTrack(iterable, total, key, loops)
