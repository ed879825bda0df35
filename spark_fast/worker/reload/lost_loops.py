"""Tells why a `for` loop would begin again at its first item when its code runs again."""

import ast
from collections.abc import Mapping
from typing import Any

from spark_fast._core import KeyedTrack
from spark_fast.worker.reload.blocks import enclosing, parsed
from spark_fast.worker.reload.positions import CO_GENERATOR, Position

__all__ = ["is_of_keyed_generator", "loss_of"]


def loss_of(loop: ast.stmt, position: Position, *, from_generator: bool) -> str | None:
    """Return why a `for` loop begins again, for people; None if it goes on.

    position: the frame that the loop runs in.
    from_generator: whether the next frame within this one is a generator's.
    """
    assert isinstance(loop, (ast.For, ast.AsyncFor))
    source = loop.iter
    if _is_keyed(source, position):
        return None
    if isinstance(source, ast.Call):
        inner = [each for each in source.args if _is_keyed(each, position)]
        name = source.func.attr if isinstance(source.func, ast.Attribute) else getattr(source.func, "id", "")
        if inner and name == "enumerate":
            return (
                "enumerate() around a loop with a key counts from its start again; take the loop's own count, "
                "loop = spark.track(…, key=…) and loop.index"
            )
        if inner and (name != "zip" or len(inner) == len(source.args)):
            return None
        if inner:
            return "zip() begins what stands beside the loop with a key anew; put track(…, key=…) around the zip()"
    if from_generator and loop.lineno <= position.line <= (loop.iter.end_lineno or loop.lineno):
        return None  # the loop within the generator has a key, or gets a warning of its own
    return "this loop has no key, so it begins at its first item again; track(…, key=…) goes on where it was"


def is_of_keyed_generator(loop: ast.stmt, position: Position, sources: Mapping[str, bytes]) -> bool:
    """Return whether the loop iterates over a generator of the project that has a loop with a key, and so goes on.

    sources: the running sources, by path.
    """
    source = getattr(loop, "iter", None)
    if not isinstance(source, ast.Call):
        return False
    function: Any = None
    if isinstance(source.func, ast.Name):
        function = position.names(source.func.id)
    elif isinstance(source.func, ast.Attribute) and isinstance(source.func.value, ast.Name):
        function = getattr(type(position.names(source.func.value.id)), source.func.attr, None)
    code = getattr(function, "__code__", None)
    if code is None or not code.co_flags & CO_GENERATOR:
        return False
    tree = parsed(sources.get(code.co_filename))
    if tree is None:
        return False
    scope = enclosing(tree, Position(code.co_filename, code.co_name, code.co_firstlineno, True, position.names))
    return any(isinstance(node, ast.Call) and _is_keyed(node, position) for node in ast.walk(scope))


def _is_keyed(source: ast.expr, position: Position) -> bool:
    """Return whether the expression is a `track()` with a key, or a variable that holds one."""
    if isinstance(source, ast.Name):
        return isinstance(position.names(source.id), KeyedTrack)
    if not isinstance(source, ast.Call):
        return False
    name = source.func.attr if isinstance(source.func, ast.Attribute) else getattr(source.func, "id", "")
    return name == "track" and any(
        word.arg == "key" and not (isinstance(word.value, ast.Constant) and word.value.value is None)
        for word in source.keywords
    )
