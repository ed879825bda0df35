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
    """Return the tiers that may run tests of this file, without importing it."""
    module = ast.parse(path.read_bytes())
    of_module: list[_Written] = []
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark":
            of_module = _read(statement)
    # A mark elsewhere is one of a function, or of one of its parameters.
    return {tier_of(of_module), *(tier_of([mark, *of_module]) for mark in _read(module))}


def _read(node: ast.AST) -> list[_Written]:
    """Return the marks of kinds and tiers that are written below a node."""
    found = []
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and each.attr in KINDS and ast.unparse(each.value) == "pytest.mark":
            found.append(_Written(each.attr, ()))
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.tier":
            found += [_Written("tier", (arg.value,)) for arg in each.args if isinstance(arg, ast.Constant)]
    return found
