"""Loops that pass a checkpoint before each item: track()."""

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
    """Iterate over `iterable` with a `checkpoint()` before each item, and show the progress in the status.

    Args:
        iterable: any iterable, reusable if you iterate over the result more than once.
        total: the number of items, for progress and the time left. Default: `len(iterable)` if it has one.
        key: a name under which the loop keeps its place through a reload of the code. The loop of the new code that
            has this key goes on with the *same iterator*; its own `iterable` is used only if no iterator is kept.
            The loop goes on with the next item, and none is lost. If the reload left the body of an item, at a
            checkpoint there, the loop yields that item once more. A loop that ends, also by `break` or an exception,
            forgets its place. Put a counter inside: `track(enumerate(loader), key="batch")`. A generator that itself
            passes checkpoints begins anew.

    At its end the loop passes one more checkpoint. Loops may be nested; four levels are shown. An item costs a fraction
    of what it costs with `tqdm`: the GIL is yielded at most every 50 µs. Raises what `checkpoint()` raises. If you go
    on iterating after that, the loop continues with the item before which the checkpoint was. Raises RuntimeError if a
    living loop has the same key. Any thread may iterate, each over its own track().
    """
    if total is None:
        try:
            hint = operator.length_hint(iterable, -1)
        except Exception:  # its __len__ raises, or its length does not fit: a plain loop would not call it
            hint = -1
        total = hint if hint >= 0 else None
    elif total < 0:
        raise ValueError(f"total is a number of items: {total}")
    if key is None:
        return Track(iterable, total)
    if not isinstance(key, str) or not key:
        raise TypeError(f"key is a name: {key!r}")
    return KeyedTrack(iterable, total, key, loops)
