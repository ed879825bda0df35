"""Finds, in the source, the names that a loop carries from item to item, and the objects that it works with.

A loop does both in its own body and in the functions that it calls: a function may count with `global` or `nonlocal`,
or append to a list of the function around it. Calls are followed by name, within one file.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Changes", "Scope", "in_loop", "names_in"]

Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_READS = frozenset({"get", "items", "keys", "values", "copy", "count", "index"})
"""Methods that change neither lists nor dictionaries."""


@dataclass
class Changes:
    """What a loop does with a name.

    Attributes:
        counts: the loop reads the value that an earlier item set, and sets it.
        works_on: the loop calls the object or one of its methods, or sets one of its items or attributes.
    """

    counts: bool = False
    works_on: bool = False


def in_loop(loop: ast.stmt, name: str, owner: Scope, tree: ast.Module) -> Changes:
    """Return what a loop, and the functions that it calls, do with a variable.

    owner: the function or the module that has the variable.
    tree: the tree of the file.
    """
    shared = {id(each) for each in _sharing(owner, name)}
    called = [each for each in _called(loop, tree) if id(each) in shared]
    read, is_set = _flow(_repeated(loop), name)
    if not read and is_set:
        return Changes()  # each item begins with a new value
    reads = read or any(_flow(_body(each), name)[0] for each in called)
    sets = any(name in _stored(each) for each in (loop, *called))
    return Changes(reads and sets, any(_works_on(each, name) for each in (loop, *called)))


def names_in(targets: Iterable[ast.expr | None]) -> Iterator[str]:
    """Yield the names that an assignment to these targets sets."""
    for target in targets:
        for node in ast.walk(target) if target is not None else ():
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


# --- functions ---


def _sharing(owner: ast.AST, name: str) -> Iterator[_Function]:
    """Yield the functions within `owner` in which `name` means the variable of `owner`."""
    of_module = isinstance(owner, ast.Module)
    for function in _functions_in(owner):
        declared = {
            kind
            for node in _own_nodes(function)
            if isinstance(node, (ast.Global, ast.Nonlocal)) and name in node.names
            for kind in [type(node)]
        }
        if declared:
            if (ast.Global in declared) == of_module:
                yield function
                yield from _sharing(function, name)
        elif name not in _arguments(function) and name not in _stored(function):
            yield function
            yield from _sharing(function, name)


def _functions_in(node: ast.AST) -> Iterator[_Function]:
    """Yield the functions that a node contains, without those nested in them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function):
            yield child
        else:
            yield from _functions_in(child)


def _called(loop: ast.stmt, tree: ast.Module) -> list[_Function]:
    """Return the functions of the file that the loop may call by name, and those that these functions may call."""
    by_name: dict[str, list[_Function]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            by_name.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            for name in names_in(node.targets):
                by_name.setdefault(name, []).append(node.value)
    found: list[_Function] = []
    rest: list[ast.AST] = [loop]
    while rest:
        for node in ast.walk(rest.pop()):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            for function in by_name.pop(name, ()):
                found.append(function)
                rest.append(function)
    return found


def _arguments(function: _Function) -> set[str]:
    each = function.args
    optional = [argument for argument in (each.vararg, each.kwarg) if argument is not None]
    return {argument.arg for argument in (*each.posonlyargs, *each.args, *each.kwonlyargs, *optional)}


def _body(function: _Function) -> Sequence[ast.AST]:
    return [function.body] if isinstance(function, ast.Lambda) else function.body


# --- what is read and set ---


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and the nodes in it, but not the bodies of functions and classes, which have their own names."""
    yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):  # the body only, not the arguments and decorators
        children = (child for child in children if isinstance(child, ast.stmt))
    yield from _within(children)


def _within(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        yield node
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield from _within(ast.iter_child_nodes(node))


def _stored(node: ast.AST) -> set[str]:
    """Return the names that a statement, or the body of a function, sets."""
    found: set[str] = set()
    inner: set[int] = set()
    for each in _own_nodes(node):
        if isinstance(each, ast.comprehension):
            inner |= {id(target) for target in ast.walk(each.target)}
        elif isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
            found |= {each.id} if id(each) not in inner else set()
        elif isinstance(each, (ast.ExceptHandler, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found |= {each.name} if each.name is not None and each is not node else set()
    return found


def _repeated(loop: ast.stmt) -> list[ast.AST]:
    """Return the statements that a loop executes for each item."""
    assert isinstance(loop, _LOOPS)
    if isinstance(loop, ast.While):
        return [loop.test, *loop.body]
    return [ast.Assign([loop.target], ast.Constant(None)), *loop.body]


def _flow(nodes: Sequence[ast.AST], name: str) -> tuple[bool, bool]:
    """Return whether these statements may read a name before they set it, and whether they always set it."""
    for node in nodes:
        read, is_set = _flow_of(node, name)
        if read or is_set:
            return read, is_set
    return False, False


def _flow_of(node: ast.AST, name: str) -> tuple[bool, bool]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return False, node.name == name
    if isinstance(node, ast.If):
        if _reads(node.test, name):
            return True, False
        branches = [_flow(node.body, name), _flow(node.orelse, name)]
        return any(read for read, _ in branches), all(is_set for _, is_set in branches)
    if isinstance(node, _LOOPS):
        first = node.test if isinstance(node, ast.While) else node.iter
        return _reads(first, name) or _flow(_repeated(node), name)[0] or _flow(node.orelse, name)[0], False
    if isinstance(node, (ast.With, ast.AsyncWith)):
        taken = [
            part
            for item in node.items
            for part in (item.context_expr, ast.Assign([item.optional_vars or ast.Constant(None)], ast.Constant(None)))
        ]
        return _flow([*taken, *node.body], name)
    if isinstance(node, (ast.Try, ast.TryStar)):
        read, is_set = _flow([*node.body, *node.orelse], name)
        handlers = [_flow(each.body, name) for each in node.handlers]
        last = _flow(node.finalbody, name)
        read = read or any(each for each, _ in handlers) or (last[0] and not is_set)
        return read, (is_set and all(each for _, each in handlers)) or last[1]
    if isinstance(node, ast.Match):
        if _reads(node.subject, name):
            return True, False
        return any(_flow(case.body, name)[0] for case in node.cases), False
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        read = node.value is not None and _reads(node.value, name)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        read = read or any(_reads(target, name) for target in targets)
        return read, name in names_in(targets)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
        return True, True
    return _reads(node, name), False


def _reads(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Name):
        return node.id == name and isinstance(node.ctx, ast.Load)
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return False
    if isinstance(node, _COMPREHENSIONS) and name in names_in(each.target for each in node.generators):
        return _reads(node.generators[0].iter, name)  # the rest of the comprehension has its own variable
    return any(_reads(child, name) for child in ast.iter_child_nodes(node))


def _works_on(node: ast.AST, name: str) -> bool:
    for each in ast.walk(node):
        if isinstance(each, ast.AugAssign):
            if not isinstance(each.target, ast.Name) and _root(each.target) == name:
                return True
        elif isinstance(each, ast.Assign):
            if any(not isinstance(target, ast.Name) and _root(target) == name for target in each.targets):
                return True
        elif isinstance(each, ast.Call):
            reads = isinstance(each.func, ast.Attribute) and each.func.attr in _READS
            if _root(each.func) == name and not reads:
                return True
            takes = isinstance(each.func, ast.Name) and each.func.id == "next"
            if takes and any(_root(argument) == name for argument in each.args[:1]):
                return True
    return False


def _root(node: ast.AST) -> str | None:
    """Return the first name of an expression like `name.a[0].b`; None if the expression begins otherwise."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
