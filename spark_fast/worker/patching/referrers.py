"""What only the garbage collector knows: who holds a class that was discarded, or a closure's old code."""

import gc
import sys
from collections import defaultdict
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

from spark_fast.worker.patching.undo import UndoLog

__all__ = ["replace_classes", "swap_nested_code", "tells_others"]

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
    for holder in gc.get_referrers(*news):
        if holder is news or isinstance(holder, (tuple, FrameType)):
            continue
        if isinstance(holder, dict):
            _replace_in_dict(log, holder, stands)
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
            held = getattr(holder, "__dict__", None)
            if type(held) is dict:
                _replace_in_dict(log, held, stands)


def _replace_in_dict(log: UndoLog, holder: dict[Any, Any], stands: dict[int, type]) -> None:
    values = [key for key, value in list(holder.items()) if id(value) in stands]
    keys = [key for key in list(holder) if id(key) in stands]
    owner = _owner(holder) if values and "__module__" in holder and "__doc__" in holder else None
    for key in values:
        if owner is not None:
            # Not behind the back of the class, which caches what it finds.
            log.set_attribute(owner, key, stands[id(holder[key])])
        else:
            holder[key] = stands[id(holder[key])]
    for key in keys:
        holder[stands[id(key)]] = holder.pop(key)


def _owner(namespace: dict[Any, Any]) -> type | None:
    for holder in gc.get_referrers(namespace):
        # A class's namespace shows as a proxy: it is this one if it holds the very same things.
        if isinstance(holder, type) and all(vars(holder).get(name) is value for name, value in namespace.items()):
            return holder
    return None


def swap_nested_code(changed: list[tuple[CodeType, CodeType]]) -> None:
    """Gives functions that live on, made inside functions that changed, the new code of the same place.

    changed: old and new code of the functions that were changed themselves.
    """
    news: dict[int, CodeType] = {}
    olds: list[CodeType] = []
    for old, new in changed:
        for inner_old, inner_new in _nested_pairs(old, new):
            news[id(inner_old)] = inner_new
            olds.append(inner_old)
    if not olds:
        return
    for holder in gc.get_referrers(*olds):
        if isinstance(holder, FunctionType) and id(holder.__code__) in news:
            holder.__code__ = news[id(holder.__code__)]


def _nested_pairs(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]]:
    """Nested code of the same qualified name, where its closures are the same and the rest is not."""
    found: list[tuple[CodeType, CodeType]] = []
    had, has = _by_name(old), _by_name(new)
    for name, olds in had.items():
        news = has.get(name, [])
        if len(news) != len(olds):
            continue  # one lambda among several may have gone: no telling which
        for inner_old, inner_new in zip(olds, news, strict=True):
            if inner_old != inner_new:
                if name.rpartition(".")[2] not in _NEVER_KEPT and inner_old.co_freevars == inner_new.co_freevars:
                    found.append((inner_old, inner_new))
                found += _nested_pairs(inner_old, inner_new)
    return found


def _by_name(code: CodeType) -> dict[str, list[CodeType]]:
    found: defaultdict[str, list[CodeType]] = defaultdict(list)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found[const.co_qualname].append(const)
    return found
