"""All changes in place of one reload, which are kept or undone together."""

import ast
import gc
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from spark_fast.worker.reload.patching.dependencies import Dependencies
from spark_fast.worker.reload.patching.functions import FunctionPatcher
from spark_fast.worker.reload.patching.keeping import Keeper
from spark_fast.worker.reload.patching.living_code import swap_living_code
from spark_fast.worker.reload.patching.patched_module import PatchedModule
from spark_fast.worker.reload.patching.rewriting import Stage, add_decorators, add_finishing
from spark_fast.worker.reload.patching.source import ADOPT, Source, parsed
from spark_fast.worker.reload.patching.undo import UndoLog

__all__ = ["Patch"]


class Patch:
    """All changes in place of one reload: commit() keeps them, undo() takes them back.

    For each module: call begin_module(), transform() the tree of its new source, compile it, execute it in the module's
    own namespace, and call end_module(). As each `class` and `def` statement is executed, the object that the old code
    made in its place is updated. Decorators, subclasses and the namespace then see that object. The loop of the entry
    script still runs when the new code is known to be good, so the entry needs no end_module() before commit().

    Use it from one thread. Other threads may run the code that is changed, and a patch is no single moment for them. A
    thread that calls a function while it is changed may run its old code with new defaults.

    keeps_unchanged: whether definitions that the edit left alone stay as they are. For sources that hold the whole
        module, which is executed from its first line.
    splits_classes: whether a class that can't be changed in place becomes another class, with a warning. Otherwise
        ReloadRefusedError is raised.
    warnings: gets a sentence for each definition that stays as the old code made it, though it should change.

    Attributes:
        code_changed: whether the code of a function differs in more than its place in the file.
        warnings: a sentence for each object that stays as the old code made it.
    """

    def __init__(
        self, *, keeps_unchanged: bool = False, splits_classes: bool = False, warnings: list[str] | None = None
    ) -> None:
        self._splits_classes = splits_classes
        self._compiled: list[weakref.ref[Any]] = []
        self._log = UndoLog()
        self._functions = FunctionPatcher(self._log)
        self._modules: dict[int, PatchedModule] = {}
        self._keepers: dict[int, Keeper] = {}
        self._dependencies = Dependencies(self._keepers) if keeps_unchanged else None
        self.warnings = warnings if warnings is not None else []

    @property
    def code_changed(self) -> bool:
        return self._functions.code_changed

    def begin_module(self, module: ModuleType, old_source: str, new_source: str) -> None:
        """Remember the module's namespace, in which its new source must be executed next.

        Raises SyntaxError, before anything is changed, if the old source can't be parsed.
        """
        begun = PatchedModule(module, parsed(old_source), new_source, self._functions, self.warnings)
        begun.splits_classes = self._splits_classes
        self._modules[id(module)] = begun
        self._log.add(begun.put_back)
        begun.namespace.pop("__annotations__", None)  # else the new code adds to the annotations of the old
        begun.namespace[ADOPT] = begun.adopt

    def transform(self, tree: ast.Module, module: ModuleType) -> ast.Module:
        """Change the tree so that its definitions hand themselves to this patch; return it. All lines stay."""
        begun = self._modules[id(module)]
        new_source = Source(begun.new_text, tree)
        if begun.new_text != begun.old_source.text:
            begun.new_source = new_source
            begun.follow_renames(self._log)
        if self._dependencies is not None:
            keeper = Keeper(begun, new_source, self._dependencies, self._functions, self.warnings)
            begun.keeper = self._keepers[id(begun.namespace)] = keeper
            keeper.rewrite()
        add_decorators(begun.old_source, new_source)
        add_finishing(tree)
        return tree

    def renamed_classes(self) -> dict[str, str]:
        """Return the old names of classes that were renamed, by their new names."""
        return {after: before for begun in self._modules.values() for after, before in begun.renamed.items()}

    def removed_classes(self) -> list[tuple[str, type]]:
        """Return the classes that the new sources do not define, each with its place in the old source."""
        return [found for begun in self._modules.values() for found in begun.removed_classes()]

    def kept_for_undo(self) -> list[dict[str, Any]]:
        """Return the former contents of the namespaces."""
        return [begun.old_namespace for begun in self._modules.values()]

    def end_module(self, module: ModuleType) -> None:
        """Finish a module whose new code has been executed."""
        begun = self._modules[id(module)]
        begun.finish_names()
        begun.ended = True
        begun.namespace.pop(ADOPT, None)
        begun.replace_discarded()

    def drop_removed_names(self) -> None:
        """Remove the names that only the old sources bind, unless the new code has given them another value."""
        for begun in self._modules.values():
            begun.drop_removed_names()

    def undo(self) -> None:
        """Put everything back as it was. Not possible after commit()."""
        for begun in self._modules.values():
            begun.replace_discarded()  # hooks may have put them into registries
        self._log.undo()
        self._forget()

    def commit(self) -> None:
        """Keep the changes, and drop everything old.

        Lambdas of the top level that live on, and closures made by functions that changed, get their new code. If there
        is such code, that costs one pass over all objects.
        """
        for begun in self._modules.values():
            if not begun.ended:
                begun.namespace[ADOPT] = _without_patch
                begun.finish_names()
            begun.replace_discarded()
        lambdas = [(begun.namespace, begun.changed_lambdas()) for begun in self._modules.values()]
        swap_living_code(list(self._functions.codes.values()), lambdas)
        self._compiled = [each for begun in self._modules.values() for each in begun.compiled]
        listed = any(begun.discards_subclasses for begun in self._modules.values())
        self._forget()
        if listed:
            gc.collect(1)  # discarded classes are young; until then they stand in their bases' __subclasses__()

    def recompile(self) -> None:
        """Make numba compile again what it compiled of the old code, if the module no longer holds that object.

        Call it after commit(), when everything else that held the old code has let go of it.
        """
        if self.code_changed and any(each() is not None for each in self._compiled):
            gc.collect()
            for each in self._compiled:
                if (dispatcher := each()) is not None:
                    dispatcher.recompile()
        self._compiled.clear()

    def _forget(self) -> None:
        self._log.clear()
        self._functions.forget()
        self._modules.clear()
        self._keepers.clear()
        parsed.cache_clear()


def _without_patch(qualname: str, stage: int) -> Callable[[Any], Any] | None:
    """Answer a definition that is executed after commit(): return its result unchanged."""
    return _unchanged if stage != Stage.FINISHED else None


def _unchanged(made: Any) -> Any:
    return made
