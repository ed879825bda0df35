"""Executes the modules of a reload in the order that their import statements need.

A module that must be executed again is executed before the modules that import it. It never leaves `sys.modules`: if
it did, another thread that imports or unpickles during the reload would execute the module itself, or get an exception
of the new code.
"""

import builtins
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["before_imports"]


@contextmanager
def before_imports(call: Callable[[Iterable[str]], None]) -> Iterator[None]:
    """Have this thread's import statements first call a function, until the block ends.

    call: gets the names of the modules that the statement executes, packages first.
    """
    thread = threading.get_ident()
    inner = builtins.__import__

    def asking(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if threading.get_ident() == thread:
            given = dict(zip(("globals", "locals", "fromlist", "level"), args, strict=False)) | kwargs
            call(_needed(name, given.get("globals") or {}, given.get("fromlist") or (), given.get("level", 0)))
        return inner(name, *args, **kwargs)

    builtins.__import__ = asking
    try:
        yield
    finally:
        if builtins.__import__ is asking:
            builtins.__import__ = inner
        thread = 0  # if another library has wrapped `asking` and goes on to call it, it does nothing


def _needed(name: str, space: Mapping[str, object], fromlist: Sequence[str], level: int) -> Iterator[str]:
    """Yield the names of the modules that an import statement executes, packages first."""
    if level:
        package = str(space.get("__package__") or "")
        parts = package.split(".")
        if not package or level > len(parts):
            return  # the import itself raises the error
        name = ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
    for each in fromlist:
        listed = getattr(sys.modules.get(name), "__all__", ()) if each == "*" else (each,)
        for last in listed:
            yield f"{name}.{last}"
