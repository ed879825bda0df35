"""What a reload would begin anew without a word, found in the source of the code that is running.

A reload leaves the script's frames and runs it again. Loops with a key go on, and what is persisted stays. A loop
without a key begins at its first item, and a name that the code sets before a loop is set again. A reload that is
applied does not show that by itself, so it is looked for here: in the frames that are left, by their source.
"""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any, NamedTuple

from spark_fast._core import KeyedTrack, Track
from spark_fast.project.files import relative
from spark_fast.project.sources import decode
from spark_fast.worker.reload.modules import ENTRY, Module
from spark_fast.worker.reload.name_changes import Scope, in_loop, names_in
from spark_fast.worker.state import ended_loops

__all__ = ["Position", "find", "losses", "lost_keys", "of_ended", "of_stack", "of_traceback"]

_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_CO_GENERATOR = 0x20 | 0x200  # of inspect, which takes long to import

_SHOWN = 3
"""Loops that are named: a script may make up a key for each."""
_AGAIN = "give it another key to go through it again"

_IMMUTABLE = (int, float, complex, str, bytes, bool, type(None), tuple, frozenset, range)
_CODE = (ModuleType, FunctionType, type)
_STATEFUL_PACKAGES = frozenset({"builtins", "collections", "random", "numpy", "torch", "jax", "flax", "optax", "keras"})
"""Packages whose objects hold what was learned, drawn or counted, where the loop works with them."""


@dataclass(frozen=True)
class Position:
    """Where a frame stands.

    Attributes:
        path: the file of its code.
        name: of its function; `<module>` for a module.
        line: the line that it runs.
        generator: whether it is a generator's, whose caller is handed what it yields.
        names: its variables.
    """

    path: str
    name: str
    line: int
    generator: bool
    names: Callable[[str], Any]


def find(
    modules: Sequence[Module], kept: Iterable[object], roots: Sequence[str], *, error: BaseException | None = None
) -> list[str]:
    """What begins anew when the code that calls this is left and runs again: see losses().

    modules: those of the project, as they run.
    error: the exception that has left the code, if one has.
    """
    paths = [module.path for module in modules]
    positions = of_stack(sys._getframe(), paths) if error is None else of_traceback(error.__traceback__, paths)
    sources = {module.path: module.source for module in modules}
    project = {module.name.split(".")[0] for module in modules}
    return losses(positions, sources, kept, project, roots, _entry(modules))


def _entry(modules: Iterable[Module]) -> str | None:
    return next((module.path for module in modules if module.name == ENTRY), None)


def of_ended(
    passed: Iterable[str], anew: Iterable[str], modules: Sequence[Module], kept: Iterable[object], roots: Sequence[str]
) -> list[str]:
    """What there is to say of outermost loops that have ended.

    passed: the keys of those that are passed over: what they worked with may be made anew all the same.
    anew: of those that begin at their first items again.
    """
    paths = {module.path: sys.modules.get("__main__" if module.name == ENTRY else module.name) for module in modules}
    positions = []
    for path, name, line in ended_loops.places(passed):
        # A function's variables are gone. What they were is not known, so it may have been anything.
        values = vars(paths[path]).get if name == "<module>" and paths.get(path) is not None else _unknown
        positions.append(Position(path, name, line, False, values))
    sources = {module.path: module.source for module in modules}
    return [
        *losses(positions, sources, kept, {module.name.split(".")[0] for module in modules}, roots),
        *(f"the loop with the key {key!r} had ended, so it is passed over; {_AGAIN}" for key in passed),
        *_begin_anew(list(anew)),
    ]


def _begin_anew(keys: list[str]) -> Iterator[str]:
    for key in [each for each in keys if ended_loops.was_left(each)][:_SHOWN]:
        yield (
            f"an exception ended the loop with the key {key!r}, so it begins at its first item again; a loop that is "
            "left by `break` is passed over"
        )
    ended = [each for each in keys if not ended_loops.was_left(each)]
    if len(ended) == 1:
        yield f"the loop with the key {ended[0]!r} had ended, and begins at its first item again"
    elif ended:
        more = f" and {len(ended) - _SHOWN} more" if len(ended) > _SHOWN else ""
        shown = ", ".join(map(repr, ended[:_SHOWN]))
        yield f"the loops with the keys {shown}{more} had ended, and begin at their first items again"


