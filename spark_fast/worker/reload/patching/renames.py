"""Finds the classes that the new source no longer defines: they were renamed or removed."""

import ast
from types import FunctionType

from spark_fast.worker.reload.patching.functions import parts
from spark_fast.worker.reload.patching.source import Definition, Source
from spark_fast.worker.reload.patching.undo import UndoLog

__all__ = ["removed_classes", "rename_class", "renamed_classes"]

_MAKES_INSTANCES = {"__new__", "__init__", "__post_init__", "__setstate__"}


def renamed_classes(old: Source, new: Source) -> dict[str, str]:
    """Return the old names of renamed classes of the top level, by their new names.

    A new class counts as a renamed old one if both have the same bases, decorators and names in their bodies, and no
    other class has them. Their methods may differ, except those that make an instance. So the objects of the old class
    have everything that the new class needs.
    """
    gone = [name for name in removed_classes(old, new) if "." not in name]
    come = [name for name in removed_classes(new, old) if "." not in name and name not in old.bound_names]
    pairs = [
        (before, after)
        for before in gone
        for after in come
        if _is_renamed(old.definitions[before], before, new.definitions[after], after)
    ]
    befores, afters = [before for before, _ in pairs], [after for _, after in pairs]
    return {after: before for before, after in pairs if befores.count(before) == 1 and afters.count(after) == 1}


def removed_classes(old: Source, new: Source) -> list[str]:
    """Return the qualified names of the classes that only the old source defines."""
    return [name for name, _ in old.classes() if name not in new.definitions]


def _is_renamed(olds: list[Definition], before: str, news: list[Definition], after: str) -> bool:
    if len(olds) != 1 or len(news) != 1 or not any(isinstance(each, ast.FunctionDef) for each in news[0].body):
        return False
    return _shape(olds[0], before, after) == _shape(news[0], after, after)


def _shape(node: Definition, name: str, after: str) -> list[str]:
    """Return all parts of a class except the bodies of its methods; include those of methods that make an instance."""
    assert isinstance(node, ast.ClassDef)
    found = [ast.dump(each) for each in (*node.bases, *node.keywords, *node.decorator_list)]
    for statement in node.body:
        if isinstance(statement, ast.ClassDef):
            found += [f"class {statement.name}", *_shape(statement, name, after)]
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and statement.name not in _MAKES_INSTANCES:
            found.append(f"def {statement.name}")
        else:
            found.append(ast.dump(statement))
    return [each.replace(f"id={name!r}", f"id={after!r}") for each in found]


def rename_class(log: UndoLog, cls: type, before: str, after: str) -> None:
    """Give a class, the classes in it and their functions qualified names that begin with `after`."""
    _rename(log, cls, before, after)
    for value in list(vars(cls).values()):
        for part in parts(value):
            if isinstance(part, type) and part.__qualname__.startswith(f"{before}."):
                rename_class(log, part, before, after)
            elif isinstance(part, FunctionType) and part.__qualname__.startswith(f"{before}."):
                log.keep_function(part)
                _rename(log, part, before, after)
                code = part.__code__
                if code.co_qualname.startswith(f"{before}."):
                    part.__code__ = code.replace(co_qualname=after + code.co_qualname.removeprefix(before))


def _rename(log: UndoLog, thing: type | FunctionType, before: str, after: str) -> None:
    name, qualname = thing.__name__, thing.__qualname__

    def put_back() -> None:
        thing.__name__, thing.__qualname__ = name, qualname

    log.add(put_back)
    thing.__qualname__ = after + qualname.removeprefix(before)
    if isinstance(thing, type):
        thing.__name__ = thing.__qualname__.rpartition(".")[2]
