"""What only the garbage collector knows: who holds an object, and which functions run a closure's old code."""

import gc
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, FunctionType
from typing import Any

from spark_fast._core import frozen_referrers
from spark_fast.worker.reload.patching.functions import attributes_of, parts

__all__ = [
    "REFERENCES_OF_A_CALL",
    "can_replace",
    "contents",
    "escaped_functions",
    "nested_pairs",
    "referrers",
    "swap_living_code",
    "tells_others",
]

_FROZEN_BY_PYTHON = 1000
"""Some versions of CPython freeze a few hundred objects as they start. A gc.freeze() of the user's takes thousands."""

_NEVER_KEPT = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}


def tells_others(cls: type) -> bool:
    """Whether making this class ran code of a library or a project that may have kept it somewhere."""
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
    """Those pairs of which something outside of this class holds the first function: a decorator has put it away."""
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


REFERENCES_OF_A_CALL = next(map(sys.getrefcount, [object()])) - 1
"""What the call itself adds to a count of references; versions of CPython differ in it."""


def referrers(sought: Sequence[object]) -> list[Any]:
    """What holds one of these objects, as far as the garbage collector knows it; also what gc.freeze() hides."""
    if gc.get_freeze_count() > _FROZEN_BY_PYTHON:
        return frozen_referrers(tuple(sought))
    return gc.get_referrers(*sought)


def contents(holder: object) -> list[Any]:
    """What an object holds, as far as the garbage collector knows it."""
    return gc.get_referents(holder)


def swap_living_code(
    changed: list[tuple[CodeType, CodeType]], lambdas: list[tuple[dict[str, Any], dict[CodeType, CodeType]]]
) -> None:
    """Gives functions that live on, and that no name of a module leads to, the new code of their place.

    changed: old and new code of the functions that were changed themselves; what was made inside them is meant.
    lambdas: namespaces, and old and new code of the lambdas in them that stand outside of functions.
    """
    news: dict[int, CodeType] = {}
    sought: list[object] = []
    for old, new in changed:
        for inner_old, inner_new in nested_pairs(old, new):
            news[id(inner_old)] = inner_new
            sought.append(inner_old)
    by_value = [(namespace, pairs) for namespace, pairs in lambdas if pairs]
    sought += [namespace for namespace, _ in by_value]
    if not sought:
        return
    for holder in referrers(sought):
        if not isinstance(holder, FunctionType):
            continue
        code = news.get(id(holder.__code__))
        for namespace, pairs in by_value:
            if code is None and holder.__globals__ is namespace:
                code = pairs.get(holder.__code__)
        if code is not None:
            holder.__code__ = code


def can_replace(old: CodeType, new: CodeType) -> bool:
    """Whether a function of the old code, with its closure and its defaults, can have the new one."""
    shapes = [
        (
            code.co_freevars,
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount],
        )
        for code in (old, new)
    ]
    return shapes[0] == shapes[1]


def nested_pairs(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]]:
    """Nested code of the same qualified name that can be replaced and is not the same."""
    found: list[tuple[CodeType, CodeType]] = []
    had, has = _by_name(old), _by_name(new)
    for name, olds in had.items():
        news = has.get(name, [])
        if len(news) != len(olds):
            continue  # one lambda among several may have gone: no telling which
        for inner_old, inner_new in zip(olds, news, strict=True):
            if inner_old != inner_new:
                if name.rpartition(".")[2] not in _NEVER_KEPT and can_replace(inner_old, inner_new):
                    found.append((inner_old, inner_new))
                found += nested_pairs(inner_old, inner_new)
    return found


def _by_name(code: CodeType) -> dict[str, list[CodeType]]:
    found: defaultdict[str, list[CodeType]] = defaultdict(list)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found[const.co_qualname].append(const)
    return found
