"""Finds edits that can't be made in place before anything is executed."""

import ast
import sys
from abc import ABCMeta
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from spark_fast.errors import ReloadRefusedError
from spark_fast.worker.reload.patching.classes import bases_differ, find_class, listed
from spark_fast.worker.reload.patching.comparison import calls_of, first_difference, same_node, unfit_method
from spark_fast.worker.reload.patching.kinds import made_once
from spark_fast.worker.reload.patching.source import Source, parsed

__all__ = ["preflight"]


def preflight(old_source: str, new_source: str, module: ModuleType) -> None:
    """Raise ReloadRefusedError for an edit of a class that its existing instances can't follow.

    This executes nothing. It sees literal `__slots__`, dataclass(slots=True), and bases that are classes of the
    module's present namespace. The patch finds other such edits as the new code is executed, which is then undone.
    """
    if old_source != new_source and _holds_made_once(vars(module), set()):
        _check_made_once(parsed(old_source), parsed(new_source), module)
    if _have_same_headers(old_source, new_source):
        return
    old, new = parsed(old_source), parsed(new_source)
    olds = dict(old.classes())
    for qualname, node in new.classes():
        if qualname not in olds:
            continue
        living = _living(vars(module), module.__name__, qualname)
        if living is None:
            continue
        reason = _slots_reason(olds[qualname], node, living) or _bases_reason(old, new, olds[qualname], node, module)
        if reason is not None:
            raise _refusal(module, node, f"class {qualname}", reason)


def _holds_made_once(names: Mapping[str, Any], seen: set[int]) -> bool:
    """Return whether a name holds an object that a library makes once. So most edits need no parsing here."""
    for value in list(names.values()):
        if made_once(value) is not None:
            return True
        if not isinstance(value, type) or id(value) in seen:
            continue
        seen.add(id(value))
        is_ours = value.__module__ == names.get("__name__", names.get("__module__"))
        if is_ours and _holds_made_once(vars(value), seen):
            return True
    return False


def _check_made_once(old: Source, new: Source, module: ModuleType) -> None:
    """Refuse edits of objects that a library makes once: of a class beyond its methods, and of a call's arguments."""
    olds = dict(old.classes())
    for qualname, node in new.classes():
        living = _living(vars(module), module.__name__, qualname) if qualname in olds else None
        reason = made_once(living)
        if reason is None or same_node(old, olds[qualname], new, node):
            continue
        at = first_difference(old, olds[qualname], new, node) or unfit_method(old, olds[qualname], new, node, False)
        if at is not None:
            raise _refusal(module, at, f"class {qualname}", f"it changed, and {reason}")
    calls = calls_of(old)
    for name, statement in calls_of(new).items():
        reason = made_once(vars(module).get(name)) if name in calls else None
        if reason is not None and not same_node(old, calls[name], new, statement):
            raise _refusal(module, statement, name, f"it changed, and {reason}")


def _refusal(module: ModuleType, at: ast.AST, what: str, reason: str) -> ReloadRefusedError:
    file = Path(getattr(module, "__file__", None) or module.__name__).name
    return ReloadRefusedError(f"{file}:{getattr(at, 'lineno', 1)}: {what}", reason)


def _have_same_headers(old: str, new: str) -> bool:
    """Return whether the lines alone show that neither bases nor slots changed. So most edits need no parsing here."""
    if "slots" in old or "slots" in new:
        return False
    headers = [[line for line in map(str.strip, text.splitlines()) if line.startswith("class ")] for text in (old, new)]
    return headers[0] == headers[1] and all(":" in header for header in headers[0])


def _living(namespace: dict[str, Any], module: str, qualname: str) -> type | None:
    outer, _, name = qualname.rpartition(".")
    owner = _living(namespace, module, outer) if outer else None
    names: Mapping[str, Any] = namespace if owner is None else vars(owner)
    if (outer and owner is None) or name not in names:
        return None
    return find_class(names[name], namespace, module, qualname)


