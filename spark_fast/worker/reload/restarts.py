"""Warns of loops and names that a reload would silently begin again, judging by the source of the running code.

A reload leaves the script's frames and runs the script again. Loops with a key go on, and persisted values stay. But a
loop without a key begins at its first item, and a name that the code sets before a loop is set again. The sender of an
applied reload would not notice. So the reload searches the source of the frames that it leaves for these cases.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from spark_fast.project.files import relative
from spark_fast.project.sources import decode
from spark_fast.worker.reload.blocks import enclosing, functions_around, loops_around, parsed
from spark_fast.worker.reload.lost_loops import is_of_keyed_generator, loss_of
from spark_fast.worker.reload.lost_names import IMMUTABLE, losses_of, set_outside
from spark_fast.worker.reload.modules import ENTRY, Module
from spark_fast.worker.reload.positions import Position, of_stack, of_traceback
from spark_fast.worker.state.ended_loops import EndedLoops

__all__ = ["find", "losses", "lost_keys", "of_ended"]

_SHOWN = 3
"""The most ended loops that a warning names: a script may make a new key for each loop."""


def find(
    modules: Sequence[Module], kept: Iterable[object], roots: Sequence[str], *, error: BaseException | None = None
) -> list[str]:
    """Return the losses() when the calling code is left and runs again.

    modules: the running modules of the project.
    kept: the objects that outlive a reload.
    roots: the folders relative to which paths are shown.
    error: the exception that has left the code already; None if none has.
    """
    paths = [module.path for module in modules]
    positions = of_stack(sys._getframe(), paths) if error is None else of_traceback(error.__traceback__, paths)
    sources = {module.path: module.source for module in modules}
    project = {module.name.split(".")[0] for module in modules}
    return losses(positions, sources, kept, project, roots, _entry(modules))


def _entry(modules: Iterable[Module]) -> str | None:
    return next((module.path for module in modules if module.name == ENTRY), None)


def of_ended(
    ended: EndedLoops,
    passed: Iterable[str],
    begin_again: Iterable[str],
    modules: Sequence[Module],
    kept: Iterable[object],
    roots: Sequence[str],
) -> list[str]:
    """Return the warnings about outermost loops that have ended.

    passed: the keys of loops that are passed over. The objects that they worked with may be made again nonetheless.
    begin_again: the keys of loops that begin at their first items again.
    modules, kept, roots: as for find().
    """
    paths = {module.path: sys.modules.get("__main__" if module.name == ENTRY else module.name) for module in modules}
    positions = []
    for path, name, line in ended.places(passed):
        # The variables of a function are gone, so their values are unknown.
        values = vars(paths[path]).get if name == "<module>" and paths.get(path) is not None else _unknown
        positions.append(Position(path, name, line, False, values))
    sources = {module.path: module.source for module in modules}
    return [
        *losses(positions, sources, kept, {module.name.split(".")[0] for module in modules}, roots),
        *(
            f"the loop with the key {key!r} had ended, so it is passed over; give it another key to go through it again"
            for key in passed
        ),
        *_begin_again(ended, list(begin_again)),
    ]


def _begin_again(ended: EndedLoops, keys: list[str]) -> Iterator[str]:
    for key in [each for each in keys if ended.was_left(each)][:_SHOWN]:
        yield (
            f"an exception ended the loop with the key {key!r}, so it begins at its first item again; a loop that is "
            "left by `break` is passed over"
        )
    others = [each for each in keys if not ended.was_left(each)]
    if len(others) == 1:
        yield f"the loop with the key {others[0]!r} had ended, and begins at its first item again"
    elif others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        shown = ", ".join(map(repr, others[:_SHOWN]))
        yield f"the loops with the keys {shown}{more} had ended, and begin at their first items again"


def _unknown(_: str) -> object:
    return object()


def lost_keys(keys: Iterable[str], before: Iterable[bytes], after: Iterable[bytes]) -> list[str]:
    """Return a warning for each key of a running loop that the new code no longer has.

    keys: the keys of the loops that must go on.
    before, after: the project's running sources, and the edited ones. If the running sources do not contain a key, the
        code computes it, so the edited sources prove nothing about it.
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
    """Return which texts are string literals in the source. Parse it only if it contains one, since that is slow."""
    text = decode(source)
    if not any(each in text for each in wanted):
        return set()
    found = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return {each for each in found if isinstance(each, str)} & wanted


def losses(
    positions: Sequence[Position],
    sources: Mapping[str, bytes],
    kept: Iterable[object],
    packages: Iterable[str] = (),
    roots: Sequence[str] = (),
    entry: str | None = None,
) -> list[str]:
    """Return a sentence, with file and line, for each loop or name that begins again when the frames' code runs again.

    positions: the frames, outermost first.
    sources: the sources that the frames run, by path.
    kept: the objects that outlive a reload.
    packages: the names of the project's modules, up to their first dot.
    roots: the folders relative to which paths are shown.
    entry: the file that any reload executes again; None for none.
    """
    trees: dict[str, ast.Module | None] = {}
    parts = list(_with_parts(kept))
    kept_ids = {id(part) for part in parts if not isinstance(part, IMMUTABLE)}  # equal numbers may be one object
    # A kept function keeps the variables around it.
    kept_code = {(code.co_filename, code.co_name) for part in parts if (code := getattr(part, "__code__", None))}
    project = {*packages, "__main__"}
    found: list[str] = []
    for position, inner in pairwise([*positions, None]):
        assert position is not None
        if position.path not in trees:
            trees[position.path] = parsed(sources.get(position.path))
        tree = trees[position.path]
        if tree is None:
            continue
        shown = relative(position.path, roots)
        from_generator = inner is not None and inner.generator
        scope = enclosing(tree, position)
        loops = list(loops_around(scope.body, position.line))
        for loop in loops:
            if isinstance(loop, ast.While) or is_of_keyed_generator(loop, position, sources):
                continue
            if words := loss_of(loop, position, from_generator=from_generator):
                found.append(f"{shown}:{loop.lineno}: {words}")
        around = () if (position.path, position.name) in kept_code else functions_around(tree, scope)
        outside = set_outside(scope, tree if position.path == entry else None, around)
        for _, line, words in losses_of(scope, outside, loops, position, kept_ids, project, tree):
            found.append(f"{shown}:{line}: {words}")
    return list(dict.fromkeys(found))


def _with_parts(kept: Iterable[object]) -> Iterator[object]:
    """Yield the objects and their parts: attributes, and items of lists and dictionaries."""
    for each in kept:
        parts = vars(each) if hasattr(each, "__dict__") else each
        within = parts.values() if isinstance(parts, dict) else parts if isinstance(parts, (list, tuple)) else ()
        yield from (each, *within)
