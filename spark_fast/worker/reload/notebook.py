"""Makes a notebook cell that runs again change its earlier classes and functions in place.

So persisted objects, and objects that other cells have made, get the new methods, as after a reload of a script.
"""

import ast
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spark_fast import stderr

if TYPE_CHECKING:
    from spark_fast.worker.reload.patching import Patch

__all__ = ["attend"]


def attend() -> None:
    """Begin to patch the cells of this process's IPython session, if there is one. A second call does nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and not any(isinstance(each, _Cells) for each in shell.ast_transformers):
        cells = _Cells(shell)
        shell.ast_transformers.append(cells)
        shell.events.register("post_run_cell", cells.finish)


class _Cells(ast.NodeTransformer):
    """Passes each cell, before it is compiled, through its own patch."""

    def __init__(self, shell: Any) -> None:
        self._sources = _defined_before(shell)
        self._patch: Patch | None = None
        self._main: ModuleType = shell.user_module

    def visit(self, node: ast.AST) -> ast.AST:
        from spark_fast.worker.reload.patching import Patch  # the import takes tens of ms, and only a notebook needs it

        if not isinstance(node, ast.Module):
            return node
        defined = _defined_in(node)
        # Only the definitions: the rest of a cell may be valid only in a notebook.
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
        """Keep the cell's definitions, even if the cell raised, as notebooks do."""
        patch, self._patch = self._patch, None
        if patch is not None:
            patch.end_module(self._main)
            patch.commit()
            for warning in patch.warnings:
                stderr.warn(warning)


def _defined_in(tree: ast.Module) -> dict[str, str]:
    """Return the sources of the classes and functions of a cell, by name."""
    return {
        each.name: ast.unparse(each)
        for each in tree.body
        if isinstance(each, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    }


def _defined_before(shell: Any) -> dict[str, str]:
    """Return the sources of the classes and functions of all cells that were run before, by name."""
    found: dict[str, str] = {}
    for cell in shell.user_ns.get("In", ()):
        try:
            found |= _defined_in(ast.parse(shell.transform_cell(cell)))
        except SyntaxError:  # the cell failed when it was run
            continue
    return found
