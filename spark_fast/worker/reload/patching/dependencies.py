"""Finds the names on which a definition depends as it is executed, and whether their meaning has changed."""

import ast
import functools
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, Protocol

from spark_fast.worker.reload.patching.comparison import Comparison
from spark_fast.worker.reload.patching.functions import parts, same_code
from spark_fast.worker.reload.patching.source import Source
from spark_fast.worker.reload.patching.undo import EMPTY

__all__ = ["Dependencies", "same_value"]

Dotted = tuple[str, ...]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.Expr)
_HOOKS = ("__init_subclass__", "__class_getitem__")


class Reloaded(Protocol):
    """A module of the transaction.

    Attributes:
        kept: the qualified names of the classes that stay, or whose methods alone change.
        remade: the qualified names of the classes that were executed again.
    """

    namespace: dict[str, Any]
    old_namespace: dict[str, Any]
    old_source: Source
    comparison: Comparison
    kept: set[str]
    remade: set[str]


class _Needs(NamedTuple):
    """Names that a statement looks up as it is executed: base classes, called functions, and all others."""

    bases: set[Dotted]
    called: set[Dotted]
    others: set[Dotted]


class Dependencies:
    """Decides whether a statement with unchanged text would have the same effect again.

    modules: the modules of the transaction, by the id of their namespaces. The patch adds to this mapping.
    """

    def __init__(self, modules: Mapping[int, Reloaded]) -> None:
        self._modules = modules
        self._mentioned: dict[ast.AST, set[Dotted]] = {}

    def first_change(
        self, module: Reloaded, node: ast.AST, *, instances_live_on: bool = False, runs_functions: bool = True
    ) -> str | None:
        """Return the first name that the statement looks up and whose meaning has changed; None if there is none.

        node: the statement as it stands in the old source.
        instances_live_on: whether an instance that the statement made counts as unchanged if its class stays, though
            methods of the class changed.
        runs_functions: whether functions that the statement names, but does not call, may run as it is executed.

        Follows functions of the transaction's modules through their bodies, since the statement may run them.
        """
        needs = _needs(node)
        for dotted in sorted(needs.bases):
            if self._base_changed(module, dotted):
                return ".".join(dotted)
        for dotted in sorted(needs.others - needs.called):
            stays = self._is_kept_class(module, dotted) or (
                not runs_functions and self._is_same_function(module, dotted)
            )
            if not stays and self._any_changed([(module, dotted)]):
                return ".".join(dotted)
        for dotted in sorted(needs.called):
            if instances_live_on and self._is_same_class(module, dotted):
                continue
            if self._any_changed([(module, dotted)]):
                return ".".join(dotted)
        return None

    def is_edited(self, module: Reloaded, dotted: str) -> bool:
        """Return whether the edit changed the text that binds the name. If not, the same text gave another value."""
        name, *rest = dotted.split(".")
        value = module.namespace.get(name, EMPTY)
        if rest and isinstance(value, ModuleType) and id(vars(value)) in self._modules:
            return self.is_edited(self._modules[id(vars(value))], ".".join(rest))
        if name in module.comparison.changed_names:
            return True
        home = self._home(value)
        return home is not None and home is not module and _outermost(value) in home.comparison.changed_names

    def _any_changed(self, waiting: list[tuple[Reloaded, Dotted]]) -> bool:
        """Return whether the meaning of one of the names has changed, or its definition leads to such a name."""
        seen: set[tuple[int, str]] = set()
        while waiting:
            module, dotted = waiting.pop()
            name, *rest = dotted
            value = module.namespace.get(name, EMPTY)
            if rest and isinstance(value, ModuleType):
                inner = self._modules.get(id(vars(value)))
                if inner is not None:
                    waiting.append((inner, tuple(rest)))
                    continue
                if value is not module.old_namespace.get(name, EMPTY):
                    return True
                waiting += self._definitions_in(_resolve(vars(value), tuple(rest)))
                continue
            if (id(module), name) in seen:
                continue
            seen.add((id(module), name))
            if name in module.comparison.changed_names:
                return True
            if not same_value(module.old_namespace.get(name, EMPTY), value):
                return True
            for statement in module.comparison.bindings(name):
                if not isinstance(statement, _SIMPLE):  # for simple statements, comparing the value is enough
                    waiting += [(module, each) for each in self._mentioned_in(statement)]
            waiting += self._definitions_in(value)
        return False

    def _mentioned_in(self, node: ast.AST) -> set[Dotted]:
        names = self._mentioned.get(node)
        if names is None:
            names = self._mentioned[node] = {dotted for dotted, _ in _names(node, deep=True)}
        return names

    def _definitions_in(self, value: object) -> list[tuple[Reloaded, Dotted]]:
        """Return the names of the transaction's definitions that the value is or holds."""
        found: list[tuple[Reloaded, Dotted]] = []
        for part in parts(value):
            thing = part if isinstance(part, (type, FunctionType)) else type(part)
            home = self._home(thing)
            if home is not None:
                found.append((home, (_outermost(thing),)))
        return found

    def _base_changed(self, module: Reloaded, dotted: Dotted) -> bool:
        """Return whether a base class changed in a way that a subclass depends on when it is made.

        The base's methods may change, except those that Python calls when it makes a subclass.
        """
        base = _resolve(module.namespace, dotted)
        if not isinstance(base, type):
            return self._any_changed([(module, dotted)])
        if base is not _resolve(module.old_namespace, dotted) or self._any_changed(self._definitions_in(type(base))):
            return True
        for cls in base.__mro__:
            home = self._home(cls)
            if home is None:
                continue
            qualname = cls.__qualname__
            if qualname not in home.kept:
                return True
            hooks = [
                method
                for node in home.old_source.definitions.get(qualname, ())
                for method in node.body
                if isinstance(method, _FUNCTIONS) and method.name in _HOOKS
            ]
            if hooks and qualname in home.comparison.methods_changed:
                return True  # one of these hooks may be the method that changed
            if self._any_changed([(home, each) for hook in hooks for each in self._mentioned_in(hook)]):
                return True
        return False

    def _is_same_function(self, module: Reloaded, dotted: Dotted) -> bool:
        value = _resolve(module.namespace, dotted)
        return isinstance(value, FunctionType) and value is _resolve(module.old_namespace, dotted)

    def _is_kept_class(self, module: Reloaded, dotted: Dotted) -> bool:
        """Return whether the name means the same class as before, with the same fields."""
        cls: Any = _resolve(module.namespace, dotted)
        home = self._home(cls)
        if home is None or not self._is_same_class(module, dotted) or cls.__qualname__ in home.remade:
            return False
        return cls.__qualname__ in home.kept | home.comparison.unchanged | home.comparison.methods_changed

    def _is_same_class(self, module: Reloaded, dotted: Dotted) -> bool:
        cls = _resolve(module.namespace, dotted)
        return isinstance(cls, type) and cls is _resolve(module.old_namespace, dotted)

    def _home(self, thing: Any) -> Reloaded | None:
        """Return the module of the transaction that defines the class or the function; None if none does."""
        if isinstance(thing, FunctionType):
            return self._modules.get(id(thing.__globals__))
        if not isinstance(thing, type):
            return None
        home = sys.modules.get(thing.__module__)
        return self._modules.get(id(vars(home))) if home is not None else None


