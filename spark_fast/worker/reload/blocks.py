"""Finds the loops and functions around a line of a source, and the statements of a block."""

import ast
from collections.abc import Iterator, Sequence

from spark_fast.project.sources import decode
from spark_fast.worker.reload.name_changes import Scope
from spark_fast.worker.reload.positions import Position

__all__ = [
    "LOOPS",
    "SCOPES",
    "blocks",
    "covers",
    "enclosing",
    "functions_around",
    "loops_around",
    "parsed",
    "statements",
]

LOOPS = (ast.For, ast.AsyncFor, ast.While)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
"""Statements and expressions that have their own variables."""


def parsed(source: bytes | None) -> ast.Module | None:
    """Return the tree of a source; None without a source, or if this Python can't parse it."""
    try:
        return None if source is None else ast.parse(decode(source))
    except (SyntaxError, ValueError):
        return None


def enclosing(tree: ast.Module, position: Position) -> Scope:
    """Return the function, or the module, whose code the frame at this position runs."""
    scope: Scope = tree
    if position.name != "<module>":
        for node in ast.walk(tree):
            named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == position.name
            if named and covers(node, position.line):
                scope = node  # type: ignore[assignment]
    return scope


def functions_around(tree: ast.Module, scope: Scope) -> Sequence[Scope]:
    """Return the functions around this one, outermost first."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    around = [each for each in functions if each is not scope and any(node is scope for node in ast.walk(each))]
    return sorted(around, key=lambda each: each.lineno)


def loops_around(body: Sequence[ast.stmt], line: int) -> Iterator[ast.stmt]:
    """Yield the loops of this block that repeat the line, outermost first, without those in functions and classes."""
    for statement in body:
        if not covers(statement, line) or isinstance(statement, SCOPES):
            continue
        if isinstance(statement, LOOPS) and not any(covers(each, line) for each in statement.orelse):
            yield statement
        for block in blocks(statement):
            yield from loops_around(block, line)


def statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a block and of the blocks within, without those in functions and classes."""
    for statement in body:
        yield statement
        if not isinstance(statement, SCOPES):
            for block in blocks(statement):
                yield from statements(block)


def blocks(statement: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield the blocks of a statement: its body, `else`, `finally`, handlers and cases."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(statement, name, None)
        if isinstance(block, list):
            yield block
    for each in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield each.body


def covers(node: ast.AST, line: int) -> bool:
    """Return whether the node covers the line."""
    return getattr(node, "lineno", 0) <= line <= (getattr(node, "end_lineno", 0) or 0)
