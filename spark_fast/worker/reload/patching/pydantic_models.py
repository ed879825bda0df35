"""Updates a pydantic model in place: it gets the fields of a new model of the same name.

Pydantic compiles the fields of a model to a schema that refers to the class. So the old model gets the new fields, and
pydantic compiles its schema again, and the schemas of the models that have it as a field.
"""

import functools
import operator
import re
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MappingProxyType, MethodType
from typing import Annotated, Any

from spark_fast.worker.reload.patching.undo import UndoLog

__all__ = ["held", "update_model"]

_discarded: weakref.WeakSet[Any] = weakref.WeakSet()
"""New models whose fields an old model got, and models made from them. Global, since they stay among the subclasses of
BaseModel, which is global, too, until the garbage collector removes them. That takes longer than one reload."""

_COMPILED = (
    "__pydantic_complete__",
    "__pydantic_core_schema__",
    "__pydantic_serializer__",
    "__pydantic_validator__",
    "__signature__",
)


def held() -> list[object]:
    """Return the objects by which this module holds discarded classes."""
    return [vars(_discarded)["data"]]


def update_model(old: Any, new: Any, update: Callable[[Any, Any], None], log: UndoLog) -> list[str]:
    """Give the old model the content of the new one. Return the names of the fields that existing objects lack.

    update: gives a class the attributes of another one.

    Raises the error of pydantic if it can't compile the model.
    """
    had = set(old.__pydantic_fields__)
    _discarded.add(new)
    lacking = [name for name in new.__pydantic_fields__ if name not in had]
    pairs = [(old, new)]
    for cls in _subclasses(old):
        generic = _generic(cls)
        if generic.get("origin") is old:
            pairs.append((cls, new[generic["args"]]))
            _discarded.add(pairs[-1][1])
    for living, made in pairs:
        log.keep_class(living)
        for name in _COMPILED:
            if name in vars(living):
                type.__setattr__(made, name, vars(living)[name])
            elif name in vars(made):
                type.__delattr__(made, name)
        for field in made.__pydantic_fields__.values():
            field.annotation = _with_class(field.annotation, new, old)
        if living is old:
            update(old, new)
        else:
            _take_fields(living, made, log)
        _bind_decorators(living, made)
    stale = [cls for cls, _ in pairs] + [
        cls
        for cls in _subclasses(sys.modules["pydantic"].BaseModel)
        if cls not in _discarded and _mentions(cls, old, set())
    ]
    stale = list(dict.fromkeys(stale))
    for cls in stale:
        # Pydantic uses the schema of a complete model for the schemas of other models.
        log.keep_class(cls)
        type.__setattr__(cls, "__pydantic_complete__", False)
        if "__pydantic_core_schema__" in vars(cls):
            type.__delattr__(cls, "__pydantic_core_schema__")
    for cls in stale:
        cls.model_rebuild(force=True, raise_errors=False, _parent_namespace_depth=0)
    return lacking


def _take_fields(living: Any, made: Any, log: UndoLog) -> None:
    """Give a parametrized generic model the fields of the same model of the new class."""
    for name, value in list(vars(made).items()):
        if name.startswith("__pydantic_") and name != "__pydantic_generic_metadata__" and name not in _COMPILED:
            log.set_attribute(living, name, value)


def _bind_decorators(living: Any, made: Any) -> None:
    """Bind validators and other methods of pydantic's decorators to the class that stays."""
    decorators = vars(living).get("__pydantic_decorators__")
    for kind in getattr(decorators, "__dataclass_fields__", ()):
        group = getattr(decorators, kind)
        for each in group.values() if isinstance(group, dict) else ():
            func = getattr(each, "func", None)
            if getattr(each, "shim", None) is not None:
                continue
            found = getattr(living, each.cls_var_name, None)
            if isinstance(func, (MethodType, FunctionType)) and isinstance(found, (MethodType, FunctionType)):
                each.func = found


def _with_class(kind: Any, new: type, old: type) -> Any:
    """Return the annotation with the old class in place of the new one."""
    if kind is new:
        return old
    args = typing.get_args(kind)
    replaced = tuple(_with_class(arg, new, old) if not isinstance(arg, list) else arg for arg in args)
    if all(map(operator.is_, args, replaced)):
        return kind
    if isinstance(kind, types.UnionType):
        return functools.reduce(operator.or_, replaced)
    if typing.get_origin(kind) is Annotated:
        return Annotated[replaced]
    if isinstance(kind, types.GenericAlias):
        return types.GenericAlias(typing.get_origin(kind), replaced)
    return kind.copy_with(replaced)


def _mentions(kind: Any, wanted: type, seen: set[int], names: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """Return whether the fields of a model, or an annotation, lead to the class.

    names: the namespace of the annotation's module, for the strings in it.
    """
    if isinstance(kind, (str, typing.ForwardRef)):
        words = re.findall(r"[^\W\d]\w*", kind if isinstance(kind, str) else kind.__forward_arg__)
        inner = [names[word] for word in words if isinstance(names.get(word), type)]
    elif id(kind) in seen:
        return False
    else:
        seen.add(id(kind))
        inner = list(typing.get_args(kind))
        fields = getattr(kind, "__pydantic_fields__", None) if isinstance(kind, type) else None
        if isinstance(fields, dict):
            names = vars(sys.modules.get(kind.__module__, typing))
            inner += [field.annotation for field in fields.values()]
    return any(each is wanted or _mentions(each, wanted, seen, names) for each in inner)


def _generic(cls: Any) -> dict[str, Any]:
    found = vars(cls).get("__pydantic_generic_metadata__")
    return found if isinstance(found, dict) else {}


def _subclasses(cls: type) -> Iterator[Any]:
    seen: set[Any] = set()
    waiting: list[Any] = list(type.__subclasses__(cls))
    while waiting:
        each = waiting.pop()
        if each not in seen:
            seen.add(each)
            yield each
            waiting += type.__subclasses__(each)
