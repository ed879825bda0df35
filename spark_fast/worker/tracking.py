"""Loops that pass a checkpoint before each item."""

import operator
from collections.abc import Iterable
from typing import TypeVar

from spark_fast._core import Track

__all__ = ["track"]

Item = TypeVar("Item")


def track(iterable: Iterable[Item], *, total: int | None = None) -> "Track[Item]":
    """Iterates over `iterable` with a `checkpoint()` before each item, and shows in the status how far it is.

    Args:
        iterable: anything that can be iterated over; more than once if the result is.
        total: the number of items, for progress and the time left. Default: `len(iterable)` where it has one.

    One more checkpoint is passed when the end is reached. Loops may be nested; four levels are shown. Costs a fraction
    of a `tqdm` loop per item: the GIL is yielded no more often than each 50 µs. Raises what `checkpoint()` raises, and
    the item that it stood before is the next one if the loop is then continued.
    """
    if total is None:
        hint = operator.length_hint(iterable, -1)
        total = hint if hint >= 0 else None
    elif total < 0:
        raise ValueError(f"total is a number of items: {total}")
    return Track(iterable, total)
