"""Updates a function object in place: it gets the code of a new function of the same name."""

import functools
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from spark_fast.worker.reload.patching.undo import EMPTY, UndoLog, cell_contents

__all__ = ["FunctionPatcher", "LruCache", "attributes_of", "parts", "same_code"]

LruCache = type(functools.lru_cache(len))
_MOST_PARTS = 200
_TARGET = "__spark_target__"


class FunctionPatcher:
    """The changes of functions in one transaction.

    Attributes:
        code_changed: whether the code of a function differs in more than its place in the file.
        codes: old and new code of each function that was changed, by the id of the old code.
    """

    def __init__(self, log: UndoLog) -> None:
        self.log = log
        self.code_changed = False
        self.codes: dict[int, tuple[CodeType, CodeType]] = {}
        self._done: dict[int, tuple[FunctionType, FunctionType]] = {}
        self._cells: dict[int, tuple[object, object]] = {}

    def forget(self) -> None:
        """Drop all functions."""
        self.codes.clear()
        self._done.clear()
        self._cells.clear()

    def held(self) -> list[object]:
        """Return the objects by which this patcher holds discarded functions."""
        return [*self._done.values(), *self._cells.values()]

    def adopted(self, cls: str) -> list[tuple[FunctionType, FunctionType]]:
        """Return the discarded functions of a class, each with its replacement."""
        return [
            pair
            for pair in self._done.values()
            if pair[0] is not pair[1] and pair[0].__qualname__.rpartition(".")[0] == cls
        ]

    def adopt(self, old: FunctionType, new: FunctionType) -> FunctionType:
        """Make the old function behave as the new one. Return the function that must stay."""
        if old is new:
            return old
        done = self._done.get(id(new))
        if done is not None:
            return done[1]
        self._done[id(new)] = (new, old)  # keeping the objects keeps their ids unique
        contents = self._new_contents(old, new)
        if contents is None:
            self.forward(old, new)
            self._done[id(new)] = (new, new)
            return new
        for cell, value in contents:
            self.log.set_cell(cell, value)
        self.copy(old, new)
        return old

    def copy(self, old: FunctionType, new: FunctionType) -> None:
        """Give the old function all parts of the new one except the closure."""
        self._note(old.__code__, new.__code__)
        self.log.keep_function(old)
        attributes = {
            name: self._part(old, vars(old).get(name), value) if name == "__wrapped__" else value
            for name, value in vars(new).items()
        }
        # A thread may call the function between two of these steps. A surplus default does no harm.
        more = len(new.__defaults__ or ()) > len(old.__defaults__ or ())
        if more:
            old.__defaults__ = new.__defaults__
        if new.__kwdefaults__:
            old.__kwdefaults__ = new.__kwdefaults__
        # An equal code object stays, since compilers find their results by the identity of the code.
        if old.__code__ != new.__code__:
            old.__code__ = new.__code__
        if not more:
            old.__defaults__ = new.__defaults__
        if not new.__kwdefaults__:
            old.__kwdefaults__ = new.__kwdefaults__
        old.__doc__ = new.__doc__
        for name in ("__annotate__", "__type_params__"):
            if hasattr(new, name):
                setattr(old, name, getattr(new, name))
        if not hasattr(new, "__annotate__"):
            old.__annotations__ = new.__annotations__
        vars(old).update(attributes)
        # Decorators that are gone may have left marks such as __isabstractmethod__. Other attributes stay.
        for name in [name for name in vars(old) if name.startswith("__") and name not in attributes]:
            del vars(old)[name]

    def relocate(self, function: FunctionType, code: CodeType) -> None:
        """Give the function code that differs only in its place in the file."""
        self.codes.setdefault(id(function.__code__), (function.__code__, code))
        self.log.keep_function(function)
        function.__code__ = code

    def forward(self, old: FunctionType, new: Callable[..., Any]) -> None:
        """Make the old function call its replacement, since their closures don't match.

        Do nothing if the new one calls the old one.
        """
        self.code_changed = True
        if any(part is old for part in parts(new)):
            return
        self.log.keep_function(old)
        code = _trampoline(old.__code__.co_freevars)
        code = code.replace(co_name=old.__code__.co_name, co_qualname=old.__code__.co_qualname)
        old.__kwdefaults__ = {**(old.__kwdefaults__ or {}), _TARGET: new}
        old.__code__ = code
        old.__defaults__ = None
        old.__kwdefaults__ = {_TARGET: new}
        vars(old)["__wrapped__"] = new  # for signatures

    def keep(self, old: object, new: object, namespace: dict[str, Any], qualname: str) -> object:
        """Return the value for a decorated definition's name: the old one if it can be updated, else the new one."""
        if old is new or old is EMPTY:
            return new
        if isinstance(old, LruCache):
            return self._keep_cache(old, new)
        if not isinstance(old, FunctionType) or not callable(new):
            return new
        if isinstance(new, FunctionType) and are_of_one_def(old, new):
            return self.adopt(old, new)
        # The old value is replaced by another kind of object. It may call the new one only if it belongs to this
        # definition.
        if old.__globals__ is namespace or old.__qualname__ == qualname:
            self.forward(old, new)
        return new

    def _keep_cache(self, old: Any, new: object) -> object:
        # The cache holds results of the old code. On undo, it holds results of the new code.
        self.log.add(old.cache_clear)
        old.cache_clear()
        if (
            isinstance(new, LruCache)
            and getattr(new, "__wrapped__", new) is getattr(old, "__wrapped__", old)
            and getattr(new, "cache_parameters", dict)() == getattr(old, "cache_parameters", dict)()
        ):
            return old
        return new

    def find(self, value: object, namespace: dict[str, Any], qualname: str) -> FunctionType | None:
        """Find the function that a `def` statement of this namespace made, also within the result of its decorators."""
        for part in parts(value):
            if (
                isinstance(part, FunctionType)
                and part.__globals__ is namespace
                and part.__code__.co_qualname == qualname
            ):
                return part
        return None

    def _note(self, old: CodeType, new: CodeType) -> None:
        if old is new:
            return
        self.codes.setdefault(id(old), (old, new))
        if not self.code_changed and not same_code(old, new):
            self.code_changed = True

    def _new_contents(self, old: FunctionType, new: FunctionType) -> list[tuple[Any, object]] | None:
        """Return what to put into the old function's cells; None if the new code does not fit them."""
        if old.__code__.co_freevars != new.__code__.co_freevars:
            return None
        wanted: list[tuple[Any, object]] = []
        for old_cell, new_cell in zip(old.__closure__ or (), new.__closure__ or (), strict=True):
            if old_cell is new_cell:
                continue
            have, value = cell_contents(old_cell), cell_contents(new_cell)
            value = self._part(old, have, value)
            # Another function that shares this cell needs another value in it.
            if self._cells.setdefault(id(old_cell), (old_cell, value))[1] is not value:
                return None
            if value is not have:
                wanted.append((old_cell, value))
        return wanted

    def _part(self, owner: FunctionType, old: object, new: object) -> object:
        """Return the function that a wrapper must hold: the wrapped function keeps its identity, too."""
        if (
            isinstance(old, FunctionType)
            and isinstance(new, FunctionType)
            and old.__qualname__ == owner.__qualname__
            and are_of_one_def(old, new)
        ):
            return self.adopt(old, new)
        return new