def same_value(old: object, new: object) -> bool:
    """Return whether the old and the new value of a name are interchangeable."""
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if isinstance(old, FunctionType) and isinstance(new, FunctionType):
        same_names = old.__qualname__ == new.__qualname__
        return old.__closure__ is None and same_names and same_code(old.__code__, new.__code__)
    if isinstance(old, functools.partial) and isinstance(new, functools.partial):
        return same_value(
            (old.func, old.args, tuple(old.keywords.items())), (new.func, new.args, tuple(new.keywords.items()))
        )
    if type(old) is tuple and type(new) is tuple:
        return len(old) == len(new) and all(map(same_value, old, new))
    # Objects that have a hash and compare by their contents never change: numbers, texts, paths, generic aliases.
    if type(old).__hash__ in (None, object.__hash__):
        return False
    try:
        return hash(old) == hash(new) and (old == new) is True
    except Exception:  # no such value: it holds an object without a hash, or has a special comparison
        return False


def _resolve(namespace: Mapping[str, Any], dotted: Dotted) -> object:
    value = namespace.get(dotted[0], EMPTY)
    for name in dotted[1:]:
        value = getattr(value, name, EMPTY)
    return value


def _outermost(thing: Any) -> str:
    return str(thing.__qualname__).partition(".")[0]


def _dotted(node: ast.AST) -> Dotted | None:
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        outer = _dotted(node.value)
        return (*outer, node.attr) if outer is not None else None
    return None


def _needs(node: ast.AST) -> _Needs:
    needs = _Needs(set(), set(), set())
    rest: list[ast.AST] = [node]
    if isinstance(node, ast.ClassDef):
        rest = [*node.decorator_list, *(keyword.value for keyword in node.keywords), *node.body]
        makers = [*node.decorator_list, *(keyword.value for keyword in node.keywords if keyword.arg == "metaclass")]
        needs.called.update(dotted for each in makers if (dotted := _dotted(each)) is not None)
        for base in node.bases:
            generic = base.value if isinstance(base, ast.Subscript) else base
            dotted = _dotted(generic)
            if dotted is None:
                rest.append(base)
                continue
            needs.bases.add(dotted)
            if isinstance(base, ast.Subscript):
                rest.append(base.slice)
    for each in rest:
        for name, is_called in _names(each, deep=False):
            (needs.called if is_called else needs.others).add(name)
    return needs


def _names(node: ast.AST, *, deep: bool) -> Iterator[tuple[Dotted, bool]]:
    """Yield the names that are looked up when the node is executed, each with whether it is called.

    deep: whether to include names in the bodies of functions.
    """
    dotted = _dotted(node)
    if dotted is not None:
        yield dotted, False
        return
    if isinstance(node, ast.Call) and (dotted := _dotted(node.func)) is not None:
        yield dotted, True
    if isinstance(node, (*_FUNCTIONS, ast.Lambda)):
        yield from _names_of_signature(node)
        if not deep:
            return
    if isinstance(node, ast.AnnAssign):
        yield from _names_of_annotation(node.annotation)
    for child in ast.iter_child_nodes(node):
        yield from _names(child, deep=deep)


def _names_of_signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> Iterator[tuple[Dotted, bool]]:
    arguments = node.args
    for default in (*arguments.defaults, *arguments.kw_defaults):
        if default is not None:
            yield from _names(default, deep=False)
    if isinstance(node, ast.Lambda):
        return
    for decorator in node.decorator_list:
        dotted = _dotted(decorator)
        if dotted is not None:
            yield dotted, True
        else:
            yield from _names(decorator, deep=False)
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    for annotation in (*(each.annotation for each in every if each is not None), node.returns):
        if annotation is not None:
            yield from _names_of_annotation(annotation)


def _names_of_annotation(node: ast.expr) -> Iterator[tuple[Dotted, bool]]:
    """Yield the names of an annotation, including those in strings, which are annotations evaluated later."""
    yield from _names(node, deep=False)
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            try:
                inner = ast.parse(part.value.strip(), mode="eval")
            except SyntaxError:  # a string that is no annotation, as in Literal["a b"]
                continue
            yield from _names(inner, deep=False)
