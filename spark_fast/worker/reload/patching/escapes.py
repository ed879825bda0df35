"""Checks whether other code may hold a class that was just made, or its functions."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from types import FunctionType

from spark_fast.worker.reload.patching.functions import attributes_of, parts
from spark_fast.worker.reload.patching.referrers import REFERENCES_OF_A_CALL, contents

__all__ = ["escaped_functions", "may_be_stored_by_others"]


def may_be_stored_by_others(cls: type) -> bool:
    """Return whether code of a library or the project ran when the class was made, and may have stored it somewhere."""
    hooks: list[tuple[type, tuple[str, ...]]] = [(base, ("__init_subclass__",)) for base in cls.__mro__[1:]]
    hooks += [(meta, ("__new__", "__init__")) for meta in _mro(type(cls))]
    hooks += [(kind, ("__set_name__",)) for value in vars(cls).values() for kind in _mro(type(value))]
    return any(name in vars(kind) for kind, names in hooks for name in names if not _is_standard(kind))


def _mro(cls: type) -> tuple[type, ...]:
    return cls.__mro__


def _is_standard(cls: type) -> bool:
    return str(cls.__module__).partition(".")[0] in sys.stdlib_module_names


def escaped_functions(
    cls: type, pairs: Iterable[tuple[FunctionType, FunctionType]]
) -> list[tuple[FunctionType, FunctionType]]:
    """Return the pairs whose first function is held outside of this class, since a decorator has stored it somewhere.

    pairs: discarded functions of the class, each with its replacement.
    """
    found = list(pairs)
    functions = [function for function, _ in found]
    held = Counter(id(function) for function in functions)
    held.update(id(pair[0]) for pair in found)
    for value in list(vars(cls).values()):
        held[id(value)] += 1
        for part in parts(value):
            held.update(_held_by(part))
    return [
        pair
        for pair, references in zip(found, map(sys.getrefcount, functions), strict=True)
        if references > held[id(pair[0])] + REFERENCES_OF_A_CALL
    ]


def _held_by(part: object) -> Iterator[int]:
    for thing in contents(part):
        yield id(thing)
        if type(thing) is dict and thing is attributes_of(part):
            yield from map(id, thing.values())
    if isinstance(part, FunctionType):
        for cell in part.__closure__ or ():
            yield from map(id, contents(cell))
