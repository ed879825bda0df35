"""Compares two sources of a module: which definitions an edit changed."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set

from spark_fast.worker.reload.patching.source import Source, bound_by

__all__ = [
    "Body",
    "Comparison",
    "altered_later",
    "calls_of",
    "changed_methods",
    "first_difference",
    "is_method",
    "unfit_method",
    "wrapped_attributes",
]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_PLAIN = {"property", "cached_property", "staticmethod", "classmethod", "override", "setter", "getter", "deleter"}


class Comparison:
    """The definitions of two sources of a module, side by side.

    Make it before the tree of the new source is changed.

    Attributes:
        unchanged: the qualified names of the definitions that have the same text in both sources.
        methods_changed: the qualified names of the classes in which only methods and the docstring differ.
        changed_names: the names that the two top levels bind by statements with different text.
    """

    def __init__(self, old: Source, new: Source) -> None:
        self._old = old
        self.unchanged = {
            qualname
            for qualname, nodes in old.definitions.items()
            if _same_nodes(old, nodes, new, new.definitions.get(qualname, []))
        }
        self.methods_changed = {
            qualname
            for qualname, node in old.classes()
            if qualname not in self.unchanged
            and new.is_class(qualname)
            and len(new.definitions[qualname]) == len(old.definitions[qualname]) == 1
            and first_difference(old, node, new, new.class_node(qualname)) is None
        }
        self._had, has = _bindings(old), _bindings(new)
        self.changed_names = {
            name
            for name in self._had.keys() | has.keys()
            # If a definition is in several branches, the new code may take another one.
            if (name not in self.unchanged or len(old.definitions[name]) > 1)
            and not _same_nodes(old, self._had.get(name, []), new, has.get(name, []))
        }

    def bindings(self, name: str) -> list[ast.stmt]:
        """Return the statements of the old source's top level that bind the name."""
        return self._had.get(name, [])


def calls_of(source: Source) -> dict[str, ast.Assign | ast.AnnAssign]:
    """Return the statements `name = call(…)` of the top level, by name, if no other statement binds the name."""
    found: dict[str, ast.Assign | ast.AnnAssign] = {}
    for name, statements in _bindings(source).items():
        statement = statements[0]
        if len(statements) > 1 or not isinstance(statement, (ast.Assign, ast.AnnAssign)):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if len(targets) == 1 and isinstance(targets[0], ast.Name) and isinstance(statement.value, ast.Call):
            found[name] = statement
    return found


