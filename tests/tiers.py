"""The kinds of tests, and which tests `make test-fast`, `make test` and `make test-all` run.

Every test has one kind, by a mark on it or on its module; the mark on the test wins. The kind says what a test is made
of, and, unless a mark `tier` says otherwise, which tier runs it:

    pytestmark = pytest.mark.process                                # in `make test` and above
    pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]    # quick enough for `make test-fast`
    pytestmark = [pytest.mark.hosts, pytest.mark.tier("all")]       # needs what only `make test-all` installs

A module is not imported by a tier that runs none of its tests, so that it may import what that tier does not install.
"""

import ast
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

__all__ = ["KINDS", "REMEDY", "TIERS", "kind_of", "tier_of", "tiers_of_file"]

TIERS = ("fast", "test", "all")
"""`make test` runs the tests of the first two, `make test-all` those of all three. Each test is in one of them."""

KINDS = {
    "unit": "fast",
    "process": "test",
    "ranks": "test",
    "hosts": "test",
    "browser": "all",
    "model": "all",
}
"""The tier that runs a kind. What the kinds mean stands in pyproject.toml, where pytest registers the marks."""

REMEDY = (
    f"this test has no kind: add `pytestmark = pytest.mark.KIND` to its module, with one of {', '.join(KINDS)} as the "
    "kind; tests/tiers.py explains them"
)


class Mark(Protocol):
    """What this module reads of a mark."""

    @property
    def name(self) -> str: ...
    @property
    def args(self) -> tuple[Any, ...]: ...


class _Written(NamedTuple):
    """A mark, as the source of a module has it."""

    name: str
    args: tuple[Any, ...]


def kind_of(marks: Iterable[Mark]) -> str | None:
    """Return the kind that these marks give, the closest mark first; None if there is none."""
    return next((mark.name for mark in marks if mark.name in KINDS), None)


def tier_of(marks: Sequence[Mark]) -> str:
    """Return the tier that runs a test with these marks, the closest mark first.

    A test without a kind belongs to the first tier, so that it fails there.
    """
    tier = next((str(mark.args[0]) for mark in marks if mark.name == "tier"), None)
    if tier is not None:
        return tier
    kind = kind_of(marks)
    return "fast" if kind is None else KINDS[kind]


def tiers_of_file(path: Path) -> set[str]:
    """Return the tiers that run tests of this file, without importing it."""
    module = ast.parse(path.read_bytes())
    below: list[_Written] = []
    for node in module.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["pytestmark"]:
            below = _read(node.value.elts if isinstance(node.value, ast.List) else [node.value])
    return {
        tier_of([*_read(node.decorator_list), *below])
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _read(found: Iterable[ast.expr]) -> list[_Written]:
    """Read `pytest.mark.NAME` and `pytest.mark.NAME("text")`."""
    marks = []
    for each in found:
        call = each if isinstance(each, ast.Call) else None
        name = ast.unparse(each if call is None else call.func)
        if name.startswith("pytest.mark."):
            given = [] if call is None else call.args
            args = tuple(arg.value for arg in given if isinstance(arg, ast.Constant))
            marks.append(_Written(name.removeprefix("pytest.mark."), args))
    return marks
