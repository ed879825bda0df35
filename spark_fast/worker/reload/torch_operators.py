"""Refuses code that would define an operator of `torch.library` a second time."""

import ast
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from spark_fast.errors import ReloadRefusedError

__all__ = ["refuse_operators"]


def refuse_operators(source: bytes, path: str, module: ModuleType) -> None:
    """Raise ReloadRefusedError for code that makes a `torch.library.Library` whenever it is executed.

    Within one process, torch accepts no second library of a namespace and no second definition of an operator.

    module: the module that the code is executed in.
    """
    library = getattr(sys.modules.get("torch.library"), "Library", None)
    if library is None or not (b"Library" in source or b".define" in source or b".impl" in source):
        return
    for node in _executed(ast.parse(source, path)):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = ast.unparse(node.func).split(".")
        value = vars(module).get(first)
        for word in rest:
            value = getattr(value, word, None)
        if value is library or (rest and isinstance(getattr(value, "__self__", None), library)):
            raise ReloadRefusedError(
                f"{os.path.basename(path)}:{node.lineno}: {ast.unparse(node.func)}()",
                "an operator of torch.library can be defined once in a process, and this file would define it again. "
                "Use torch.library.custom_op(), or do all of it in a function that persist() calls",
            )


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that are executed with the module itself, which the bodies of functions are not."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _executed(child)
