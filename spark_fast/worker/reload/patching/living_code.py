"""Gives living closures and lambdas the new code of their places in the source."""

from collections import defaultdict
from types import CodeType, FunctionType
from typing import Any

from spark_fast.worker.reload.patching.referrers import referrers

__all__ = ["can_replace", "nested_pairs", "swap_living_code"]

_NEVER_KEPT = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}
"""Code that no function object keeps after it has run."""


def swap_living_code(
    changed: list[tuple[CodeType, CodeType]], lambdas: list[tuple[dict[str, Any], dict[CodeType, CodeType]]]
) -> None:
    """Give living functions that no name of a module leads to their new code.

    changed: old and new code of the changed functions. The closures that these have made get new code.
    lambdas: namespaces, each with old and new code of the lambdas in it that stand outside of functions.
    """
    news: dict[int, CodeType] = {}
    sought: list[object] = []
    for old, new in changed:
        for inner_old, inner_new in nested_pairs(old, new):
            news[id(inner_old)] = inner_new
            sought.append(inner_old)
    by_value = [(namespace, pairs) for namespace, pairs in lambdas if pairs]
    sought += [namespace for namespace, _ in by_value]
    if not sought:
        return
    for holder in referrers(sought):
        if not isinstance(holder, FunctionType):
            continue
        code = news.get(id(holder.__code__))
        for namespace, pairs in by_value:
            if code is None and holder.__globals__ is namespace:
                code = pairs.get(holder.__code__)
        if code is not None:
            holder.__code__ = code


def can_replace(old: CodeType, new: CodeType) -> bool:
    """Return whether a function with the old code can have the new code, with its present closure and defaults."""
    shapes = [
        (
            code.co_freevars,
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount],
        )
        for code in (old, new)
    ]
    return shapes[0] == shapes[1]


def nested_pairs(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]]:
    """Return pairs of nested code with the same qualified name that differ and can be replaced."""
    found: list[tuple[CodeType, CodeType]] = []
    had, has = _by_name(old), _by_name(new)
    for name, olds in had.items():
        news = has.get(name, [])
        if len(news) != len(olds):
            continue  # one of several lambdas may be gone, and which is unknown
        for inner_old, inner_new in zip(olds, news, strict=True):
            if inner_old != inner_new:
                if name.rpartition(".")[2] not in _NEVER_KEPT and can_replace(inner_old, inner_new):
                    found.append((inner_old, inner_new))
                found += nested_pairs(inner_old, inner_new)
    return found


def _by_name(code: CodeType) -> dict[str, list[CodeType]]:
    found: defaultdict[str, list[CodeType]] = defaultdict(list)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found[const.co_qualname].append(const)
    return found
