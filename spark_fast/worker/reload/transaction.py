"""Takes the project from the running sources to new ones, completely or not at all.

The modules that changed, and those that import them, are executed again, each in its present namespace. If the new code
fails, everything is put back.
"""

import ast
import gc
import linecache
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType, ModuleType
from typing import Any

from spark_fast import stderr
from spark_fast.errors import ReloadRefusedError
from spark_fast.project.sources import decode, show_in_tracebacks
from spark_fast.worker.reload import dynamo
from spark_fast.worker.reload.import_order import before_imports
from spark_fast.worker.reload.leftovers import factory_warnings, object_warnings
from spark_fast.worker.reload.modules import ENTRY, Module, Project
from spark_fast.worker.reload.namespaces import Namespaces
from spark_fast.worker.reload.patching import Patch, preflight
from spark_fast.worker.reload.repetition import Repetition, Repetitions
from spark_fast.worker.reload.snapshots import Declarations, Persisted, Snapshot
from spark_fast.worker.reload.torch_operators import refuse_operators

__all__ = ["Transaction", "without_gc"]


@contextmanager
def without_gc() -> Iterator[None]:
    """Switch the garbage collector off for the block.

    Parsing makes so many objects that the collector would search all objects of the training: 100 ms each time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Transaction:
    """Takes the project from the running sources to those of another version.

    sources: the sources that differ from the running ones, and those of files that are not loaded yet, by path.
    number, before: the new version, and the running version.
    persisted: the values of persist().
    declarations: the values and functions that modules expose as they are executed.
    repetitions: makes libraries accept that code is executed a second time.
    parts: all other parts of the worker that the user's code fills. undo() restores them too.
    restart: whether the training starts over, for which execute() forgets the persisted values.

    Attributes:
        warnings: a sentence for each object that stays as the old code made it. finish_warnings() completes them.

    Call the methods from the thread that runs the entry, in this order: check(), execute(), and at last commit() or
    undo(). Several transactions may follow each other before the first is committed; undo the last one first.
    """

    def __init__(
        self,
        project: Project,
        sources: Mapping[str, bytes],
        *,
        number: int,
        before: int,
        persisted: Persisted,
        declarations: Declarations,
        repetitions: Repetitions,
        parts: Sequence[Snapshot] = (),
        restart: bool = False,
    ) -> None:
        self.number = number
        self.before = before
        self.warnings: list[str] = []
        self.restart = restart
        self._project = project
        self._sources = dict(sources)
        self._persisted = persisted
        self._repetitions = repetitions
        self._declarations = declarations
        self._parts = [project, declarations, *parts]
        loaded = {module.path: module.name for module in list(project.modules.values())}
        self._changed = [loaded[path] for path in sources if path in loaded]
        self._affected: list[str] = []
        self._waiting: set[str] = set()
        self._executed = False
        self._patch = Patch(keeps_unchanged=True, warnings=self.warnings)
        self._repetition: Repetition | None = None
        self._namespaces = Namespaces()
        self._taken: list[tuple[Snapshot, Any]] = []
        self._modules_before: dict[str, Module] = {}
        self._values_before: Mapping[str, object] = {}
        self._reported: int | None = None

    @property
    def sources(self) -> dict[str, bytes]:
        """The sources that differ from the running ones, by path."""
        return dict(self._sources)

    @property
    def touches_entry(self) -> bool:
        """Whether the entry, or a module that it imports, changed."""
        return ENTRY in self._affected

    @without_gc()
    def check(self) -> None:
        """Check, before anything is changed, that the new sources can replace the running ones.

        Raises SyntaxError or ReloadRefusedError if they can't.
        """
        for name in self._changed:
            module = self._project.modules[name]
            source = self._sources[module.path]
            ast.parse(source, module.path)
            preflight(decode(module.source), decode(source), self._loaded(name))
        for name in self._project.importers(self._changed):
            if name == ENTRY or name in sys.modules:
                module = self._project.modules[name]
                refuse_operators(self._sources.get(module.path, module.source), module.path, self._loaded(name))

    @without_gc()
    def execute(self) -> None:
        """Execute all affected modules but the entry. If it raises, call undo()."""
        project = self._project
        # Found only now, since the code that left the loop may have imported modules after the reload began.
        self._affected = [name for name in project.importers(self._changed) if name in sys.modules]
        self._take_snapshots()
        if self.restart:
            self._persisted.clear_all()
        old = [module.source for name, module in project.modules.items() if name in self._affected or name == ENTRY]
        self._repetition = Repetition(self._repetitions, [*self._affected, ENTRY], old)
        self._repetition.begin()
        for name in self._affected:
            self._namespaces.add(name, self._loaded(name))
        project.pending = {**project.pending, **self._sources}
        for path, source in self._sources.items():
            show_in_tracebacks(path, source)
        again = [name for name in self._affected if name != ENTRY]
        self._waiting = set(again)
        self._declarations.expect_again(again)
        with before_imports(self._execute_modules):
            self._execute_modules(again)
        self._forget_compiled()

    def _take_snapshots(self) -> None:
        self._modules_before = dict(self._project.modules)
        self._values_before = self._persisted.snapshot()
        self._taken = [(self._persisted, self._values_before), *((part, part.snapshot()) for part in self._parts)]
        self._namespaces.begin()
        self._executed = True

    def _execute_modules(self, names: Iterable[str]) -> None:
        for name in names:
            self._execute_module(name)

    def _execute_module(self, name: str) -> None:
        """Execute a module, unless it is not affected or was executed before."""
        if name not in self._waiting:
            return
        self._waiting.remove(name)  # before the execution, since modules may import each other in a circle
        old = self._project.modules[name]
        source = self._project.pending.get(old.path, old.source)
        module = self._namespaces.modules[name]
        try:
            exec(self._compile(module, old.path, old.source, source), module.__dict__)
            self._patch.end_module(module)
        except BaseException:
            self._waiting.add(name)  # its importer may catch the error and go on, but the reload can't
            raise
        self._project.note(Module(name, old.path, source, old.loaded), from_disk=False)
        self._namespaces.update_package(name)

    def _loaded(self, name: str) -> ModuleType:
        """Return the module in whose namespace a source was executed, and must be executed again.

        It may differ from the object in `sys.modules`, where a module may put another object in its own place.
        """
        listed = sys.modules.get(name)
        known = self._project.modules[name]
        file = os.path.basename(known.path)
        if listed is None:
            raise ReloadRefusedError(
                file, f"the module {name} was removed from sys.modules, so that it can't be executed again in its place"
            )
        loaded = known.loaded or listed
        if not isinstance(loaded, ModuleType):
            raise ReloadRefusedError(
                file,
                f"sys.modules[{name!r}] is no module but an object of the type {type(loaded).__qualname__}, so that it "
                "can't be executed again in its namespace",
            )
        return loaded

    def _forget_compiled(self) -> None:
        """Make compilers forget the old code, if the new sources compile to other code."""
        # is_in_use() comes first, since differs() compiles both sources.
        if dynamo.is_in_use() and any(
            dynamo.differs(self._modules_before[name].source, self._sources[self._modules_before[name].path], name)
            for name in self._changed
        ):
            dynamo.forget()

    def _compile(self, module: ModuleType, path: str, old: bytes, new: bytes) -> CodeType:
        tree = ast.parse(new, path)
        self._patch.begin_module(module, decode(old), decode(new))
        code: CodeType = compile(self._patch.transform(tree, module), path, "exec", dont_inherit=True)
        return code

    @without_gc()
    def entry_code(self) -> CodeType:
        """Return the entry's code, to be executed in the namespace of `__main__` with the patch active."""
        module = self._project.modules[ENTRY]
        source = self._sources.get(module.path, module.source)
        main = sys.modules[ENTRY]
        self._declarations.expect_again([ENTRY])
        if ENTRY not in self._namespaces.modules:
            self._namespaces.add(ENTRY, main)
        code = self._compile(main, module.path, module.source, source)
        self._project.note(Module(ENTRY, module.path, source), from_disk=False)
        if self._patch.removed_classes():
            gc.collect()  # so that the warnings count only living objects
        return code

    def finish_warnings(self) -> None:
        """Complete `warnings`. Call it once the new code runs and has dropped the old code's objects.

        A second call does nothing. Costs a pass over all objects if classes are gone from the sources.
        """
        if self._reported is not None:
            return
        if self._repetition is not None:
            self.warnings += self._repetition.warnings
        values = self._persisted.snapshot()
        self.warnings += object_warnings(
            self._patch.removed_classes(),
            values,
            [*self._namespaces.before.values(), *self._patch.kept_for_undo(), self._values_before, values],
        )
        old, new = (
            {name: decode(modules[name].source) for name in self._affected if name in modules}
            for modules in (self._modules_before, self._project.modules)
        )
        files = {name: os.path.basename(self._project.modules[name].path) for name in new}
        renamed = self._patch.renamed_classes()
        self.warnings += factory_warnings(old, new, self._values_before, values, renamed, files)
        self._reported = len(self.warnings)

    def commit(self) -> None:
        """Keep the new code, and forget all that undo() would need."""
        if self._repetition is not None:
            self._repetition.keep()
        self._patch.drop_removed_names()
        self._patch.commit()
        for warning in self.warnings[self._reported :]:  # too late for the answer to the reload's sender
            stderr.warn(f"after a reload: {warning}")
        self._declarations.commit()
        running = {module.path for module in list(self._project.modules.values())}
        self._project.pending = {path: source for path, source in self._project.pending.items() if path not in running}
        self._namespaces.forget()
        self._taken.clear()
        self._values_before = {}
        self._modules_before.clear()
        self._patch.recompile()

    def undo(self) -> None:
        """Put everything back as it was before execute()."""
        if not self._executed:
            return
        if self._repetition is not None:
            self._repetition.undo()
        self._patch.undo()
        self._namespaces.restore(self._project.modules)
        for part, taken in self._taken:
            part.restore(taken)
        for path in self._sources:
            linecache.cache.pop(path, None)
            if (source := self._project.source_of(path)) is not None:
                show_in_tracebacks(path, source)
        if self._changed and dynamo.is_in_use():
            dynamo.forget()
