"""Parses a module's source, and lists its definitions."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from types import CodeType

__all__ = ["ADOPT", "Definition", "Source", "bound_by", "is_ours", "mangled", "parsed"]

ADOPT = "__spark_adopt__"
"""The name in a module's namespace by which its definitions find the patch. It ends in underscores, so that Python does
not mangle it in the body of a class."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
_QUIET_DECORATORS = set("property staticmethod classmethod setter abstractmethod cached_property override".split())
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


class Source:
    """The definitions that a module makes outside functions, by their qualified names.

    Definitions in branches of which only one is taken count as one. Functions with `typing.overload` don't count.

    Attributes:
        definitions: the definitions that are made once. Of classes that are made one after the other, the last.
        repeated: the definitions that are made more than once: one after the other, or in a loop.
    """

    def __init__(self, text: str, tree: ast.Module | None = None) -> None:
        """tree: the tree of the text, if it has been parsed already."""
        self.text = text
        self.tree = ast.parse(text) if tree is None else tree
        nodes: list[tuple[str, Definition, bool]] = []
        times = _count(self.tree.body, "", False, nodes)
        self.definitions: dict[str, list[Definition]] = {}
        self.repeated: dict[str, list[Definition]] = {}
        for qualname, node, _ in nodes:
            kind = self.definitions if times[qualname] == 1 else self.repeated
            kind.setdefault(qualname, []).append(node)
        looped = {qualname for qualname, _, in_loop in nodes if in_loop}
        for qualname in self.repeated.keys() - looped:
            last = self.repeated[qualname][-1]
            if isinstance(last, ast.ClassDef):
                self.definitions[qualname] = [last]

    def classes(self) -> Iterator[tuple[str, ast.ClassDef]]:
        """Yield the classes, each with its qualified name."""
        for qualname, nodes in self.definitions.items():
            if isinstance(nodes[0], ast.ClassDef):
                yield qualname, nodes[0]

    def renamed(self, before: str, after: str) -> "Source":
        """Return this source with another name for a class of its top level. The bound names stay."""
        found = Source(self.text)
        found.definitions = {
            after + name.removeprefix(before) if name == before or name.startswith(f"{before}.") else name: nodes
            for name, nodes in found.definitions.items()
        }
        return found

    def is_class(self, qualname: str) -> bool:
        nodes = self.definitions.get(qualname)
        return nodes is not None and all(isinstance(node, ast.ClassDef) for node in nodes)

    def is_function(self, qualname: str) -> bool:
        nodes = self.definitions.get(qualname)
        return nodes is not None and not any(isinstance(node, ast.ClassDef) for node in nodes)

    def class_node(self, qualname: str) -> ast.ClassDef:
        """Return the first statement that makes the class."""
        node = self.definitions[qualname][0]
        assert isinstance(node, ast.ClassDef)
        return node

    def segment(self, node: ast.stmt) -> list[str]:
        """Return the lines of the statement and its decorators."""
        return self._lines[self.first_line(node) - 1 : node.end_lineno]

    @staticmethod
    def first_line(node: ast.stmt) -> int:
        """Return the line of the statement or of its first decorator."""
        if isinstance(node, _DEFINITIONS) and node.decorator_list:
            return node.decorator_list[0].lineno
        return node.lineno

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")

    def is_decorated(self, qualname: str) -> bool:
        return any(
            not is_ours(decorator) for node in self.definitions.get(qualname, ()) for decorator in node.decorator_list
        )

    def has_decorated_methods(self, qualname: str) -> bool:
        """Return whether the class has methods with decorators that may store them somewhere."""
        return any(
            ast.unparse(decorator).rpartition(".")[2] not in _QUIET_DECORATORS
            for node in self.definitions.get(qualname, ())
            for method in ast.iter_child_nodes(node)
            if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef))
            for decorator in method.decorator_list
        )

    def line(self, qualname: str) -> int:
        """Return the first line of the definition, or of the first statement that binds the name."""
        if qualname in self.definitions:
            return self.definitions[qualname][0].lineno
        return next((each.lineno for each in self.tree.body if qualname in bound_by([each])), 1)

    @property
    def has_docstring(self) -> bool:
        return ast.get_docstring(self.tree, clean=False) is not None

    @cached_property
    def imports_star(self) -> bool:
        return re.search(r"\bimport[\s\\]*\*", self.text) is not None

    def lambdas(self, file: str) -> list[CodeType]:
        """Return the code of the lambdas outside functions, classes and comprehensions, as it was compiled."""
        if "lambda" not in self.text:
            return []
        futures = [node for node in self.tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        found: list[ast.stmt] = [
            ast.Expr(node, lineno=node.lineno, col_offset=node.col_offset) for node in _lambdas(self.tree)
        ]
        code = compile(ast.Module([*futures, *found], []), file, "exec", dont_inherit=True)
        return [const for const in code.co_consts if isinstance(const, CodeType)]

    @cached_property
    def bound_names(self) -> set[str]:
        """The names that the module's top level binds."""
        return set(bound_by(self.tree.body))

    @cached_property
    def assignments(self) -> dict[str, str]:
        """The values of the names that the top level assigns once, as text to compare."""
        found: dict[str, list[str]] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        found.setdefault(target.id, []).append(ast.dump(node.value))
        return {name: values[0] for name, values in found.items() if len(values) == 1}

    def names_in_class(self, qualname: str) -> set[str]:
        """Return the names that the body of the class binds, mangled as in its namespace."""
        return {mangled(qualname, name) for node in self.definitions.get(qualname, ()) for name in bound_by(node.body)}


def mangled(qualname: str, name: str) -> str:
    """Return the name that Python gives this name in the body of the class."""
    if not name.startswith("__") or name.endswith("__"):
        return name
    return "_" + qualname.rpartition(".")[2].lstrip("_") + name


parsed = lru_cache(maxsize=64)(Source)
"""Parse a text. The results are kept until the end of a patch, which clears them."""


def is_ours(decorator: ast.expr) -> bool:
    """Return whether the expression is a call of the patch, which add_decorators() or a similar function added."""
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == ADOPT


def _count(
    statements: Iterable[ast.stmt], prefix: str, repeated: bool, nodes: list[tuple[str, Definition, bool]]
) -> Counter[str]:
    """Return how often each definition is made at most."""
    times: Counter[str] = Counter()
    for statement in statements:
        if isinstance(statement, _DEFINITIONS):
            is_class = isinstance(statement, ast.ClassDef)
            if prefix and not is_class:
                continue  # methods, which come with their class
            if any(ast.unparse(each).rpartition(".")[2] == "overload" for each in statement.decorator_list):
                continue
            qualname = prefix + statement.name
            times[qualname] += 2 if repeated else 1
            nodes.append((qualname, statement, repeated))
            if is_class:
                times += _count(statement.body, f"{qualname}.", repeated, nodes)
        elif isinstance(statement, ast.If):
            taken = _count(statement.body, prefix, repeated, nodes)
            times += taken | _count(statement.orelse, prefix, repeated, nodes)
        elif isinstance(statement, (ast.Try, ast.TryStar)):
            either = _count([*statement.body, *statement.orelse], prefix, repeated, nodes)
            for handler in statement.handlers:
                either |= _count(handler.body, prefix, repeated, nodes)
            times += either + _count(statement.finalbody, prefix, repeated, nodes)
        elif isinstance(statement, ast.Match):
            either = Counter()
            for case in statement.cases:
                either |= _count(case.body, prefix, repeated, nodes)
            times += either
        elif isinstance(statement, (ast.With, ast.AsyncWith)):
            times += _count(statement.body, prefix, repeated, nodes)
        elif isinstance(statement, _LOOPS):
            times += _count(statement.body, prefix, True, nodes)
            times += _count(statement.orelse, prefix, repeated, nodes)
    return times


def _lambdas(node: ast.AST) -> Iterator[ast.Lambda]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Lambda):
            yield child
        elif not isinstance(child, (*_DEFINITIONS, *_COMPREHENSIONS)):
            yield from _lambdas(child)


def bound_by(nodes: Iterable[ast.AST], *, comprehended: bool = False) -> Iterator[str]:
    """Yield the names that are bound in the scope of these nodes. Comprehensions bind names in it by := only."""
    for node in nodes:
        if isinstance(node, _DEFINITIONS):
            yield node.name
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.NamedExpr):
            yield node.target.id
        elif isinstance(node, ast.Name):
            if not comprehended and isinstance(node.ctx, ast.Store):
                yield node.id
            continue
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.AnnAssign) and node.value is None:
            continue
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name is not None:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest is not None:
            yield node.rest
        yield from bound_by(ast.iter_child_nodes(node), comprehended=comprehended or isinstance(node, _COMPREHENSIONS))
