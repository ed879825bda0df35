"""Notebooks: a cell that is run again changes the classes and functions that it defined before in place.

So what was persisted, or made in other cells, runs the new methods, as after a reload of a script.
"""

import ast
import sys
from types import ModuleType
from typing import Any

from spark_fast.worker import stderr

__all__ = ["attend"]

_attended: object = None


def attend() -> None:
    """Sees to the cells of the IPython session of this process, if it is one. A second call changes nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and shell is not _attended:
        _attend(shell)


def _attend(shell: Any) -> None:
    global _attended
    from spark_fast.worker.reload.patching import Patch

    class Cells(ast.NodeTransformer):
        """Hands each cell, as it is about to be compiled, to a patch of its own."""

        def __init__(self) -> None:
            self._sources = _defined_before(shell)
            self._patch: Patch | None = None
            self._main: ModuleType = shell.user_module

        def visit(self, node: ast.AST) -> ast.AST:
            if not isinstance(node, ast.Module):
                return node
            defined = _defined_in(node)
            # Of the definitions alone: the rest of a cell may hold what is no Python outside of one.
            before = "\n".join(self._sources[name] for name in defined if name in self._sources)
            after = "\n".join(defined.values())
            self.finish()
            self._sources |= defined
            if before:
                self._patch = Patch(splits_classes=True)
                self._patch.begin_module(self._main, before, after)
                self._patch.transform(node, self._main)
            return node

        def finish(self, *_: object) -> None:
            """The cell has been run, whatever came of it: what it has defined stays, as in any notebook."""
            patch, self._patch = self._patch, None
            if patch is not None:
                patch.end_module(self._main)
                patch.commit()
                for warning in patch.warnings:
                    stderr.warn(warning)

    cells = Cells()
    shell.ast_transformers.append(cells)
    shell.events.register("post_run_cell", cells.finish)
    _attended = shell


def _defined_in(tree: ast.Module) -> dict[str, str]:
    """The sources of the classes and functions of a cell, by name."""
    return {
        each.name: ast.unparse(each)
        for each in tree.body
        if isinstance(each, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    }


def _defined_before(shell: Any) -> dict[str, str]:
    """The same of all cells that were run by now."""
    found: dict[str, str] = {}
    for cell in shell.user_ns.get("In", ()):
        try:
            found |= _defined_in(ast.parse(shell.transform_cell(cell)))
        except SyntaxError:  # it failed, too
            continue
    return found
