"""One transaction of changes in place."""

import ast
import gc
import signal
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from spark_fast.errors import ReloadRefusedError
from spark_fast.worker.reload.patching.classes import find_class, layout_difference, update_class
from spark_fast.worker.reload.patching.dependencies import Dependencies
from spark_fast.worker.reload.patching.functions import FunctionPatcher, parts
from spark_fast.worker.reload.patching.keeping import Keeper
from spark_fast.worker.reload.patching.kinds import is_pydantic, made_once
from spark_fast.worker.reload.patching.references import Discarded, replace_references
from spark_fast.worker.reload.patching.referrers import (
    can_replace,
    escaped_functions,
    nested_pairs,
    swap_living_code,
    tells_others,
)
from spark_fast.worker.reload.patching.renames import removed_classes, rename_class, renamed_classes
from spark_fast.worker.reload.patching.rewriting import Stage, add_decorators, add_settling
from spark_fast.worker.reload.patching.source import ADOPT, Source, is_ours, parsed
from spark_fast.worker.reload.patching.undo import EMPTY, UndoLog, cell_contents
from spark_fast.worker.state.mappings import replace_items

__all__ = ["Patch"]

Decorator = Callable[[Any], Any]


class Patch:
    """All changes in place of one reload: to be kept by commit(), or taken back by undo().

    For each module: begin_module(), transform() the tree of its new source, compile it and execute it in the module's
    own namespace, end_module(). As each `class` and `def` statement is executed, the object that the old code made in
    its place is updated, and it is what decorators, subclasses and the namespace then see. The entry script, whose
    loop is still running when the new code is known to be good, needs no end_module() before commit().

    From one thread; other threads may run the code that is changed. A thread that calls a function in the very moment
    may run its old code with new defaults, and a transaction is no single moment for them.

    keeps_unchanged: whether definitions that the edit left alone stay as they are. For sources that hold the whole of a
        module, which is executed from its first line.
    splits_classes: whether a class that can't be changed in place becomes another class, with a warning. Otherwise
        ReloadRefusedError is raised.
    warnings: takes a sentence for each definition that stays old though it should not.

    Attributes:
        code_changed: some function's code differs, and not only its place in the file.
        warnings: what stays as the old code made it, one sentence each.
    """

    def __init__(
        self, *, keeps_unchanged: bool = False, splits_classes: bool = False, warnings: list[str] | None = None
    ) -> None:
        self._splits_classes = splits_classes
        self._compiled: list[weakref.ref[Any]] = []
        self._log = UndoLog()
        self._functions = FunctionPatcher(self._log)
        self._modules: dict[int, _Module] = {}
        self._keepers: dict[int, Keeper] = {}
        self._dependencies = Dependencies(self._keepers) if keeps_unchanged else None
        self.warnings = warnings if warnings is not None else []

    @property
    def code_changed(self) -> bool:
        return self._functions.code_changed

    def begin_module(self, module: ModuleType, old_source: str, new_source: str) -> None:
        """Remembers the module's namespace. Its new source is to be executed next, in that same namespace.

        Raises SyntaxError if the old source is none, and then nothing is changed.
        """
        begun = _Module(module, parsed(old_source), new_source, self._functions, self.warnings)
        begun.splits_classes = self._splits_classes
        self._modules[id(module)] = begun
        self._log.add(begun.put_back)
        begun.namespace.pop("__annotations__", None)  # else the new module adds to the old one's
        begun.namespace[ADOPT] = begun.adopt

    def transform(self, tree: ast.Module, module: ModuleType) -> ast.Module:
        """Makes the definitions in the tree, which is changed, hand themselves to this patch. All lines stay."""
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
        add_settling(tree)
        return tree

    def renamed_classes(self) -> dict[str, str]:
        """The classes that were given another name: the old names by the new ones."""
        return {after: before for begun in self._modules.values() for after, before in begun.renamed.items()}

    def removed_classes(self) -> list[tuple[str, type]]:
        """The classes that the new sources do not define any more, and where they stood."""
        return [found for begun in self._modules.values() for found in begun.removed_classes()]

    def kept_for_undo(self) -> list[dict[str, Any]]:
        """The namespaces as they were."""
        return [begun.old_namespace for begun in self._modules.values()]

    def end_module(self, module: ModuleType) -> None:
        """The module's new code has been executed."""
        begun = self._modules[id(module)]
        begun.settle_names()
        begun.ended = True
        begun.namespace.pop(ADOPT, None)
        begun.replace_discarded()

    def drop_removed_names(self) -> None:
        """Removes the names that the old sources bound at their top level and the new ones do not.

        Those stay that the new code has given another value.
        """
        for begun in self._modules.values():
            begun.drop_removed_names()

    def undo(self) -> None:
        """Puts everything back as it was. Not possible after commit()."""
        for begun in self._modules.values():
            begun.replace_discarded()  # hooks may have put them into registries
        self._log.undo()
        self._forget()

    def commit(self) -> None:
        """Keeps the changes, and lets go of everything old.

        Lambdas of the top level that live on, and closures made by functions that changed, get the new code of theirs:
        one look at all objects, if there is such code.
        """
        for begun in self._modules.values():
            if not begun.ended:
                begun.namespace[ADOPT] = _as_it_is
                begun.settle_names()
            begun.replace_discarded()
        lambdas = [(begun.namespace, begun.changed_lambdas()) for begun in self._modules.values()]
        swap_living_code(list(self._functions.codes.values()), lambdas)
        self._compiled = [each for begun in self._modules.values() for each in begun.compiled]
        listed = any(begun.discards_subclasses for begun in self._modules.values())
        self._forget()
        if listed:
            gc.collect(1)  # the discarded classes are young, and stand in their bases' __subclasses__() until then

    def recompile(self) -> None:
        """Has numba compile anew what it compiled of the old code and something else than the module holds.

        For after commit(), when everything else that held the old code has let go of it.
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


class _Module:
    """A module whose new code is being executed."""

    def __init__(
        self, module: ModuleType, old_source: Source, new_text: str, functions: FunctionPatcher, warnings: list[str]
    ) -> None:
        self.namespace = vars(module)
        self.old_namespace = dict(self.namespace)
        self.old_source = old_source
        self.new_text = new_text
        self.new_source = old_source  # until transform() has the tree
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
        """Makes the namespace what it was."""
        if self._annotations is not None:
            replace_items(self.old_namespace["__annotations__"], self._annotations)
        replace_items(self.namespace, self.old_namespace)

    def follow_renames(self, log: UndoLog) -> None:
        """Makes classes that were renamed, and nothing else, known by their new names."""
        for after, before in renamed_classes(self.old_source, self.new_source).items():
            cls = self.old_class(before, None)
            if cls is not None and cls.__qualname__ == before:
                rename_class(log, cls, before, after)
                self.old_source = self.old_source.renamed(before, after)
                self.renamed[after] = before

    def removed_classes(self) -> list[tuple[str, type]]:
        """The classes that the new source does not define, and where they stood."""
        found = []
        for qualname in removed_classes(self.old_source, self.new_source):
            cls = self.old_class(qualname, None)
            if cls is not None:
                found.append((f"{Path(self.file).name}:{self.old_source.line(qualname)}: class {qualname}", cls))
        return found

    def drop_removed_names(self) -> None:
        if self.new_source is self.old_source or self.new_source.imports_star:
            return
        for name in self.old_source.bound_names - self.new_source.bound_names:
            if name in self.namespace and self.namespace[name] is self.old_namespace.get(name, EMPTY):
                del self.namespace[name]
        if not self.new_source.has_docstring and self.old_source.has_docstring:
            self.namespace["__doc__"] = None

    def settle_names(self) -> None:
        """All definitions have been executed."""
        self._settle_repeated()
        if self.keeper is not None:
            self.keeper.drop_removed_classes()

    def _settle_repeated(self) -> None:
        """Functions that the source makes more than once keep their identity: the last one counts."""
        old, new = self.old_source, self.new_source
        for name in old.repeated.keys() | new.repeated.keys():
            sources = [each.repeated.get(name) or each.definitions.get(name) for each in (old, new)]
            if "." in name or not all(sources):
                continue
            had, has = (nodes[-1] for nodes in sources if nodes)
            words = [[ast.unparse(each) for each in node.decorator_list if not is_ours(each)] for node in (had, has)]
            value, made = self.old_namespace.get(name, EMPTY), self.namespace.get(name, EMPTY)
            # With other decorators it may be another function: one that is registered for another type, say.
            if words[0] == words[1] and isinstance(value, FunctionType) and isinstance(made, FunctionType):
                self.namespace[name] = self._functions.settle(value, made, self.namespace, name)

    def changed_lambdas(self) -> dict[CodeType, CodeType]:
        """Old and new code of the lambdas outside functions, and of what is within them, if there are as many as
        before."""
        if self.new_source is self.old_source:
            return {}
        olds, news = self.old_source.lambdas(self.file), self.new_source.lambdas(self.file)
        if len(olds) != len(news):
            return {}  # no telling which is which
        changed = [(old, new) for old, new in zip(olds, news, strict=True) if old != new]
        inner = [pair for old, new in changed for pair in nested_pairs(old, new)]
        return {old: new for old, new in [*changed, *inner] if can_replace(old, new)}

    def adopt(self, qualname: str, stage: int) -> Any:
        """What the module asks for when it executes a definition, or has executed some."""
        if stage == Stage.SETTLE:
            self.replace_discarded()
            self._keep_originals()
            return None  # a notebook may show it
        if stage == Stage.INNERMOST:
            return lambda made: self._adopt_raw(qualname, made)
        if stage == Stage.OUTERMOST:
            return lambda made: self._settle(qualname, made)
        assert self.keeper is not None
        if stage == Stage.EXECUTES:
            return self.keeper.executes(qualname)
        if stage == Stage.STANDS:
            return self.keeper.stands(qualname)
        if stage == Stage.METHODS:
            return lambda made: self._take_methods(qualname, made)
        return lambda made: self._settle_call(qualname, made)

    def replace_discarded(self) -> None:
        """Classes and functions that were discarded don't stay where hooks and decorators have put them."""
        if self._discarded:
            discarded, self._discarded = self._discarded, Discarded()
            models = sys.modules.get("spark_fast.worker.reload.patching.pydantic_models")
            ours = [*self._functions.held(), *(models.held() if models is not None else ())]
            self._warnings += replace_references(discarded, ours)

    def _keep_originals(self) -> None:
        """A name that holds what a function of the module has been put in the place of goes on holding that.

        `original = library.f`, `def f(): original()`, `library.f = f`: executed once more, the first line finds the
        function of the module, and that would call itself.
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
        """What the statement itself has made."""
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
        # dataclass(slots=True) and its like are still to make the class that matters.
        if layout_difference(old_class, made) is not None and self.new_source.is_decorated(qualname):
            return made
        updated = self._update(qualname, old_class, made)
        if self.keeper is not None and self.new_source.is_decorated(qualname):
            self.keeper.note_decorated(updated)
        elif self.keeper is not None:
            self.keeper.settle_class(qualname)
        return updated

    def _settle(self, qualname: str, made: Any) -> Any:
        """What the decorators have made of it."""
        old = self.old_value(qualname)
        if old is not made and hasattr(type(old), "recompile") and type(old).__module__.startswith("numba."):
            self.compiled.append(weakref.ref(old))
        old_class = old if isinstance(old, type) and isinstance(made, type) and old is not made else None
        if old_class is not None and self._is_ours(old_class, made, qualname):
            made = self._update(qualname, old_class, made)
        if self.keeper is not None and self.new_source.is_class(qualname):
            self.keeper.settle_class(qualname)
        if isinstance(made, type):
            return made
        return self._functions.settle(old, made, self.namespace, qualname)

    def _settle_call(self, name: str, made: Any) -> Any:
        """What is to stand for the class that a call of the top level has made."""
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
        """The file and the line at which the new source makes the definition."""
        return f"{Path(self.file).name}:{self.new_source.line(qualname)}"

    def _is_ours(self, old: type, made: type, qualname: str) -> bool:
        """Whether the statement, with its decorators, made the old class: the name may have been bound to any."""
        same_names = (old.__module__, old.__qualname__) == (made.__module__, made.__qualname__)
        return same_names or find_class(old, self.namespace, made.__module__, qualname) is not None

    def _update(self, qualname: str, old: type, made: type) -> type:
        told = tells_others(made)
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
        if told:
            self._discarded.add(made, old, f"{self.place(qualname)}: {qualname}")
        self._discard_methods(qualname, made, told)
        self.discards_subclasses |= made.__bases__ != (object,)
        return old

    def _discard_methods(self, qualname: str, made: type, told: bool) -> None:
        """Decorators, or a hook that was told of the class, may have put its methods away."""
        if told or self.new_source.has_decorated_methods(qualname):
            for new, stays in escaped_functions(made, self._functions.adopted(qualname)):
                self._discarded.add(new, stays, f"{self.place(qualname)}: {qualname}.{new.__name__}")

    def _take_methods(self, qualname: str, holder: type) -> object:
        assert self.keeper is not None
        stands = self.keeper.take_methods(qualname, holder)
        self._discard_methods(qualname, holder, False)
        return stands

    def _update_model(self, qualname: str, old: type, made: type, update: Callable[[type, type], None]) -> None:
        from spark_fast.worker.reload.patching.pydantic_models import update_model  # for those who use pydantic

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
        """The error for an edit of this definition that can't be made."""
        what = f"class {qualname}" if qualname in self.new_source.definitions else qualname
        return ReloadRefusedError(f"{self.place(qualname)}: {what}", reason)

    def old_value(self, qualname: str) -> object:
        outer, _, name = qualname.rpartition(".")
        if not outer:
            return self.old_namespace.get(self.renamed.get(name, name), EMPTY)
        owner = self.old_class(outer, None)
        return vars(owner).get(name, EMPTY) if owner is not None else EMPTY

    def old_class(self, qualname: str, module: str | None) -> type | None:
        value = self.old_value(qualname)
        if value is EMPTY:
            return None
        home = self.namespace.get("__name__", "") if module is None else module
        return find_class(value, self.namespace, home, qualname)


def _point_cells_back(cls: type, other: type) -> None:
    """Makes the functions of a class, with their zero-argument super(), find it, where they found the other one."""
    for value in list(vars(cls).values()):
        for part in parts(value):
            for cell in (part.__closure__ or ()) if isinstance(part, FunctionType) else ():
                if cell_contents(cell) is other:
                    cell.cell_contents = cls


def _is_foreign(value: object, namespace: dict[str, Any]) -> bool:
    """Whether a value is none that the module's own code makes new each time; signal handlers are numbers, too."""
    if isinstance(value, FunctionType):
        return value.__globals__ is not namespace
    return callable(value) or isinstance(value, signal.Handlers) or value is None


def _as_it_is(qualname: str, stage: int) -> Decorator | None:
    return _same if stage != Stage.SETTLE else None


def _same(made: Any) -> Any:
    return made
