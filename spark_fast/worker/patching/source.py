"""What a module's source defines, and how its new source is made to hand its definitions to a patch."""

import ast
import symtable
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property

__all__ = ["ADOPT", "INNERMOST", "OUTERMOST", "Definition", "Source", "add_decorators"]

ADOPT = "__spark_adopt__"
"""The name in a module's namespace by which its definitions find the patch. Ends in underscores, so that it is not
mangled in the body of a class."""

INNERMOST, OUTERMOST = 0, 1

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


class Source:
    """The definitions that a module makes once, outside functions, by their qualified names.

    Those that it makes more than once can't be told apart: overloads, `def _()` under singledispatch, loops. Branches
    of which only one is taken count once.
    """

    def __init__(self, text: str, tree: ast.Module | None = None) -> None:
        self.text = text
        self.tree = ast.parse(text) if tree is None else tree
        nodes: list[tuple[str, Definition]] = []
        times = _count(self.tree.body, "", False, nodes)
        self.definitions: dict[str, list[Definition]] = {}
        for qualname, node in nodes:
            if times[qualname] == 1:
                self.definitions.setdefault(qualname, []).append(node)

    def classes(self) -> Iterator[tuple[str, ast.ClassDef]]:
        for qualname, nodes in self.definitions.items():
            if isinstance(nodes[0], ast.ClassDef):
                yield qualname, nodes[0]

    def is_class(self, qualname: str) -> bool:
        nodes = self.definitions.get(qualname)
        return nodes is not None and all(isinstance(node, ast.ClassDef) for node in nodes)

    def is_function(self, qualname: str) -> bool:
        nodes = self.definitions.get(qualname)
        return nodes is not None and not any(isinstance(node, ast.ClassDef) for node in nodes)

    def is_decorated(self, qualname: str) -> bool:
        return any(
            not _is_ours(decorator) for node in self.definitions.get(qualname, ()) for decorator in node.decorator_list
        )

    def line(self, qualname: str) -> int:
        return self.definitions[qualname][0].lineno

    @property
    def has_docstring(self) -> bool:
        return ast.get_docstring(self.tree, clean=False) is not None

    @cached_property
    def imports_star(self) -> bool:
        return any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(self.tree))

    @cached_property
    def bound_names(self) -> set[str]:
        """The names that the module's top level binds."""
        return _bound(self._table)

    def names_in_class(self, qualname: str) -> set[str]:
        """The names that the body of the class binds, mangled as in its namespace."""
        return set().union(*(_bound(table) for table in self._class_tables.get(qualname, ())))

    @cached_property
    def _table(self) -> symtable.SymbolTable:
        return symtable.symtable(self.text, "<source>", "exec")

    @cached_property
    def _class_tables(self) -> dict[str, list[symtable.SymbolTable]]:
        found: dict[str, list[symtable.SymbolTable]] = {}

        def descend(table: symtable.SymbolTable, prefix: str) -> None:
            for child in table.get_children():
                if str(child.get_type()) == "class":
                    found.setdefault(prefix + child.get_name(), []).append(child)
                    descend(child, f"{prefix}{child.get_name()}.")
                elif str(child.get_type()).startswith("type param"):
                    descend(child, prefix)

        descend(self._table, "")
        return found


def add_decorators(old: Source, new: Source) -> None:
    """Gives each definition that both sources make once the decorators that hand it to the patch.

    They stand on the lines that the definition or its first decorator has, so that all line numbers stay.
    """
    for qualname, nodes in new.definitions.items():
        both_classes = new.is_class(qualname) and old.is_class(qualname)
        if not both_classes and not (new.is_function(qualname) and old.is_function(qualname)):
            continue
        decorated = new.is_decorated(qualname) or old.is_decorated(qualname)
        for node in nodes:
            first = node.decorator_list[0] if node.decorator_list else node
            inner = _decorator(qualname, INNERMOST, node)
            outer = [_decorator(qualname, OUTERMOST, first)] if decorated else []
            node.decorator_list[:] = [*outer, *node.decorator_list, inner]


def _decorator(qualname: str, stage: int, at: ast.expr | Definition) -> ast.expr:
    call = ast.Call(
        func=ast.Name(id=ADOPT, ctx=ast.Load()),
        args=[ast.Constant(value=qualname), ast.Constant(value=stage)],
        keywords=[],
    )
    for node in ast.walk(call):
        if isinstance(node, ast.expr):
            node.lineno = node.end_lineno = at.lineno
            node.col_offset = node.end_col_offset = at.col_offset
    return call


def _is_ours(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == ADOPT


def _count(
    statements: Iterable[ast.stmt], prefix: str, repeated: bool, nodes: list[tuple[str, Definition]]
) -> Counter[str]:
    """How often each definition is made at the most."""
    times: Counter[str] = Counter()
    for statement in statements:
        if isinstance(statement, _DEFINITIONS):
            is_class = isinstance(statement, ast.ClassDef)
            if prefix and not is_class:
                continue  # methods: their class brings them
            qualname = prefix + statement.name
            times[qualname] += 2 if repeated else 1
            nodes.append((qualname, statement))
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


def _bound(table: symtable.SymbolTable) -> set[str]:
    return {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    }
