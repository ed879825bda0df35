"""Finds, with the garbage collector, the holders of an object, and the objects that it holds."""

import gc
import sys
from collections.abc import Sequence
from typing import Any

from spark_fast._core import frozen_referrers

__all__ = ["REFERENCES_OF_A_CALL", "contents", "referrers"]

_FROZEN_BY_PYTHON = 1000
"""Some versions of CPython freeze a few hundred objects as they start. The user's gc.freeze() freezes thousands."""

REFERENCES_OF_A_CALL = next(map(sys.getrefcount, [object()])) - 1
"""The references that a call of sys.getrefcount() itself adds. Versions of CPython differ in it."""


def referrers(sought: Sequence[object]) -> list[Any]:
    """Return the objects that hold one of these, as far as the garbage collector knows, also those of gc.freeze()."""
    if gc.get_freeze_count() > _FROZEN_BY_PYTHON:
        return frozen_referrers(tuple(sought))
    return gc.get_referrers(*sought)


def contents(holder: object) -> list[Any]:
    """Return the objects that an object holds, as far as the garbage collector knows."""
    return gc.get_referents(holder)