def _slots_reason(old: ast.ClassDef, new: ast.ClassDef, living: type) -> str | None:
    had, has = _slots(old), _slots(new)
    if had is EVALUATED or has is EVALUATED or had == has:
        return None
    inherited = {name for base in living.__mro__[1:] for name in vars(base).get("__slots__", ())}
    if had is not None and has is not None and had - inherited == has - inherited:
        return None
    return f"its __slots__ changed from {listed(had)} to {listed(has)}, and its instances live on"


EVALUATED = frozenset({"*"})
"""Stands for slots that only executing the code reveals."""


_PLAIN = (ast.Assign, ast.AnnAssign, ast.Expr, ast.Pass, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _slots(node: ast.ClassDef) -> frozenset[str] | None:
    """Return the names of the slots as they are written; None if there are none."""
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith("dataclass"):
            if isinstance(decorator, (ast.Name, ast.Attribute)) and ast.unparse(decorator).endswith("dataclass"):
                continue
            return EVALUATED  # a decorator may do anything
        for keyword in decorator.keywords:
            if keyword.arg == "slots" and not isinstance(keyword.value, ast.Constant):
                return EVALUATED
            if keyword.arg == "slots" and getattr(keyword.value, "value", False):
                return _fields(node)
    for statement in node.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__slots__" for target in statement.targets
        ):
            try:
                value = ast.literal_eval(statement.value)
            except ValueError:
                return EVALUATED
            return frozenset({value} if isinstance(value, str) else value)
        if not isinstance(statement, _PLAIN) and "__slots__" in ast.dump(statement):
            return EVALUATED
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "__slots__":
            return EVALUATED
    if any(not isinstance(base, ast.Name) or base.id == "NamedTuple" for base in node.bases):
        return EVALUATED  # bases like NamedTuple make slots themselves
    return None


def _fields(node: ast.ClassDef) -> frozenset[str]:
    found = set()
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            kind = ast.unparse(statement.annotation)
            if "KW_ONLY" in kind or "InitVar" in kind:
                return EVALUATED
            if "ClassVar" not in kind:
                found.add(statement.target.id)
    return frozenset(found)


def _bases_reason(old: Source, new: Source, had: ast.ClassDef, has: ast.ClassDef, module: ModuleType) -> str | None:
    if had.decorator_list or has.decorator_list or had.keywords or has.keywords:
        return None
    if [ast.dump(base) for base in had.bases] == [ast.dump(base) for base in has.bases]:
        return None
    before = _resolve(had.bases, old, new, module)
    after = _resolve(has.bases, old, new, module)
    if before is None or after is None or before == after:
        return None
    if not all(_is_quiet(base) for base in (*before, *after)):
        return None  # making a subclass to try it would run the project's own code
    try:
        trial = type("trial", before, {})
    except TypeError:
        return None
    try:
        trial.__bases__ = after
    except TypeError as error:
        return bases_differ(error, trial, after)
    finally:
        trial.__module__ = __name__
    return None


def _resolve(bases: list[ast.expr], old: Source, new: Source, module: ModuleType) -> tuple[type, ...] | None:
    """Return the classes that the bases mean; None if the two sources bind these names in different ways."""
    found: list[type] = []
    for base in bases:
        words = ast.unparse(base).split(".")
        if not all(word.isidentifier() for word in words) or _binders(old, words[0]) != _binders(new, words[0]):
            return None
        value: Any = vars(module).get(words[0], getattr(__import__("builtins"), words[0], None))
        for word in words[1:]:
            value = getattr(value, word, None)
        if not isinstance(value, type):
            return None
        found.append(value)
    return tuple(found) or (object,)


def _binders(source: Source, name: str) -> list[str]:
    """Return how the top level binds the name: imports in full, and the kind of other statements."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found += [
                ast.unparse(node) for alias in node.names if (alias.asname or alias.name).partition(".")[0] == name
            ]
        elif isinstance(node, ast.ClassDef) and node.name == name:
            found.append("class")
        elif isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            found.append("assigned")
    return found


def _is_quiet(cls: type) -> bool:
    standard = sys.stdlib_module_names
    return type(cls) in (type, ABCMeta) and all(
        "__init_subclass__" not in vars(base) or base.__module__.partition(".")[0] in standard for base in cls.__mro__
    )
