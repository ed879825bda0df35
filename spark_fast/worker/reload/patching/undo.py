"""Makes changes that can be undone."""

import functools
from collections.abc import Callable
from types import CellType, FunctionType, WrapperDescriptorType
from typing import Any

from spark_fast.worker.state.mappings import replace_items

__all__ = ["EMPTY", "UndoLog", "cell_contents"]

EMPTY = object()
"""Stands for a missing value: the contents of an empty cell, or a name that is not bound."""

# The attributes of a function that an update sets. Its `__dict__` is changed in place.
_FUNCTION_FIELDS = ("__code__", "__defaults__", "__kwdefaults__", "__doc__", "__type_params__")
_CLASS_OF = object.__dict__["__class__"]
_BASES_OF = type.__dict__["__bases__"]


def cell_contents(cell: CellType) -> object:
    """Return the contents of the cell, or EMPTY."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


class UndoLog:
    """Makes changes, and remembers how to undo each of them.

    It uses the setters of `type` and `object`, since a metaclass or a class may refuse assignments.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[[], object]) -> None:
        """Add a function that undo() will call."""
        self._steps.append(step)

    def mark(self) -> int:
        """Return the present position, for undo()."""
        return len(self._steps)

    def undo(self, mark: int = 0) -> None:
        """Undo all changes after the mark, the last one first.

        If a step fails, the others are still undone, and then the first error is raised.
        """
        first: BaseException | None = None
        while len(self._steps) > mark:
            try:
                self._steps.pop()()
            except BaseException as error:
                first = first or error
        if first is not None:
            raise first

    def clear(self) -> None:
        """Forget all changes, so that they stay."""
        self._steps.clear()

    def set_attribute(self, cls: type, name: str, value: object) -> None:
        """Set an attribute of a class; EMPTY removes it."""
        had = vars(cls).get(name, EMPTY)
        self.add(lambda: _put_attribute(cls, name, had))
        _put_attribute(cls, name, value)

    def add_changes(self, cls: type, had: dict[str, Any]) -> None:
        """Remember the changes that other code has made in a class with these former attributes."""
        now = dict(vars(cls))
        for name in now.keys() | had.keys():
            before = had.get(name, EMPTY)
            if now.get(name, EMPTY) is not before:
                self.add(functools.partial(_put_attribute, cls, name, before))

    def keep_attribute(self, cls: type, name: str) -> None:
        """Remember an attribute of a class before other code changes it."""
        had = vars(cls).get(name, EMPTY)
        self.add(lambda: _put_attribute(cls, name, had))

    def keep_class(self, cls: type) -> None:
        """Remember all attributes of a class before other code changes them."""
        had = dict(vars(cls))

        def put_back() -> None:
            for name in [name for name in vars(cls) if name not in had]:
                _put_attribute(cls, name, EMPTY)
            for name, value in had.items():
                if vars(cls).get(name, EMPTY) is not value:
                    _put_attribute(cls, name, value)

        self.add(put_back)

    def set_bases(self, cls: type, bases: tuple[type, ...]) -> None:
        """Set the bases of a class."""
        had = cls.__bases__
        _BASES_OF.__set__(cls, bases)
        self.add(lambda: _BASES_OF.__set__(cls, had))

    def set_class(self, thing: object, cls: type) -> None:
        """Set the class of an object."""
        had = type(thing)
        _CLASS_OF.__set__(thing, cls)
        self.add(lambda: _CLASS_OF.__set__(thing, had))

    def set_cell(self, cell: CellType, value: object) -> None:
        """Set the contents of a cell; EMPTY removes them."""
        had = cell_contents(cell)
        self.add(lambda: _put_cell(cell, had))
        _put_cell(cell, value)

    def set_items(self, mapping: dict[Any, Any], items: dict[Any, Any], *, replace: bool = False) -> None:
        """Put items into a dict. With `replace`, remove all other items."""
        if all(key in mapping and mapping[key] is value for key, value in items.items()) and (
            not replace or len(mapping) == len(items)
        ):
            return
        had = dict(mapping)
        self.add(lambda: replace_items(mapping, had))
        if replace:
            replace_items(mapping, items)
        else:
            mapping.update(items)

    def keep_items(self, mapping: dict[Any, Any]) -> None:
        """Remember the items of a dict and their order."""
        had = dict(mapping)

        def put_back() -> None:
            replace_items(mapping, had)
            if list(mapping) != list(had):
                for key in had:
                    mapping[key] = mapping.pop(key)

        self.add(put_back)

    def keep_function(self, function: FunctionType) -> None:
        """Remember everything of a function that an update changes."""
        fields = {name: getattr(function, name) for name in _FUNCTION_FIELDS if hasattr(function, name)}
        # Where annotations are evaluated lazily, the function that evaluates them is kept.
        annotations = "__annotate__" if hasattr(function, "__annotate__") else "__annotations__"
        fields[annotations] = getattr(function, annotations)
        attributes = dict(vars(function))

        def put_back() -> None:
            for name, value in fields.items():
                if getattr(function, name) is not value:
                    setattr(function, name, value)
            replace_items(vars(function), attributes)

        self.add(put_back)


def _put_attribute(cls: type, name: str, value: object) -> None:
    if value is not EMPTY:
        _setter(cls, "__setattr__")(cls, name, value)
    elif name in vars(cls):
        _setter(cls, "__delattr__")(cls, name)


def _setter(cls: type, name: str) -> Callable[..., None]:
    """Return the first method of that name, of the class's metaclasses, that is written in C.

    A method that is written in Python may refuse the assignment. The method of `type` refuses a class whose metaclass
    is written in C and has its own method.
    """
    for meta in type.mro(type(cls)):
        found = vars(meta).get(name)
        if isinstance(found, WrapperDescriptorType):
            return found
    raise AssertionError(f"type has no {name}")


def _put_cell(cell: CellType, value: object) -> None:
    if value is not EMPTY:
        cell.cell_contents = value
    else:
        del cell.cell_contents