def are_of_one_def(old: FunctionType, new: FunctionType) -> bool:
    """Return whether the same `def` made both functions, judging by their names."""
    return (
        old.__globals__ is new.__globals__
        and old.__qualname__ == new.__qualname__
        and old.__code__.co_qualname == new.__code__.co_qualname
    )


def parts(value: object) -> Iterator[object]:
    """Yield the value and the objects that decorators and descriptors keep inside it, nearest first."""
    waiting = [value]
    seen: dict[int, object] = {}
    for part in waiting:
        if id(part) in seen or len(seen) > _MOST_PARTS:
            continue
        seen[id(part)] = part
        yield part
        inner: list[object] = []
        if isinstance(part, FunctionType):
            inner += [vars(part).get("__wrapped__"), *map(cell_contents, part.__closure__ or ())]
        elif isinstance(part, property):
            inner += [part.fget, part.fset, part.fdel]
        elif isinstance(part, (staticmethod, classmethod, MethodType)):
            inner.append(part.__func__)
        elif isinstance(part, (functools.partial, functools.partialmethod)):
            inner.append(part.func)
        elif isinstance(part, LruCache):
            inner.append(getattr(part, "__wrapped__", None))
        elif not isinstance(part, (type, dict, list, tuple, set, str, bytes, int, float)):
            inner += attributes_of(part).values()
        # Only objects that can lead to a function.
        waiting += [
            thing for thing in inner if thing is not None and (callable(thing) or hasattr(type(thing), "__get__"))
        ]


def attributes_of(thing: object) -> dict[str, Any]:
    """Return the attributes of an instance without calling attribute methods of its class."""
    try:
        held = object.__getattribute__(thing, "__dict__")
    except (AttributeError, TypeError):
        return {}
    return held if type(held) is dict else {}


def same_code(old: CodeType, new: CodeType) -> bool:
    """Return whether both are equal apart from their places in the file."""
    return old == new or _placeless(old) == _placeless(new)


def _placeless(code: CodeType) -> CodeType:
    consts = tuple(_placeless(const) if isinstance(const, CodeType) else const for const in code.co_consts)
    return code.replace(co_firstlineno=1, co_linetable=b"", co_consts=consts)


def _trampoline(freevars: tuple[str, ...]) -> CodeType:
    """Return code with these free variables that calls the default of its keyword argument."""
    names = ", ".join(freevars)
    uses = f"\n        ({names},)" if names else ""
    lines = f"""
def make({names}):
    def call(*args, {_TARGET}, **kwargs):
        return {_TARGET}(*args, **kwargs){uses}
    return call
"""
    namespace: dict[str, Any] = {}
    exec(compile(lines, "<spark_fast>", "exec"), namespace)
    made: FunctionType = namespace["make"](*freevars)
    return made.__code__
