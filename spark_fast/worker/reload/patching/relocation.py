"""Gives new line numbers to the methods of a class that is not executed again."""

from collections import defaultdict
from types import CodeType, FunctionType
from typing import Any

from spark_fast.worker.reload.patching.functions import FunctionPatcher, parts

__all__ = ["Relocation"]


class Relocation:
    """The code of two sources of a module, by qualified name. The first use compiles both."""

    def __init__(self, old_text: str, new_text: str) -> None:
        self._texts = old_text, new_text
        self._codes: list[dict[str, list[CodeType]]] = []

    def move(self, cls: type, functions: FunctionPatcher) -> None:
        """Give the functions of an unchanged class, and of the classes in it, the code with the new lines."""
        waiting: list[Any] = [cls]
        seen: set[int] = set()
        for each in waiting:
            for value in list(vars(each).values()):
                if isinstance(value, type) and value.__qualname__.startswith(f"{each.__qualname__}."):
                    waiting.append(value)
                    continue
                for part in parts(value):
                    if isinstance(part, FunctionType) and id(part) not in seen:
                        seen.add(id(part))
                        self._move_function(part, functions)

    def _move_function(self, function: FunctionType, functions: FunctionPatcher) -> None:
        code = function.__code__
        if not self._codes:
            self._codes += [_by_qualname(compile(text, code.co_filename, "exec", 0, True)) for text in self._texts]
        olds, news = (codes.get(code.co_qualname, []) for codes in self._codes)
        if len(olds) == len(news) and code in olds:
            functions.relocate(function, news[olds.index(code)])


def _by_qualname(code: CodeType) -> dict[str, list[CodeType]]:
    found: defaultdict[str, list[CodeType]] = defaultdict(list)
    waiting = [code]
    for each in waiting:
        for const in each.co_consts:
            if isinstance(const, CodeType):
                found[const.co_qualname].append(const)
                waiting.append(const)
    return found