def _unknown(_: str) -> object:
    return object()


def lost_keys(keys: Iterable[str], before: Iterable[bytes], after: Iterable[bytes]) -> list[str]:
    """Return a warning for each key of a running loop that the new code no longer has.

    keys: those of the loops that are to go on.
    before, after: the project's sources as they run, and with the edit. A key that the source before does not have is
        computed by the code, so the source after says nothing of it.
    """
    left = set(keys)
    for source in after:
        left -= _texts_of(source, left)
    gone: set[str] = set()
    for source in before:
        gone |= _texts_of(source, left)
    return [
        f"no loop of the new code has the key {key!r}, so that loop does not go on; under another key a loop begins at "
        "its first item"
        for key in sorted(gone)
    ]


def _texts_of(source: bytes, wanted: set[str]) -> set[str]:
    """Which of the texts stand in the source as whole strings. Parses only a source that may have one: that is slow."""
    text = decode(source)
    if not any(each in text for each in wanted):
        return set()
    found = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return {each for each in found if isinstance(each, str)} & wanted


def of_stack(frame: FrameType | None, paths: Iterable[str]) -> list[Position]:
    """The frames of these files that called this one, outermost first."""
    wanted = frozenset(paths)
    found = []
    while frame is not None:
        if frame.f_code.co_filename in wanted:
            found.append(_position(frame, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def of_traceback(trace: TracebackType | None, paths: Iterable[str]) -> list[Position]:
    """The frames of these files that an exception has left, outermost first."""
    wanted = frozenset(paths)
    found = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in wanted:
            found.append(_position(trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found


def _position(frame: FrameType, line: int) -> Position:
    values = {**frame.f_globals, **frame.f_locals}
    code = frame.f_code
    return Position(code.co_filename, code.co_name, line, bool(code.co_flags & _CO_GENERATOR), values.get)


def losses(
    positions: Sequence[Position],
    sources: Mapping[str, bytes],
    kept: Iterable[object],
    packages: Iterable[str] = (),
    roots: Sequence[str] = (),
    entry: str | None = None,
) -> list[str]:
    """What begins anew when the frames are left and their code runs again: one sentence each, with file and line.

    positions: the frames, outermost first.
    sources: what they run, by path.
    kept: the objects that outlive a reload.
    packages: the names of the project's modules, up to their first dot.
    roots: the folders below which paths are shown in short.
    entry: the file that is executed again whatever has changed.
    """
    trees: dict[str, ast.Module | None] = {}
    parts = list(_with_parts(kept))
    kept_ids = {id(part) for part in parts if not isinstance(part, _IMMUTABLE)}  # equal numbers may be one object
    # The variables around a function that is kept are kept with it.
    kept_code = {(code.co_filename, code.co_name) for part in parts if (code := getattr(part, "__code__", None))}
    project = {*packages, "__main__"}
    found: list[str] = []
    for position, inner in pairwise([*positions, None]):
        assert position is not None
        if position.path not in trees:
            trees[position.path] = _parsed(sources.get(position.path))
        tree = trees[position.path]
        if tree is None:
            continue
        shown = relative(position.path, roots)
        from_generator = inner is not None and inner.generator
        scope = _enclosing(tree, position)
        loops = list(_loops_around(scope.body, position.line))
        for loop in loops:
            if isinstance(loop, ast.While) or _is_of_keyed_generator(loop, position, sources):
                continue
            if words := _loop_loss(loop, position, from_generator=from_generator):
                found.append(f"{shown}:{loop.lineno}: {words}")
        around = () if (position.path, position.name) in kept_code else _functions_around(tree, scope)
        outside = _set_outside(scope, tree if position.path == entry else None, around)
        for name, line, words in _name_losses(scope, outside, loops, position, kept_ids, project, tree):
            found.append(f"{shown}:{line}: {words.format(name=name)}")
    return list(dict.fromkeys(found))


def _with_parts(kept: Iterable[object]) -> Iterator[object]:
    """The objects, and what is in them: their attributes, and the items of lists and dictionaries."""
    for each in kept:
        parts = vars(each) if hasattr(each, "__dict__") else each
        within = parts.values() if isinstance(parts, dict) else parts if isinstance(parts, (list, tuple)) else ()
        yield from (each, *within)


def _parsed(source: bytes | None) -> ast.Module | None:
    try:
        return None if source is None else ast.parse(decode(source))
    except (SyntaxError, ValueError):  # of another Python: it runs all the same
        return None


def _enclosing(tree: ast.Module, position: Position) -> Scope:
    """The function, or the module, that stands at this line."""
    scope: Scope = tree
    if position.name != "<module>":
        for node in ast.walk(tree):
            named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == position.name
            if named and _covers(node, position.line):
                scope = node  # type: ignore[assignment]
    return scope


def _covers(node: ast.AST, line: int) -> bool:
    return getattr(node, "lineno", 0) <= line <= (getattr(node, "end_lineno", 0) or 0)


def _loops_around(body: Sequence[ast.stmt], line: int) -> Iterator[ast.stmt]:
    for statement in body:
        if not _covers(statement, line) or isinstance(statement, _SCOPES):
            continue
        if isinstance(statement, _LOOPS) and not any(_covers(each, line) for each in statement.orelse):
            yield statement
        for block in _blocks(statement):
            yield from _loops_around(block, line)


def _blocks(statement: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(statement, name, None)
        if isinstance(block, list):
            yield block
    for each in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield each.body


# --- loops ---


def _loop_loss(loop: ast.stmt, position: Position, *, from_generator: bool) -> str | None:
    """What of a `for` loop begins anew; None if it goes on."""
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
        return None  # the loop within the generator has a key, or is named itself
    return "this loop has no key, so it begins at its first item again; track(…, key=…) goes on where it was"


def _is_of_keyed_generator(loop: ast.stmt, position: Position, sources: Mapping[str, bytes]) -> bool:
    """Whether it is a loop over a generator of the project's that has a loop with a key, and goes on with that."""
    source = getattr(loop, "iter", None)
    if not isinstance(source, ast.Call):
        return False
    function: Any = None
    if isinstance(source.func, ast.Name):
        function = position.names(source.func.id)
    elif isinstance(source.func, ast.Attribute) and isinstance(source.func.value, ast.Name):
        function = getattr(type(position.names(source.func.value.id)), source.func.attr, None)
    code = getattr(function, "__code__", None)
    if code is None or not code.co_flags & _CO_GENERATOR:
        return False
    tree = _parsed(sources.get(code.co_filename))
    if tree is None:
        return False
    scope = _enclosing(tree, Position(code.co_filename, code.co_name, code.co_firstlineno, True, position.names))
    return any(isinstance(node, ast.Call) and _is_keyed(node, position) for node in ast.walk(scope))


def _is_keyed(source: ast.expr, position: Position) -> bool:
    if isinstance(source, ast.Name):
        return isinstance(position.names(source.id), KeyedTrack)
    if not isinstance(source, ast.Call):
        return False
    name = source.func.attr if isinstance(source.func, ast.Attribute) else getattr(source.func, "id", "")
    return name == "track" and any(
        word.arg == "key" and not (isinstance(word.value, ast.Constant) and word.value.value is None)
        for word in source.keywords
    )


# --- names ---

_COUNTS = (
    "`{name}` is set again when the code runs again, though the loop counts on with it; keep it in spark.persist() or "
    "in the loop's own `kept`"
)
_MADE = "`{name}` is made anew when the code runs again; spark.persist() keeps it"


def _name_losses(
    scope: Scope,
    outside: dict[str, "_Set"],
    loops: Sequence[ast.stmt],
    position: Position,
    kept: set[int],
    project: set[str],
    tree: ast.Module,
) -> Iterator[tuple[str, int, str]]:
    """The names that are set before one of the loops and changed in it: name, line and what is lost. An object that is
    told of is added to `kept`: the frames within may have it by another name."""
    seen: set[str] = set()
    for loop in loops:
        inside = {name: _Set(statement, scope) for name, statement in _bound_before(scope.body, loop).items()}
        for name, (statement, owner) in (outside | inside).items():
            if name in seen or _is_kept_value(statement):
                continue
            value = position.names(name)
            if id(value) in kept or isinstance(value, (*_CODE, Track, KeyedTrack)):
                continue
            changes = in_loop(loop, name, owner, tree)
            if changes.counts:
                seen.add(name)
                yield name, statement.lineno, _COUNTS
            elif changes.works_on and _holds_state(value, project):
                seen.add(name)
                kept.add(id(value))
                yield name, statement.lineno, _MADE


class _Set(NamedTuple):
    """A statement that sets a name, and the function or module whose variable it is."""

    statement: ast.stmt
    owner: Scope


def _set_outside(scope: Scope, script: ast.Module | None, around: Iterable[Scope]) -> dict[str, _Set]:
    """The names of a function that are set outside of its body: in the script's top level and the functions around it,
    and as its arguments.

    script: None if the function stands in a module that is not executed again.
    around: the functions around it, outermost first.
    """
    found: dict[str, _Set] = {}
    if isinstance(scope, ast.Module):
        return found
    inside = {node.id for node in ast.walk(scope) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(scope):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            inside -= set(node.names)
    for outer in (*([script] if script is not None else []), *around):
        found |= {name: each for name, each in _arguments(outer).items() if name not in inside}
        for statement in _statements(outer.body):
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                found |= {name: _Set(statement, outer) for name in _targets(statement) if name not in inside}
    return found | _arguments(scope)


def _arguments(scope: Scope) -> dict[str, _Set]:
    if isinstance(scope, ast.Module):
        return {}
    arguments = (*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs)
    return {each.arg: _Set(scope, scope) for each in arguments}


def _functions_around(tree: ast.Module, scope: Scope) -> Sequence[Scope]:
    """The functions that this one is defined in, outermost first."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    around = [each for each in functions if each is not scope and any(node is scope for node in ast.walk(each))]
    return sorted(around, key=lambda each: each.lineno)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block, and of the blocks within."""
    for statement in body:
        yield statement
        if not isinstance(statement, _SCOPES):
            for block in _blocks(statement):
                yield from _statements(block)


def _bound_before(body: Sequence[ast.stmt], loop: ast.stmt) -> dict[str, ast.stmt]:
    """The names that statements before the loop set, with the last that does, in the blocks around it."""
    found: dict[str, ast.stmt] = {}
    for statement in body:
        if statement is loop:
            return found
        if _covers(statement, loop.lineno) and not isinstance(statement, _SCOPES):
            if isinstance(statement, (ast.With, ast.AsyncWith)):
                found |= dict.fromkeys(names_in([each.optional_vars for each in statement.items]), statement)
            if isinstance(statement, _LOOPS):
                for name in _targets(statement):
                    found.pop(name, None)  # what a loop sets for each item is no loss
            for block in _blocks(statement):
                if any(_covers(each, loop.lineno) for each in block):
                    return found | _bound_before(block, loop)
            return found
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            found |= dict.fromkeys(_targets(statement), statement)
    return found


def _targets(statement: ast.stmt) -> Iterator[str]:
    return names_in(statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)])


def _is_kept_value(statement: ast.stmt) -> bool:
    """Whether the statement takes what outlives a reload: the value of persist() or expose()."""
    value = getattr(statement, "value", None)
    if not isinstance(value, ast.Call):
        return False
    name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    return name in ("persist", "expose", "track", "create_controller")


def _holds_state(value: object, project: set[str]) -> bool:
    """Whether an object that a loop works with is likely to hold what was learned, drawn or counted."""
    if isinstance(value, (*_IMMUTABLE, *_CODE)) or value is None:
        return False
    if _has_no_tensors(value):
        return False
    package = str(getattr(type(value), "__module__", "")).split(".")[0]
    return package in _STATEFUL_PACKAGES or package in project


def _has_no_tensors(value: object) -> bool:
    """Whether it is a PyTorch module that learns nothing, such as a loss function."""
    modules = sys.modules.get("torch.nn.modules.module")
    if modules is None or not isinstance(value, modules.Module):
        return False
    return not any(True for _ in value.parameters()) and not any(True for _ in value.buffers())
