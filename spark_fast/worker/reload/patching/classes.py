"""Updates a class object in place: it gets the content of a new class of the same name."""

import functools
from abc import ABCMeta
from collections import namedtuple
from collections.abc import Callable, Iterator, Set
from enum import EnumMeta
from enum import property as enum_property
from types import FunctionType, MemberDescriptorType, MethodType
from typing import Any

from spark_fast.worker.reload.patching.enums import adopt_members, name_composites
from spark_fast.worker.reload.patching.functions import FunctionPatcher, LruCache, are_of_one_def, parts
from spark_fast.worker.reload.patching.undo import EMPTY, UndoLog, cell_contents

__all__ = ["bases_differ", "find_class", "layout_difference", "listed", "update_class", "update_methods"]

# These attributes belong to the class object itself. Abstract methods are updated separately.
_ITS_OWN = {"__dict__", "__weakref__", "_abc_impl", "__abstractmethods__"}
_TupleField = type(vars(namedtuple("_One", "field"))["field"])


def find_class(value: object, namespace: dict[str, Any], module: str, qualname: str) -> type | None:
    """Find the class that a `class` statement of this namespace made, also within the result of its decorators."""
    for part in parts(value):
        kind = part if isinstance(part, type) else type(part)
        found = [cls for cls in kind.__mro__ if cls.__qualname__ == qualname and cls.__module__ == module]
        # A class that a decorator made from ours has our class's names, too; so has a namedtuple that is its base.
        ours = [cls for cls in found if _has_body_in(cls, namespace, qualname)]
        bare = [cls for cls in found if "__wrapped__" not in vars(cls)]
        if found:
            return ours[-1] if ours else (bare or found)[0]
    # Some decorators that export a class give it another `__module__`.
    if isinstance(value, type) and value.__qualname__ == qualname and _has_body_in(value, namespace, qualname):
        return value
    return None


def _has_body_in(cls: type, namespace: dict[str, Any], qualname: str) -> bool:
    """Return whether a `class` statement of this namespace made the class, judging by its functions."""
    return any(
        isinstance(part, FunctionType)
        and part.__globals__ is namespace
        and part.__code__.co_qualname.startswith(f"{qualname}.")
        for value in list(vars(cls).values())
        for part in parts(value)
    )


def layout_difference(old: type, new: type) -> str | None:
    """Return why instances of the old class can't be instances of the new one; None if they can."""
    had, has = _slots(old), _slots(new)
    if had != has:
        return f"its __slots__ changed from {listed(had)} to {listed(has)}, and its instances live on"
    layouts = [(cls.__basicsize__, cls.__itemsize__, cls.__dictoffset__, cls.__weakrefoffset__) for cls in (old, new)]
    if layouts[0] != layouts[1]:
        return f"its bases changed from {_named(old.__bases__)} to {_named(new.__bases__)}, which have another layout"
    return None


def bases_differ(error: TypeError, old: type, bases: tuple[type, ...]) -> str:
    """Return the reason for a refusal: Python can't change the bases of a class."""
    return f"its bases can't be changed from {_named(old.__bases__)} to {_named(bases)}: {error}"


def _point_cells(old: type, new: type) -> None:
    """Make zero-argument super() in the functions of the new class find the old class."""
    for value in list(vars(new).values()):
        for part in parts(value):
            for cell in (part.__closure__ or ()) if isinstance(part, FunctionType) else ():
                if cell_contents(cell) is new:
                    cell.cell_contents = old


