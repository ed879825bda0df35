"""One module of a patch: its definitions, as its new code executes them."""

import ast
import signal
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from spark_fast.errors import ReloadRefusedError
from spark_fast.worker.reload.patching.classes import find_class, layout_difference, update_class
from spark_fast.worker.reload.patching.escapes import escaped_functions, may_be_stored_by_others
from spark_fast.worker.reload.patching.functions import FunctionPatcher, parts
from spark_fast.worker.reload.patching.keeping import Keeper
from spark_fast.worker.reload.patching.kinds import is_pydantic, made_once
from spark_fast.worker.reload.patching.living_code import can_replace, nested_pairs
from spark_fast.worker.reload.patching.references import Discarded, replace_references
from spark_fast.worker.reload.patching.renames import removed_classes, rename_class, renamed_classes
from spark_fast.worker.reload.patching.rewriting import Stage
from spark_fast.worker.reload.patching.source import Source, is_ours
from spark_fast.worker.reload.patching.undo import EMPTY, UndoLog, cell_contents
from spark_fast.worker.state.mappings import replace_items

__all__ = ["PatchedModule"]


class PatchedModule:
    """A module whose new code is being executed.

    Attributes:
        namespace: the module's namespace.
        old_namespace: its former content.
        old_source, new_source: the module's sources. In the old one, renamed classes have their new names.
        renamed: the old names of renamed classes, by their new names.
        ended: whether all of the new code has been executed.
        discards_subclasses: whether a class with bases was made and discarded.
        compiled: the old code's objects that numba compiled.
        splits_classes: see Patch.
    """

    def __init__(
        self, module: ModuleType, old_source: Source, new_text: str, functions: FunctionPatcher, warnings: list[str]
    ) -> None:
        self.namespace = vars(module)
        self.old_namespace = dict(self.namespace)
        self.old_source = old_source
        self.new_text = new_text
        self.new_source = old_source  # until Patch.transform() has the tree
        self.ended = False
        self.discards_subclasses = False
        self.keeper: Keeper | None = None
        self._functions = functions
        self._warnings = warnings
        self._discarded = Discarded()
        self.splits_classes = False
        self.renamed: dict[str, str] = {}
        self.compiled: list[weakref.ref[Any]] = []
        self.file = getattr(module, "__file__", None) or module.__name__
        annotations = self.old_namespace.get("__annotations__")
        self._annotations = dict(annotations) if isinstance(annotations, dict) else None

    def put_back(self) -> None:
        """Put back the former content of the namespace."""
        if self._annotations is not None:
            replace_items(self.old_namespace["__annotations__"], self._annotations)
        replace_items(self.namespace, self.old_namespace)

    def follow_renames(self, log: UndoLog) -> None:
        """Give classes that were renamed, but not changed otherwise, their new names."""
        for after, before in renamed_classes(self.old_source, self.new_source).items():
            cls = self.old_class(before, None)
            if cls is not None and cls.__qualname__ == before:
                rename_class(log, cls, before, after)
                self.old_source = self.old_source.renamed(before, after)
                self.renamed[after] = before

    def removed_classes(self) -> list[tuple[str, type]]:
        """Return the classes that the new source does not define, each with its place in the old source."""
        found = []
        for qualname in removed_classes(self.old_source, self.new_source):
            cls = self.old_class(qualname, None)
            if cls is not None:
                found.append((f"{Path(self.file).name}:{self.old_source.line(qualname)}: class {qualname}", cls))
        return found

    def drop_removed_names(self) -> None:
        """Remove the names that only the old source binds, unless the new code has given them another value."""
        if self.new_source is self.old_source or self.new_source.imports_star:
            return
        for name in self.old_source.bound_names - self.new_source.bound_names:
            if name in self.namespace and self.namespace[name] is self.old_namespace.get(name, EMPTY):
                del self.namespace[name]
        if not self.new_source.has_docstring and self.old_source.has_docstring:
            self.namespace["__doc__"] = None

    def finish_names(self) -> None:
        """Finish the names that the source binds, once all its definitions have been executed."""
        self._keep_repeated()
        if self.keeper is not None:
            self.keeper.drop_removed_classes()

    def _keep_repeated(self) -> None:
        """Keep the identity of functions that the source defines more than once. The last definition counts."""
        old, new = self.old_source, self.new_source
        for name in old.repeated.keys() | new.repeated.keys():
            sources = [each.repeated.get(name) or each.definitions.get(name) for each in (old, new)]
            if "." in name or not all(sources):
                continue
            had, has = (nodes[-1] for nodes in sources if nodes)
            words = [[ast.unparse(each) for each in node.decorator_list if not is_ours(each)] for node in (had, has)]
            value, made = self.old_namespace.get(name, EMPTY), self.namespace.get(name, EMPTY)
            # With other decorators, it may be another function, one that is registered for another type, say.
            if words[0] == words[1] and isinstance(value, FunctionType) and isinstance(made, FunctionType):
                self.namespace[name] = self._functions.keep(value, made, self.namespace, name)

    def changed_lambdas(self) -> dict[CodeType, CodeType]:
        """Return old and new code of the lambdas outside functions, and of the code within them.

        Return nothing if the number of lambdas changed.
        """
        if self.new_source is self.old_source:
            return {}
        olds, news = self.old_source.lambdas(self.file), self.new_source.lambdas(self.file)
        if len(olds) != len(news):
            return {}  # which of them is which is unknown
        changed = [(old, new) for old, new in zip(olds, news, strict=True) if old != new]
        inner = [pair for old, new in changed for pair in nested_pairs(old, new)]
        return {old: new for old, new in [*changed, *inner] if can_replace(old, new)}

    def adopt(self, qualname: str, stage: int) -> Any:
        """Answer the module, which asks when it executes a definition, or has executed some: see Stage."""
        if stage == Stage.FINISHED:
            self.replace_discarded()
            self._keep_originals()
            return None  # a notebook may show it
        if stage == Stage.INNERMOST:
            return lambda made: self._adopt_raw(qualname, made)
        if stage == Stage.OUTERMOST:
            return lambda made: self._adopt_decorated(qualname, made)
        assert self.keeper is not None
        if stage == Stage.EXECUTES:
            return self.keeper.executes(qualname)
        if stage == Stage.STANDS:
            return self.keeper.stands(qualname)
        if stage == Stage.METHODS:
            return lambda made: self._take_methods(qualname, made)
        return lambda made: self._adopt_called(qualname, made)

    def replace_discarded(self) -> None:
        """Replace discarded classes and functions where hooks and decorators have put them."""
        if self._discarded:
            discarded, self._discarded = self._discarded, Discarded()
            models = sys.modules.get("spark_fast.worker.reload.patching.pydantic_models")
            ours = [*self._functions.held(), *(models.held() if models is not None else ())]
            self._warnings += replace_references(discarded, ours)

    def _keep_originals(self) -> None:
        """Keep the old values of names whose objects the module has replaced elsewhere by its own functions.

        `original = library.f`, `def f(): original()`, `library.f = f`: executed again, the first line would find the
        module's own function, which would then call itself.
        """
        names = [
            name
            for name, value in self.namespace.items()
            if isinstance(value, FunctionType)
            and value.__globals__ is self.namespace
            and value.__name__ != name
            and _is_foreign(self.old_namespace.get(name), self.namespace)
        ]
        for name in names:
            had, has = self.old_source.assignments.get(name), self.new_source.assignments.get(name)
            if had is not None and had == has:
                self.namespace[name] = self.old_namespace[name]

    def _adopt_raw(self, qualname: str, made: Any) -> Any:
        """Take the result of a `class` or `def` statement; return the object that its decorators must get."""
        if isinstance(made, FunctionType):
            old = self.old_namespace.get(qualname, EMPTY)
            if old is not EMPTY:
                raw = self._functions.find(old, self.namespace, qualname)
                gets_wrapped = self.new_source.is_decorated(qualname) and not self.old_source.is_decorated(qualname)
                if raw is not None and not gets_wrapped:
                    return self._functions.adopt(raw, made)
            return made
        if not isinstance(made, type):
            return made
        old_class = self.old_class(qualname, made.__module__)
        if old_class is None or old_class is made:
            return made
        if self.keeper is not None:
            self.keeper.note_remade(qualname, old_class)
        # A decorator like dataclass(slots=True) makes another class, which is the one to update.
        if layout_difference(old_class, made) is not None and self.new_source.is_decorated(qualname):
            return made
        updated = self._update(qualname, old_class, made)
        if self.keeper is not None and self.new_source.is_decorated(qualname):
            self.keeper.note_decorated(updated)
        elif self.keeper is not None:
            self.keeper.finish_class(qualname)
        return updated

    def _adopt_decorated(self, qualname: str, made: Any) -> Any:
        """Take the result of the decorators; return the value for the name."""
        old = self.old_value(qualname)
        if old is not made and hasattr(type(old), "recompile") and type(old).__module__.startswith("numba."):
            self.compiled.append(weakref.ref(old))
        old_class = old if isinstance(old, type) and isinstance(made, type) and old is not made else None
        if old_class is not None and self._is_ours(old_class, made, qualname):
            made = self._update(qualname, old_class, made)
        if self.keeper is not None and self.new_source.is_class(qualname):
            self.keeper.finish_class(qualname)
        if isinstance(made, type):
            return made
        return self._functions.keep(old, made, self.namespace, qualname)

    def _adopt_called(self, name: str, made: Any) -> Any:
        """Take the class that a top-level call has made; return the value for the name."""
        old = self.old_namespace.get(name, EMPTY)
        if not isinstance(old, type) or old is made:
            return made
        if isinstance(made, type) and self._is_ours(old, made, name):
            reason = made_once(old)
            if reason is not None:
                raise self.refusal(name, f"it changed, and {reason}")
            return self._update(name, old, made)
        if old.__module__ == self.namespace.get("__name__"):
            self._warnings.append(
                f"`{name}` ({self.place(name)}) is another class now, as a call made it: objects of the old one stay so"
            )
        return made

    def place(self, qualname: str) -> str:
        """Return the file and the line at which the new source makes the definition."""
        return f"{Path(self.file).name}:{self.new_source.line(qualname)}"

    def _is_ours(self, old: type, made: type, qualname: str) -> bool:
        """Return whether the same statement made the old class: the name may have been bound to any class."""
        same_names = (old.__module__, old.__qualname__) == (made.__module__, made.__qualname__)
        return same_names or find_class(old, self.namespace, made.__module__, qualname) is not None

    def _update(self, qualname: str, old: type, made: type) -> type:
        """Give the old class all that the new one has; return the class that is to stand."""
        may_be_stored = may_be_stored_by_others(made)
        mark = self._functions.log.mark()

        def update(old: type, made: type) -> None:
            removed = self.old_source.names_in_class(qualname)
            update_class(old, made, removed, self._functions, lambda reason: self.refusal(qualname, reason))

        try:
            if is_pydantic(old) and is_pydantic(made):
                self._update_model(qualname, old, made, update)
            else:
                update(old, made)
        except ReloadRefusedError as error:
            if not self.splits_classes:
                raise
            self._functions.log.undo(mark)
            _point_cells_back(made, old)
            self._warnings.append(
                f"class {qualname} is a new class, since {error.reason}: objects of the old class keep its methods"
            )
            return made
        if may_be_stored:
            self._discarded.add(made, old, f"{self.place(qualname)}: {qualname}")
        self._discard_methods(qualname, made, may_be_stored)
        self.discards_subclasses |= made.__bases__ != (object,)
        return old

    def _discard_methods(self, qualname: str, made: type, may_be_stored: bool) -> None:
        """Discard the methods of a discarded class, since decorators or hooks may have stored them somewhere."""
        if may_be_stored or self.new_source.has_decorated_methods(qualname):
            for new, stays in escaped_functions(made, self._functions.adopted(qualname)):
                self._discarded.add(new, stays, f"{self.place(qualname)}: {qualname}.{new.__name__}")

    def _take_methods(self, qualname: str, holder: type) -> object:
        """Give the class that stays the methods that were executed in a class of their own; return the former."""
        assert self.keeper is not None
        stands = self.keeper.take_methods(qualname, holder)
        self._discard_methods(qualname, holder, False)
        return stands

    def _update_model(self, qualname: str, old: type, made: type, update: Callable[[type, type], None]) -> None:
        from spark_fast.worker.reload.patching.pydantic_models import update_model  # only pydantic models need it

        try:
            lacking = update_model(old, made, update, self._functions.log)
        except ReloadRefusedError:
            raise
        except Exception as error:
            raise self.refusal(qualname, f"pydantic can't change it in place: {error}") from error
        if lacking:
            self._warnings.append(
                f"`{qualname}` ({self.place(qualname)}): objects that were made before have no `{'`, `'.join(lacking)}`"
            )

    def refusal(self, qualname: str, reason: str) -> ReloadRefusedError:
        """Return the error for an edit of this definition that can't be made in place."""
        what = f"class {qualname}" if qualname in self.new_source.definitions else qualname
        return ReloadRefusedError(f"{self.place(qualname)}: {what}", reason)

    def old_value(self, qualname: str) -> object:
        """Return what the old code bound to the name; EMPTY if nothing."""
        outer, _, name = qualname.rpartition(".")
        if not outer:
            return self.old_namespace.get(self.renamed.get(name, name), EMPTY)
        owner = self.old_class(outer, None)
        return vars(owner).get(name, EMPTY) if owner is not None else EMPTY

    def old_class(self, qualname: str, module: str | None) -> type | None:
        """Return the class that the old code made by this name; None if there is none.

        module: its `__module__`; None for the module's own name.
        """
        value = self.old_value(qualname)
        if value is EMPTY:
            return None
        home = self.namespace.get("__name__", "") if module is None else module
        return find_class(value, self.namespace, home, qualname)


def _point_cells_back(cls: type, other: type) -> None:
    """Make zero-argument super() in the functions of a class find that class, where it found the other one."""
    for value in list(vars(cls).values()):
        for part in parts(value):
            for cell in (part.__closure__ or ()) if isinstance(part, FunctionType) else ():
                if cell_contents(cell) is other:
                    cell.cell_contents = cls


def _is_foreign(value: object, namespace: dict[str, Any]) -> bool:
    """Return whether the module's own code did not make the value. Signal handlers may be numbers."""
    if isinstance(value, FunctionType):
        return value.__globals__ is not namespace
    return callable(value) or isinstance(value, signal.Handlers) or value is None
