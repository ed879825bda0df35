"""Finds classes, and results of calls, that can't be treated like a plain class."""

import sys
import typing
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NewType, ParamSpec, TypeVar

__all__ = ["installed_metaclass", "is_definition", "is_pydantic", "is_sqlalchemy", "made_once"]

_TYPE_PARAMETERS = (NewType, TypeVar, ParamSpec, typing.TypeVarTuple, getattr(typing, "TypeAliasType", TypeVar))
_PLAIN_METACLASSES = {"builtins.type", "builtins.object", "torch._C._TensorMeta"}
"""Metaclasses written in C that keep no data about a class."""

_SQLALCHEMY_VALUES = {"MetaData", "Table", "registry", "Sequence"}


def made_once(value: object) -> str | None:
    """Return why a class, or the result of a call, can't be made again or get other fields; None if it can."""
    if is_sqlalchemy(value):
        return "SQLAlchemy maps it once and for all"
    if isinstance(value, type):
        for meta in _metaclasses(value):
            if not _is_plain(meta) and _is_written_in_c(meta):
                library = meta.__module__.partition(".")[0].lstrip("_")
                return f"{library} fixes the layout of its instances when it makes the class"
    return None


def is_sqlalchemy(value: object) -> bool:
    """Return whether SQLAlchemy has a table for the class, or the value is a part of its registries."""
    if isinstance(value, type):
        return (
            "_sa_class_manager" in vars(value)
            or any(meta.__module__.startswith("sqlalchemy.") for meta in _metaclasses(value))
            or _has_declarative_base(value)
        )
    kind = type(value)
    return kind.__module__.startswith("sqlalchemy.") and any(
        each.__qualname__ in _SQLALCHEMY_VALUES for each in type.mro(kind)
    )


def is_pydantic(cls: type) -> bool:
    """Return whether the class is a model of pydantic."""
    return any(meta.__module__.startswith("pydantic.") for meta in _metaclasses(cls))


def is_definition(value: object) -> bool:
    """Return whether the result of a top-level call is like a definition, to which other code refers by identity."""
    return isinstance(value, (type, *_TYPE_PARAMETERS)) or is_sqlalchemy(value)


def installed_metaclass(cls: type) -> str | None:
    """Return the metaclass of a library other than pydantic that runs code when it makes a class; None without one."""
    for meta in _metaclasses(cls):
        if _is_plain(meta) or not {"__new__", "__init__"} & vars(meta).keys():
            continue
        file = str(getattr(sys.modules.get(meta.__module__), "__file__", None))
        if {"site-packages", "dist-packages"} & set(Path(file).parts) and not is_pydantic(cls):
            return f"`{meta.__module__.partition('.')[0]}.{meta.__qualname__}`"
    return None


def _has_declarative_base(cls: type) -> bool:
    orm = sys.modules.get("sqlalchemy.orm")
    base = getattr(orm, "DeclarativeBase", None)
    return isinstance(base, type) and issubclass(cls, base)


def _is_plain(meta: type) -> bool:
    return f"{meta.__module__}.{meta.__qualname__}" in _PLAIN_METACLASSES


def _metaclasses(cls: type) -> list[type]:
    return type.mro(type(cls))


def _is_written_in_c(cls: type) -> bool:
    name = cls.__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return name in sys.builtin_module_names if file is None else file.endswith(tuple(EXTENSION_SUFFIXES))