def update_class(
    old: type, new: type, removed: set[str], functions: FunctionPatcher, refuse: Callable[[str], Exception]
) -> None:
    """Give the old class the content of the new one.

    removed: the names that the old source bound in the class. If the new class lacks them, they are removed. Other
        names that only the old class has were set at run time, and stay. But names like `__this__` are removed, too,
        since decorators such as dataclass make them, and would skip those that exist.
    refuse: makes the error to raise, from a reason.
    """
    log = functions.log
    reason = layout_difference(old, new)
    if reason is not None:
        raise refuse(reason)
    if type(old) is not type(new):
        try:
            log.set_class(old, type(new))
        except TypeError as error:
            raise refuse(f"its metaclass can't be changed from {type(old)} to {type(new)}: {error}") from None
    if old.__bases__ != new.__bases__:
        try:
            log.set_bases(old, new.__bases__)
        except TypeError as error:
            raise refuse(bases_differ(error, old, new.__bases__)) from None
    _point_cells(old, new)
    stands: dict[int, object] = {}
    lists: dict[str, object] = {}
    if isinstance(old, EnumMeta) and isinstance(new, EnumMeta):
        removed = removed | {name for name in old._member_map_ if name not in new._member_map_}
        stands, lists = adopt_members(log, old, new, refuse)
    _update_attributes(old, new, stands, lists, functions)
    _remove_attributes(old, new, removed, functions)
    if isinstance(old, EnumMeta):
        name_composites(log, old)
    _update_abstract_methods(log, old, new)


def update_methods(old: type, holder: type, names: Set[str], functions: FunctionPatcher) -> None:
    """Give the old class the methods of these names, or its docstring, from a class that has only these.

    holder: the class with only these methods. The old class loses the given names that `holder` lacks.
    """
    _point_cells(old, holder)
    for name in names:
        have, value = vars(old).get(name, EMPTY), vars(holder).get(name, EMPTY)
        if value is not EMPTY and name != "__doc__":
            value = _attribute(have, value, old, holder, {}, functions)
        elif any(isinstance(part, FunctionType) for part in parts(have)):
            functions.code_changed = True
        if value is not have:
            functions.log.set_attribute(old, name, value)


def _update_attributes(
    old: type, new: type, stands: dict[int, object], lists: dict[str, object], functions: FunctionPatcher
) -> None:
    for name, value in list(vars(new).items()):
        if name in _ITS_OWN or _is_slot(value, new):
            continue
        have = vars(old).get(name, EMPTY)
        if name in lists:
            value = lists[name]
        elif id(value) in stands:
            value = stands[id(value)]
        else:
            value = _attribute(have, value, old, new, stands, functions)
        if value is not have:
            functions.log.set_attribute(old, name, value)


def _attribute(
    have: Any, value: Any, old: type, new: type, stands: dict[int, object], functions: FunctionPatcher
) -> object:
    """Return the value that the attribute of the old class must get."""
    if have is value:
        return have
    if value is new:
        return old
    if isinstance(value, MethodType) and value.__self__ is new:
        return MethodType(value.__func__, old)
    if isinstance(value, enum_property):
        member = getattr(value, "member", None)
        if id(member) in stands:
            vars(value)["member"] = stands[id(member)]
        return value
    if type(have) is not type(value):
        if have is not EMPTY and any(isinstance(part, FunctionType) for part in parts(have)):
            functions.code_changed = True
        return value
    if isinstance(value, FunctionType):
        return _method(have, value, functions)
    if type(value) in (staticmethod, classmethod):
        inner = _inner(have.__func__, value.__func__, functions)
        if inner is not have.__func__:
            return value if inner is value.__func__ else type(value)(inner)
        functions.log.set_items(vars(have), vars(value))
        return have
    if type(value) is property:
        return _property(have, value, functions)
    if isinstance(value, (functools.cached_property, functools.partialmethod)):
        value.func = _inner(have.func, value.func, functions)
        return value
    if isinstance(value, LruCache):
        _inner(have.__wrapped__, value.__wrapped__, functions)
        functions.log.add(have.cache_clear)
        have.cache_clear()
        return have if have.cache_parameters() == value.cache_parameters() else value
    if type(value) in (str, int, bool, bytes):
        return have if have == value else value
    _update_hidden(have, value, functions)
    return value


