"""Changes the tree of a module's new source so that its definitions pass themselves to a patch."""

import ast
from collections.abc import Mapping, Set
from enum import IntEnum

from spark_fast.worker.reload.patching.comparison import is_method
from spark_fast.worker.reload.patching.source import ADOPT, Source, is_ours

_HOLDERS = (ast.stmt, ast.mod, ast.ExceptHandler, ast.match_case)

__all__ = ["Stage", "add_decorators", "add_finishing", "choose_calls", "choose_definitions", "choose_statements"]


class Stage(IntEnum):
    """The question of a module to the patch: it calls ADOPT with the name of a definition and one of these."""

    INNERMOST = 0
    """The decorator nearest to the definition."""
    OUTERMOST = 1
    """The decorator farthest from the definition."""
    EXECUTES = 2
    """Whether to execute the statement."""
    STANDS = 3
    """The value of the name if the statement is not executed."""
    METHODS = 4
    """The decorator of a class that holds only methods of the definition."""
    CALLED = 5
    """The function that gets the result of the call that makes the definition."""
    FINISHED = 6
    """A call after definitions, before the code below uses objects that their hooks have stored somewhere."""


def add_decorators(old: Source, new: Source) -> None:
    """Give each definition that both sources make once the decorators that pass it to the patch.

    The decorators get the line of the definition or of its first decorator, so that all line numbers stay.
    """
    for qualname, nodes in new.definitions.items():
        both_classes = new.is_class(qualname) and old.is_class(qualname)
        if not both_classes and not (new.is_function(qualname) and old.is_function(qualname)):
            continue
        decorated = new.is_decorated(qualname) or old.is_decorated(qualname)
        for node in nodes:
            first = node.decorator_list[0] if node.decorator_list else node
            inner = _asked(qualname, Stage.INNERMOST, node)
            outer = [_asked(qualname, Stage.OUTERMOST, first)] if decorated else []
            node.decorator_list[:] = [*outer, *node.decorator_list, inner]


def add_finishing(tree: ast.Module) -> None:
    """Add a call of the patch after each group of definitions at the top level.

    The hooks of these definitions may have put discarded objects elsewhere.
    """
    body: list[ast.stmt] = []
    defined = False
    for statement in tree.body:
        defines = _defines(statement)
        if defined and not defines and not isinstance(statement, (ast.Import, ast.ImportFrom)):
            at = body[-1]
            body.append(ast.copy_location(ast.Expr(_asked("", Stage.FINISHED, at)), at))
            defined = False
        defined |= defines
        body.append(statement)
    tree.body[:] = body


def _defines(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If) and is_ours(statement.test):
        return _defines(statement.body[0])
    return isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


def choose_definitions(tree: ast.Module, chosen: Mapping[ast.stmt, tuple[str, Set[str] | None]]) -> None:
    """Make class statements first ask whether they must be executed.

    chosen: for each statement, its qualified name, and the names of the methods to execute if the statement is not.

    Call this before add_decorators().
    """
    _Chooser(chosen).visit(tree)


def choose_calls(tree: ast.Module, calls: Mapping[ast.stmt, tuple[str, bool]]) -> None:
    """Make the statements `name = call(…)` of the top level pass their result to the patch.

    calls: for each statement, its name, and whether it first asks if it must be executed.
    """
    for index, statement in enumerate(tree.body):
        if statement in calls and isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            name, asks = calls[statement]
            value = statement.value
            taker = _asked(name, Stage.CALLED, value)
            statement.value = ast.copy_location(ast.Call(func=taker, args=[value], keywords=[]), value)
            if asks:
                instead = _stands(name, name, statement)
                if isinstance(statement, ast.AnnAssign):
                    annotated = ast.AnnAssign(statement.target, statement.annotation, instead.value, statement.simple)
                    tree.body[index] = _choice(name, statement, ast.copy_location(annotated, statement))
                else:
                    tree.body[index] = _choice(name, statement, instead)


def choose_statements(tree: ast.Module, chosen: Mapping[ast.stmt, str]) -> None:
    """Make other statements of the top level ask, under a name, whether they must be executed."""
    for index, statement in enumerate(tree.body):
        if statement in chosen:
            tree.body[index] = _choice(chosen[statement], statement, ast.copy_location(ast.Pass(), statement))


class _Chooser(ast.NodeTransformer):
    def __init__(self, chosen: Mapping[ast.stmt, tuple[str, Set[str] | None]]) -> None:
        self._chosen = chosen

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.stmt) and is_method(node):  # definitions within functions are not the module's
            return node
        if not isinstance(node, ast.ClassDef):
            return self.generic_visit(node) if isinstance(node, _HOLDERS) else node
        found = self._chosen.get(node)
        if found is None:
            return self.generic_visit(node)
        qualname, methods = found
        instead = _stands(qualname, node.name, node) if methods is None else _methods_alone(qualname, node, methods)
        self.generic_visit(node)
        return _choice(qualname, node, instead)


def _methods_alone(qualname: str, node: ast.ClassDef, names: Set[str]) -> ast.ClassDef:
    """Return a class of the same name that has only these methods and the docstring."""
    body: list[ast.stmt] = [
        each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and each.name in names
    ]
    if ast.get_docstring(node, clean=False) is not None:
        body.insert(0, node.body[0])
    made = ast.ClassDef(
        name=node.name,
        bases=[],
        keywords=[],
        body=body or [ast.copy_location(ast.Pass(), node)],
        decorator_list=[_asked(qualname, Stage.METHODS, node)],
        **({"type_params": node.type_params} if hasattr(node, "type_params") else {}),
    )
    return ast.copy_location(made, node)


def _choice(qualname: str, statement: ast.stmt, instead: ast.stmt) -> ast.If:
    at = statement
    if isinstance(statement, ast.ClassDef) and statement.decorator_list:
        first = statement.decorator_list[0]
        at = ast.copy_location(ast.Pass(), first)
    test = _asked(qualname, Stage.EXECUTES, at)
    return ast.copy_location(ast.If(test=test, body=[statement], orelse=[instead]), at)


def _stands(qualname: str, name: str, at: ast.stmt) -> ast.Assign:
    target = ast.copy_location(ast.Name(id=name, ctx=ast.Store()), at)
    return ast.copy_location(ast.Assign(targets=[target], value=_asked(qualname, Stage.STANDS, at)), at)


def _asked(qualname: str, stage: Stage, at: ast.expr | ast.stmt) -> ast.expr:
    call = ast.Call(
        func=ast.Name(id=ADOPT, ctx=ast.Load()),
        args=[ast.Constant(value=qualname), ast.Constant(value=int(stage))],
        keywords=[],
    )
    for node in ast.walk(call):
        if isinstance(node, ast.expr):
            node.lineno = node.end_lineno = at.lineno
            node.col_offset = node.end_col_offset = at.col_offset
    return call
