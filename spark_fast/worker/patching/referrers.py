"""What only the garbage collector knows: who holds a class that was discarded, or a closure's old code."""

import gc
import sys
from collections import defaultdict
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

from spark_fast.worker.patching.functions import attributes_of
from spark_fast.worker.patching.undo import UndoLog

__all__ = ["can_replace", "replace_classes", "swap_living_code", "tells_others"]

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


def replace_classes(discarded: list[tuple[type, type]]) -> None:
    """Puts the class that lives on where the one that was discarded is held: in dicts, lists, sets, instances, cells.

    discarded: pairs of the class that was discarded and the one that lives on.

    Right whether or not the rest is undone, so this is not.
    """
    log = UndoLog()
    stands = {id(new): old for new, old in discarded}
    news = [new for new, _ in discarded]
    namespaces: list[dict[Any, Any]] = []
    for holder in gc.get_referrers(*news):
        if holder is news or isinstance(holder, (tuple, FrameType)):
            continue
        if isinstance(holder, dict) and "__module__" in holder and "__doc__" in holder:
            namespaces.append(holder)  # of a class, it seems, which caches what it finds in it
        elif isinstance(holder, dict):
            _replace_in_dict(holder, stands)
        elif type(holder) is list:
            kept = [old for old in holder if id(old) not in stands]
            for index in range(len(holder) - 1, -1, -1):
                old = stands.get(id(holder[index]))
                if old is not None and any(old is thing for thing in kept):
                    del holder[index]  # it had been put there before
                elif old is not None:
                    holder[index] = old
        elif type(holder) is set:
            for new in [thing for thing in holder if id(thing) in stands]:
                holder.discard(new)
                holder.add(stands[id(new)])
        elif isinstance(holder, CellType):
            holder.cell_contents = stands.get(id(holder.cell_contents), holder.cell_contents)
        elif isinstance(holder, type):
            if any(id(base) in stands for base in holder.__bases__) and id(holder) not in stands:
                log.set_bases(holder, tuple(stands.get(id(base), base) for base in holder.__bases__))
            if id(type(holder)) in stands:
                log.set_class(holder, stands[id(type(holder))])
        else:
            if id(type(holder)) in stands:
                log.set_class(holder, stands[id(type(holder))])
            _replace_in_dict(attributes_of(holder), stands)
    if namespaces:
        owners = [holder for holder in gc.get_referrers(*namespaces) if isinstance(holder, type)]
        for namespace in namespaces:
            if not any(_replace_in_class(log, owner, namespace, stands) for owner in owners):
                _replace_in_dict(namespace, stands)


def _replace_in_dict(holder: dict[Any, Any], stands: dict[int, type]) -> None:
    for key in [key for key, value in list(holder.items()) if id(value) in stands]:
        holder[key] = stands[id(holder[key])]
    for key in [key for key in list(holder) if id(key) in stands]:
        holder[stands[id(key)]] = holder.pop(key)


def _replace_in_class(log: UndoLog, owner: type, namespace: dict[Any, Any], stands: dict[int, type]) -> bool:
    """Replaces in a class, if this is its namespace. It shows as a proxy only: by its contents it is known."""
    if len(vars(owner)) != len(namespace) or any(
        vars(owner).get(name) is not value for name, value in namespace.items()
    ):
        return False
    for name in [name for name, value in list(namespace.items()) if id(value) in stands]:
        log.set_attribute(owner, name, stands[id(namespace[name])])
    return True


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
        for inner_old, inner_new in _nested_pairs(old, new):
            news[id(inner_old)] = inner_new
            sought.append(inner_old)
    by_value = [(namespace, pairs) for namespace, pairs in lambdas if pairs]
    sought += [namespace for namespace, _ in by_value]
    if not sought:
        return
    for holder in gc.get_referrers(*sought):
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


def _nested_pairs(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]]:
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
                found += _nested_pairs(inner_old, inner_new)
    return found


def _by_name(code: CodeType) -> dict[str, list[CodeType]]:
    found: defaultdict[str, list[CodeType]] = defaultdict(list)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found[const.co_qualname].append(const)
    return found