def _method(have: FunctionType, value: FunctionType, functions: FunctionPatcher) -> object:
    if are_of_one_def(have, value):
        return functions.adopt(have, value)
    if have.__qualname__ != value.__qualname__ or have.__module__ != value.__module__:
        functions.code_changed = True  # it was set at run time, or another function has this name now
        return value
    # The decorators changed. Bound references to the old function must call the new one.
    raw = functions.find(have, value.__globals__, value.__qualname__)
    stays = functions.adopt(raw, value) if raw is not None and are_of_one_def(raw, value) else value
    if stays is not have:
        functions.forward(have, stays)
    return stays


def _inner(have: object, value: object, functions: FunctionPatcher) -> Any:
    if isinstance(have, FunctionType) and isinstance(value, FunctionType) and have is not value:
        return _method(have, value, functions)
    return value


def _property(have: property, value: property, functions: FunctionPatcher) -> property:
    inner = [
        _inner(had, has, functions)
        for had, has in ((have.fget, value.fget), (have.fset, value.fset), (have.fdel, value.fdel))
    ]
    if inner == [have.fget, have.fset, have.fdel] and have.__doc__ == value.__doc__:
        return have
    if inner == [value.fget, value.fset, value.fdel]:
        return value
    made = property(inner[0], inner[1], inner[2], value.__doc__)
    if hasattr(value, "__name__") and hasattr(made, "__set_name__"):
        made.__name__ = value.__name__  # type: ignore[attr-defined]
    return made


def _update_hidden(have: object, value: object, functions: FunctionPatcher) -> None:
    """Give the functions in an object that a decorator made the new code, though the new object replaces it."""
    news = [part for part in parts(value) if isinstance(part, FunctionType)]
    for part in parts(have):
        if not isinstance(part, FunctionType):
            continue
        for new in news:
            if (
                part is not new
                and part.__code__.co_qualname == part.__qualname__
                and are_of_one_def(part, new)
                and part.__code__.co_freevars == new.__code__.co_freevars
            ):
                functions.copy(part, new)


def _remove_attributes(old: type, new: type, removed: set[str], functions: FunctionPatcher) -> None:
    for name, value in list(vars(old).items()):
        if name in vars(new) or name in _ITS_OWN or _is_slot(value, old):
            continue
        generated = name.startswith("__") and name.endswith("__")
        if generated or name in removed or isinstance(value, _TupleField):
            functions.log.set_attribute(old, name, EMPTY)
            if any(isinstance(part, FunctionType) for part in parts(value)):
                functions.code_changed = True


def _update_abstract_methods(log: UndoLog, old: type, new: type) -> None:
    abstract = vars(new).get("__abstractmethods__", EMPTY)
    if abstract != vars(old).get("__abstractmethods__", EMPTY):
        log.set_attribute(old, "__abstractmethods__", abstract)
        for cls in _subclasses(old):
            # abc.update_abstractmethods() does the same, but can't be undone.
            names = set(vars(cls).get("__abstractmethods__", ())).union(
                *(getattr(base, "__abstractmethods__", ()) for base in cls.__bases__),
                vars(cls),
            )
            left = frozenset(n for n in names if getattr(getattr(cls, n, None), "__isabstractmethod__", False))
            if isinstance(cls, ABCMeta) and left != cls.__abstractmethods__:
                log.set_attribute(cls, "__abstractmethods__", left)
    if isinstance(old, ABCMeta):
        ABCMeta._abc_caches_clear(old)  # type: ignore[attr-defined]


def _subclasses(cls: type) -> Iterator[type]:
    child: type
    for child in type.__subclasses__(cls):
        yield child
        yield from _subclasses(child)


def _is_slot(value: object, cls: type) -> bool:
    return isinstance(value, MemberDescriptorType) and value.__objclass__ is cls


def _slots(cls: type) -> set[str] | None:
    if "__slots__" not in vars(cls):
        return None
    names = {name for name, value in vars(cls).items() if _is_slot(value, cls)}
    return names | ({"__dict__", "__weakref__"} & vars(cls).keys())


def listed(slots: set[str] | frozenset[str] | None) -> str:
    return "none" if slots is None else f"({', '.join(sorted(slots))})"


def _named(bases: tuple[type, ...]) -> str:
    return f"({', '.join(base.__qualname__ for base in bases)})"
