"""Finds names that a loop carries from item to item, and that are set again when its code runs again."""

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FunctionType, ModuleType
from typing import NamedTuple

from spark_fast._core import KeyedTrack, Track
from spark_fast.worker.reload.blocks import LOOPS, SCOPES, blocks, covers, statements
from spark_fast.worker.reload.name_changes import Scope, in_loop, names_in
from spark_fast.worker.reload.positions import Position

__all__ = ["IMMUTABLE", "Assignment", "losses_of", "set_outside"]

IMMUTABLE = (int, float, complex, str, bytes, bool, type(None), tuple, frozenset, range)
_CODE = (ModuleType, FunctionType, type)
_STATEFUL_PACKAGES = frozenset({"builtins", "collections", "random", "numpy", "torch", "jax", "flax", "optax", "keras"})
"""Packages whose objects hold learned, drawn or counted state, if a loop works with them."""

_COUNTS = (
    "`{name}` is set again when the code runs again, though the loop counts on with it; keep it in spark.persist() or "
    "in the loop's own `kept`"
)
_MADE = "`{name}` is made anew when the code runs again; spark.persist() keeps it"


class Assignment(NamedTuple):
    """A statement that sets a name, and the function or module whose variable it sets."""

    statement: ast.stmt
    owner: Scope


def losses_of(
    scope: Scope,
    outside: dict[str, Assignment],
    loops: Sequence[ast.stmt],
    position: Position,
    kept: set[int],
    project: set[str],
    tree: ast.Module,
) -> Iterator[tuple[str, int, str]]:
    """Yield the names that are set before one of the loops and changed in it: name, line, and why that is a loss.

    scope: the function or the module that the loops stand in.
    outside: the names that are set outside of the body of `scope`: see set_outside().
    loops: the loops, outermost first.
    kept: the ids of the objects that outlive a reload. This adds the objects whose names it yields, since inner frames
        may have them under another name.
    project: the names of the project's modules, up to their first dot.
    tree: the tree of the file.
    """
    seen: set[str] = set()
    for loop in loops:
        inside = {name: Assignment(statement, scope) for name, statement in _bound_before(scope.body, loop).items()}
        for name, (statement, owner) in (outside | inside).items():
            if name in seen or _sets_kept_value(statement):
                continue
            value = position.names(name)
            if id(value) in kept or isinstance(value, (*_CODE, Track, KeyedTrack)):
                continue
            changes = in_loop(loop, name, owner, tree)
            if changes.counts:
                seen.add(name)
                yield name, statement.lineno, _COUNTS.format(name=name)
            elif changes.works_on and _holds_state(value, project):
                seen.add(name)
                kept.add(id(value))
                yield name, statement.lineno, _MADE.format(name=name)


def set_outside(scope: Scope, script: ast.Module | None, around: Iterable[Scope]) -> dict[str, Assignment]:
    """Return the names that are set outside of a function's body, and that it may use.

    They are its arguments, and the names that the script's top level and the functions around it set.

    script: the script's tree; None if the function stands in a module that is not executed again.
    around: the functions around it, outermost first.
    """
    found: dict[str, Assignment] = {}
    if isinstance(scope, ast.Module):
        return found
    inside = {node.id for node in ast.walk(scope) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(scope):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            inside -= set(node.names)
    for outer in (*([script] if script is not None else []), *around):
        found |= {name: each for name, each in _arguments(outer).items() if name not in inside}
        for statement in statements(outer.body):
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                found |= {name: Assignment(statement, outer) for name in _targets(statement) if name not in inside}
    return found | _arguments(scope)


def _arguments(scope: Scope) -> dict[str, Assignment]:
    if isinstance(scope, ast.Module):
        return {}
    arguments = (*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs)
    return {each.arg: Assignment(scope, scope) for each in arguments}


def _bound_before(body: Sequence[ast.stmt], loop: ast.stmt) -> dict[str, ast.stmt]:
    """Return the names that statements before the loop set, in the blocks around it, each with its last statement."""
    found: dict[str, ast.stmt] = {}
    for statement in body:
        if statement is loop:
            return found
        if covers(statement, loop.lineno) and not isinstance(statement, SCOPES):
            if isinstance(statement, (ast.With, ast.AsyncWith)):
                found |= dict.fromkeys(names_in([each.optional_vars for each in statement.items]), statement)
            if isinstance(statement, LOOPS):
                for name in _targets(statement):
                    found.pop(name, None)  # the loop sets it for each item, so nothing is lost
            for block in blocks(statement):
                if any(covers(each, loop.lineno) for each in block):
                    return found | _bound_before(block, loop)
            return found
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            found |= dict.fromkeys(_targets(statement), statement)
    return found


def _targets(statement: ast.stmt) -> Iterator[str]:
    return names_in(statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)])


def _sets_kept_value(statement: ast.stmt) -> bool:
    """Return whether the statement sets a name to a value that outlives a reload, of persist() for instance."""
    value = getattr(statement, "value", None)
    if not isinstance(value, ast.Call):
        return False
    name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    return name in ("persist", "expose", "track", "create_controller")


def _holds_state(value: object, project: set[str]) -> bool:
    """Return whether an object that a loop works with is likely to hold learned, drawn or counted state."""
    if isinstance(value, (*IMMUTABLE, *_CODE)) or value is None:
        return False
    if _has_no_tensors(value):
        return False
    package = str(getattr(type(value), "__module__", "")).split(".")[0]
    return package in _STATEFUL_PACKAGES or package in project


def _has_no_tensors(value: object) -> bool:
    """Return whether this is a PyTorch module that learns nothing, such as a loss function."""
    modules = sys.modules.get("torch.nn.modules.module")
    if modules is None or not isinstance(value, modules.Module):
        return False
    return not any(True for _ in value.parameters()) and not any(True for _ in value.buffers())