def altered_later(source: Source) -> dict[str, set[str]]:
    """Return the names of the classes that the top level changes after their definition, with the changed attributes.

    The top level assigns an attribute of such a class, or passes the class to a call.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for statement in source.tree.body:
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
            targets = [statement.target]
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            for argument in statement.value.args:
                if isinstance(argument, ast.Name):
                    found[argument.id].update(())
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                found[target.value.id].add(target.attr)
    return dict(found)


def wrapped_attributes(source: Source) -> list[tuple[str, str]]:
    """Return the owner (`a.b`) and the name (`c`) of attributes that statements `a.b.c = …(a.b.c)…` wrap."""
    found: list[tuple[str, str]] = []
    for statement in source.tree.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(statement, ast.Assign) and isinstance(target, ast.Attribute):
            words = ast.unparse(target)
            parts = (part for part in ast.walk(statement.value) if isinstance(part, ast.Attribute))
            if any(ast.unparse(part) == words for part in parts):
                found.append((ast.unparse(target.value), target.attr))
    return found


def first_difference(old: Source, had: ast.ClassDef, new: Source, has: ast.ClassDef) -> ast.AST | None:
    """Return the first part of the new class statement that differs from the old, other than methods and docstring.

    Return the statement itself if a part is missing, None if no part differs.
    """
    pairs: list[tuple[Sequence[ast.AST], Sequence[ast.AST]]] = [
        (had.decorator_list, has.decorator_list),
        (had.bases, has.bases),
        (had.keywords, has.keywords),
        (getattr(had, "type_params", []), getattr(has, "type_params", [])),
        (_fields(had), _fields(has)),
    ]
    for olds, news in pairs:
        for one, other in zip(olds, news, strict=False):
            if not _same(one, other):
                return other
        if len(olds) != len(news):
            return news[len(olds)] if len(news) > len(olds) else has
    return None


def is_method(node: ast.stmt) -> bool:
    """Return whether the statement, in the body of a class, defines a method."""
    return isinstance(node, _FUNCTIONS)


def same_node(old: Source, had: ast.stmt, new: Source, has: ast.stmt) -> bool:
    """Return whether both statements are equal. Compares their text first, which is faster."""
    return old.segment(had) == new.segment(has) or _same(had, has)


def changed_methods(old: Source, had: ast.ClassDef, new: Source, has: ast.ClassDef) -> set[str]:
    """Return the names of the methods that differ, and `__doc__` if the docstring differs."""
    olds, news = _methods(had), _methods(has)
    names = {
        name for name in olds.keys() | news.keys() if not _same_nodes(old, olds.get(name, []), new, news.get(name, []))
    }
    if ast.get_docstring(had, clean=False) != ast.get_docstring(has, clean=False):
        names.add("__doc__")
    return names


def unfit_method(old: Source, had: ast.ClassDef, new: Source, has: ast.ClassDef, plain: bool) -> ast.AST | None:
    """Return the first changed method that can't be updated without the rest of the class; None if all can.

    plain: whether methods with decorators of libraries can't be updated alone either.
    """
    olds, news = _methods(had), _methods(has)
    changed = changed_methods(old, had, new, has) - {"__doc__"}
    others = set(bound_by(has.body)) - changed
    for name in sorted(changed):
        before, after = olds.get(name, []), news.get(name, [])
        at = after[0] if after else has
        if name.startswith("__") and name.endswith("__") and not (before and after):
            return at  # under such a name, a class keeps more than the method
        words = [[ast.unparse(each) for each in node.decorator_list] for node in (*before, *after)]
        if before and after and [*map(len, words[: len(before)])] != [*map(len, words[len(before) :])]:
            return at
        every = {word for each in words for word in each}
        if any("abstract" in word or "declared_attr" in word for word in every):
            return at
        if (plain or not (before and after)) and not all(_is_plain(word) for word in every):
            return at
        if any(used & others for used in map(_names_outside_body, after)):
            return at
    return None


class Body:
    """The names that the body of a class binds, in its old source.

    Attributes:
        changed: the names that the new source binds by statements with another text.
        values: the names that only assignments bind, with these statements, if their text is unchanged.
    """

    def __init__(self, old: Source, had: ast.ClassDef, new: Source, has: ast.ClassDef) -> None:
        self._statements, news = _by_name(had.body), _by_name(has.body)
        self.changed = {
            name
            for name in self._statements.keys() | news.keys()
            if not _same_nodes(old, self._statements.get(name, []), new, news.get(name, []))
        }
        self.values = {
            name: statements
            for name, statements in self._statements.items()
            if name not in self.changed and not any(isinstance(each, _DEFINITIONS) for each in statements)
        }

    def reached_from(self, changed: Set[str]) -> set[str]:
        """Return these names, the names of the body whose statements mention them, and so on."""
        reached = set(changed)
        while more := {
            name
            for name, statements in self._statements.items()
            if name not in reached and any(_names_outside_functions(each) & reached for each in statements)
        }:
            reached |= more
        return reached


def _methods(node: ast.ClassDef) -> dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]]:
    found: defaultdict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = defaultdict(list)
    for each in node.body:
        if isinstance(each, _FUNCTIONS):
            found[each.name].append(each)
    return found


def _is_plain(decorator: str) -> bool:
    return decorator.rpartition(".")[2] in _PLAIN


def _names_outside_functions(node: ast.stmt) -> set[str]:
    """Return the names that are looked up when the statement is executed."""
    if isinstance(node, _FUNCTIONS):
        return _names_outside_body(node)
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _names_outside_body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    outside: list[ast.AST] = [*node.decorator_list, node.args, *([node.returns] if node.returns else [])]
    return {part.id for each in outside for part in ast.walk(each) if isinstance(part, ast.Name)}


def _same(had: ast.AST, has: ast.AST) -> bool:
    """Return whether both nodes are equal but for their places in the file. Stops at the first difference."""
    waiting: list[tuple[object, object]] = [(had, has)]
    while waiting:
        one, other = waiting.pop()
        if one is other:
            continue
        if type(one) is not type(other):
            return False
        if isinstance(one, ast.AST):
            waiting += [(getattr(one, name, None), getattr(other, name, None)) for name in one._fields]
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            waiting += zip(one, other, strict=True)
        elif repr(one) != repr(other):  # unlike ==, tells 0.0 from -0.0
            return False
    return True


def _same_nodes(old: Source, had: Sequence[ast.stmt], new: Source, has: Sequence[ast.stmt]) -> bool:
    return len(had) == len(has) and all(same_node(old, one, new, other) for one, other in zip(had, has, strict=True))


def _fields(node: ast.ClassDef) -> list[ast.stmt]:
    """Return the statements of the class's body that are neither methods nor its docstring."""
    has_docstring = ast.get_docstring(node, clean=False) is not None
    return [each for each in node.body[has_docstring:] if not is_method(each) and not isinstance(each, ast.Pass)]


def _bindings(source: Source) -> dict[str, list[ast.stmt]]:
    return _by_name(source.tree.body)


def _by_name(statements: Iterable[ast.stmt]) -> dict[str, list[ast.stmt]]:
    found: defaultdict[str, list[ast.stmt]] = defaultdict(list)
    for statement in statements:
        for name in set(bound_by([statement])):
            found[name].append(statement)
    return dict(found)
