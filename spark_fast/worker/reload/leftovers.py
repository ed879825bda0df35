"""Warns of objects that new code does not change: those of removed classes, and persisted values with a new factory."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spark_fast.worker.reload.patching.referrers import REFERENCES_OF_A_CALL, referrers
from spark_fast.worker.reload.patching.source import Source, parsed

__all__ = ["factory_warnings", "object_warnings"]

_MAKES_INSTANCES = {"__new__", "__init__", "__post_init__"}
_DEEPEST = 3


def object_warnings(
    classes: list[tuple[str, type]], persisted: Mapping[str, object], kept: Sequence[Mapping[str, object]] = ()
) -> list[str]:
    """Return a warning for each class that still has objects. Runs no code of the user's.

    Costs a pass over all objects if there are classes.

    classes: the classes that the new source lacks, each with its place in the old source.
    persisted: the persisted values, by key.
    kept: mappings whose values are held only so that the reload can be undone.
    """
    sought = [cls for _, cls in classes]
    if not sought:
        return []
    objects = [thing for thing in referrers(sought) if type(thing) in sought]
    held = Counter(id(thing) for mapping in kept for thing in mapping.values())
    counts = list(map(sys.getrefcount, objects))
    found = [
        type(thing)
        for thing, count in zip(objects, counts, strict=True)
        if count > held[id(thing)] + REFERENCES_OF_A_CALL + 1
    ]
    warnings = []
    for label, cls in classes:
        count = sum(kind is cls for kind in found)
        keys = [key for key, value in persisted.items() if type(value) is cls]
        named = f" ({', '.join(f'persisted as {key!r}' for key in keys)})" if keys else ""
        if count:
            those = "1 object of it keeps" if count == 1 else f"{count} objects of it keep"
            warnings.append(
                f"{label} is gone from the new code; {those} its old methods{named}. To have such objects made anew, "
                "start the training over (reload --restart), or call spark.clear_persisted(key) before persist()"
            )
    return warnings


def factory_warnings(
    old: Mapping[str, str],
    new: Mapping[str, str],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    renamed: Mapping[str, str],
    files: Mapping[str, str],
) -> list[str]:
    """Return a warning for each key whose factory changed, but whose value the reload has kept.

    old, new: the project's sources, by module name.
    before, now: the persisted values, by key.
    renamed: the old names of renamed classes, by their new names.
    files: the names of the files, by module name.
    """
    missing = object()
    return [
        warning
        for key, warning in _changed_factories(old, new, renamed, files).items()
        if before.get(key, missing) is now.get(key, before)
    ]


def _changed_factories(
    old: Mapping[str, str], new: Mapping[str, str], renamed: Mapping[str, str], files: Mapping[str, str]
) -> dict[str, str]:
    """Return the warnings, by key, for factories of persist() that changed, or that call a function that changed."""
    if old == new:
        return {}
    found: dict[str, str] = {}
    for module in new:
        if module not in old or "persist" not in old[module]:
            continue
        before, after = _calls(parsed(old[module])), _calls(parsed(new[module]))
        for key in before.keys() & after.keys():
            had = dict(_made_of(old, module, before[key]))
            for where, what in _made_of(new, module, after[key]):
                for name, earlier in renamed.items():
                    what = what.replace(f"id={name!r}", f"id={earlier!r}")
                if had.get(where, what) != what:
                    what = f"{where[1]} in {files[where[0]]}" if where[1] else "its factory"
                    found[key] = (
                        f"{files[module]}:{after[key].lineno}: persist({key!r}) keeps the value that was made before "
                        f"{what} changed. To have it made anew, start the training over (reload --restart), or call "
                        f"spark.clear_persisted({key!r}) before persist()"
                    )
                    break
    return found


def _calls(source: Source) -> dict[str, ast.expr]:
    """Return the factories of all persist() calls with a literal key, by key."""
    found: dict[str, ast.expr] = {}
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        given = dict(zip(("key", "initializer"), node.args, strict=False))
        given |= {each.arg: each.value for each in node.keywords if each.arg is not None}
        key, factory = given.get("key"), given.get("initializer")
        if name == "persist" and isinstance(key, ast.Constant) and isinstance(key.value, str) and factory is not None:
            found[key.value] = factory
    return found


def _made_of(sources: Mapping[str, str], module: str, factory: ast.expr) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the sources that make the value: the factory, and the definitions of the project that it names."""
    waiting: list[tuple[str, str, ast.AST, int]] = [(module, "", factory, 0)]
    seen: set[tuple[str, str]] = set()
    for where, name, node, depth in waiting:
        if (where, name) in seen:
            continue
        seen.add((where, name))
        parts = list(_making(node))
        yield (where, name), "\n".join(map(ast.dump, parts))
        if depth == _DEEPEST:
            continue
        for used in _names(parts):
            home, called = _home(sources, where, used)
            for definition in parsed(sources[home]).definitions.get(called, ()) if home in sources else ():
                waiting.append((home, called, definition, depth + 1))


def _making(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a definition that decide how an instance is made. A class's other methods are left out."""
    if not isinstance(node, ast.ClassDef):
        yield node
        return
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) or getattr(statement, "name", None) in _MAKES_INSTANCES:
            yield statement


def _names(parts: list[ast.AST]) -> Iterator[str]:
    for part in parts:
        for node in ast.walk(part):
            if isinstance(node, ast.Name):
                yield node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                yield f"{node.value.id}.{node.attr}"


def _home(sources: Mapping[str, str], module: str, name: str) -> tuple[str, str]:
    """Return the module that defines a name used in this module, and the name there."""
    first, _, rest = name.partition(".")
    package = module.rpartition(".")[0]
    for node in ast.walk(parsed(sources[module]).tree):
        if isinstance(node, ast.ImportFrom) and not rest:
            source = f"{package}.{node.module}" if node.level == 1 and package else node.module or ""
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    return source, alias.name
        elif isinstance(node, ast.Import) and rest:
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    return alias.name, rest
    return module, name
