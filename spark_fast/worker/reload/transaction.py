"""One reload: the modules that changed, and those that imported them, are executed anew; or everything is as it was."""

import ast
import builtins
import gc
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType, ModuleType
from typing import Any

from spark_fast.errors import ReloadRefusedError
from spark_fast.project.sources import decode
from spark_fast.worker import stderr
from spark_fast.worker.reload import dynamo
from spark_fast.worker.reload.leftovers import factory_warnings, object_warnings
from spark_fast.worker.reload.libraries import Repetition, refuse_libraries
from spark_fast.worker.reload.modules import ENTRY, Module, Project
from spark_fast.worker.reload.patching import Patch, preflight
from spark_fast.worker.state import hooks, persist, registry
from spark_fast.worker.state.mappings import replace_items

__all__ = ["Transaction", "without_gc"]


@contextmanager
def without_gc() -> Iterator[None]:
    """Parsing makes so many objects that the collector would look through all of the training's: 100 ms at a time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _asked_first(before: Callable[[Iterable[str]], None]) -> Iterator[None]:
    """Within it, an import statement of this thread first calls `before` with the names of the modules that it needs.

    So a module that is to be executed anew is executed before those that import it, without leaving `sys.modules`: a
    thread that imports or unpickles meanwhile would be handed an exception of the new code, or execute it itself.
    """
    thread = threading.get_ident()
    inner = builtins.__import__

    def asking(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if threading.get_ident() == thread:
            given = dict(zip(("globals", "locals", "fromlist", "level"), args, strict=False)) | kwargs
            before(_needed(name, given.get("globals") or {}, given.get("fromlist") or (), given.get("level", 0)))
        return inner(name, *args, **kwargs)

    builtins.__import__ = asking
    try:
        yield
    finally:
        if builtins.__import__ is asking:
            builtins.__import__ = inner
        thread = 0  # for whoever has put it into something of his own


def _needed(name: str, space: Mapping[str, object], fromlist: Sequence[str], level: int) -> Iterator[str]:
    """The names of the modules that an import statement executes, packages first."""
    if level:
        package = str(space.get("__package__") or "")
        parts = package.split(".")
        if not package or level > len(parts):
            return  # the import itself will say so
        name = ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
    for each in fromlist:
        listed = getattr(sys.modules.get(name), "__all__", ()) if each == "*" else (each,)
        for last in listed:
            yield f"{name}.{last}"


class Transaction:
    """Takes the project from the sources that run to those of another version.

    sources: those that differ from what runs, and those that nothing runs of yet, by path.
    number, before: of the version that it leads to, and of the one that runs.
    restart: whether the code starts over: what is persisted is forgotten.

    Attributes:
        warnings: what will stay as the old code made it, one sentence each, for the reload's fate. Complete when the
            loop of the new code has come round, by finish_warnings().

    Called from the thread that runs the entry, in this order: check(), execute(), and in the end commit() or undo().
    Transactions may follow each other before the first is committed; they are then undone from the last on.
    """

    def __init__(
        self, project: Project, sources: Mapping[str, bytes], *, number: int, before: int, restart: bool = False
    ) -> None:
        self.number = number
        self.before = before
        self.warnings: list[str] = []
        self.restart = restart
        self._project = project
        self._sources = dict(sources)
        loaded = {module.path: module.name for module in list(project.modules.values())}
        self._changed = [loaded[path] for path in sources if path in loaded]
        self._affected: list[str] = []
        self._patch = Patch(keeps_unchanged=True, warnings=self.warnings)
        self._before_sources: dict[str, Module] = {}
        self._before_snapshot: dict[str, bytes] = {}
        self._before_values: dict[str, object] = {}
        self._before_hooks = hooks.current.snapshot()
        self._before_exposed = registry.current.snapshot()
        self._names: set[str] = set()
        self._waiting: set[str] = set()
        self._executed = False
        self._modules: dict[str, ModuleType] = {}
        self._spaces: dict[str, dict[str, object]] = {}
        self._listed: dict[str, ModuleType] = {}
        self._told: int | None = None
        self._repetition: Repetition | None = None

    @property
    def sources(self) -> dict[str, bytes]:
        """What it was made of: the sources that differ from those before, by path."""
        return dict(self._sources)

    @property
    def touches_entry(self) -> bool:
        """Whether the entry, or anything that it imports, changed."""
        return ENTRY in self._affected

    @without_gc()
    def check(self) -> None:
        """Raises what speaks against it, SyntaxError or ReloadRefusedError, before anything has changed."""
        for name in self._changed:
            module = self._project.modules[name]
            source = self._sources[module.path]
            ast.parse(source, module.path)
            preflight(decode(module.source), decode(source), self._loaded(name))
        for name in self._project.importers(self._changed):
            if name == ENTRY or name in sys.modules:
                module = self._project.modules[name]
                refuse_libraries(self._sources.get(module.path, module.source), module.path, self._loaded(name))

    @without_gc()
    def execute(self) -> None:
        """Executes all modules but the entry. Whatever it raises, undo() is to follow."""
        project = self._project
        # Taken now, and not when the reload was met: what left the loop since may have imported or persisted something.
        self._affected = [name for name in project.importers(self._changed) if name in sys.modules]
        self._before_sources = dict(project.modules)
        self._before_snapshot = dict(project.snapshot)
        self._before_values = persist.current.snapshot()
        self._before_hooks = hooks.current.snapshot()
        self._before_exposed = registry.current.snapshot()
        self._names = set(sys.modules)
        self._executed = True
        if self.restart:
            persist.clear_all_persisted()
        old = [module.source for name, module in project.modules.items() if name in self._affected or name == ENTRY]
        self._repetition = Repetition([*self._affected, ENTRY], old)
        self._repetition.begin()
        for name in self._affected:
            module = self._loaded(name)
            self._modules[name] = module
            self._listed[name] = sys.modules[name]
            self._spaces[name] = dict(module.__dict__)
        project.snapshot = {**project.snapshot, **self._sources}
        for path, source in self._sources.items():
            _show_in_tracebacks(path, source)
        again = [name for name in self._affected if name != ENTRY]
        self._waiting = set(again)
        registry.current.expect_again(again)
        with _asked_first(self._before_import):
            for name in again:
                self._execute_module(name)
        self._forget_compiled()

    def _before_import(self, names: Iterable[str]) -> None:
        for name in names:
            self._execute_module(name)

    def _execute_module(self, name: str) -> None:
        if name not in self._waiting:
            return
        self._waiting.remove(name)  # before it is executed: modules may import each other in a circle
        old = self._project.modules[name]
        source = self._project.snapshot.get(old.path, old.source)
        try:
            self._run_new(self._modules[name], old, source)
        except BaseException:
            self._waiting.add(name)  # its importer may go on without it, but the reload can't
            raise
        self._project.note(Module(name, old.path, source, old.loaded), from_disk=False)
        _list_in_package(name, self._listed[name])

    def _loaded(self, name: str) -> ModuleType:
        """The module in whose namespace a source was executed, and is to be executed anew.

        Not always what `sys.modules` has: a module may put an object there in its place.
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

    def finish_warnings(self) -> None:
        """Completes `warnings`: the new code runs, and what the old one had is gone, but for what lives on."""
        if self._told is not None:
            return
        if self._repetition is not None:
            self.warnings += self._repetition.warnings
        values = persist.current.snapshot()
        self.warnings += object_warnings(
            self._patch.removed_classes(),
            values,
            [*self._spaces.values(), *self._patch.kept_for_undo(), self._before_values, values],
        )
        old, new = (
            {name: decode(modules[name].source) for name in self._affected if name in modules}
            for modules in (self._before_sources, self._project.modules)
        )
        files = {name: os.path.basename(self._project.modules[name].path) for name in new}
        renamed = self._patch.renamed_classes()
        self.warnings += factory_warnings(old, new, self._before_values, values, renamed, files)
        self._told = len(self.warnings)

    def _forget_compiled(self) -> None:
        # Asked only where it matters: it compiles both sources.
        if dynamo.is_in_use() and any(
            dynamo.differs(self._before_sources[name].source, self._sources[self._before_sources[name].path], name)
            for name in self._changed
        ):
            dynamo.forget()

    def _run_new(self, module: ModuleType, old: Module, source: bytes) -> None:
        code = self._compile(module, old.path, old.source, source)
        exec(code, module.__dict__)
        self._patch.end_module(module)

    def _compile(self, module: ModuleType, path: str, old: bytes, new: bytes) -> CodeType:
        tree = ast.parse(new, path)
        self._patch.begin_module(module, decode(old), decode(new))
        code: CodeType = compile(self._patch.transform(tree, module), path, "exec", dont_inherit=True)
        return code

    @without_gc()
    def entry_code(self) -> CodeType:
        """The entry, to be executed in its old namespace with the patch active."""
        module = self._project.modules[ENTRY]
        source = self._sources.get(module.path, module.source)
        main = sys.modules[ENTRY]
        registry.current.expect_again([ENTRY])
        if ENTRY not in self._spaces:
            self._modules[ENTRY] = self._listed[ENTRY] = main
            self._spaces[ENTRY] = dict(main.__dict__)
        code = self._compile(main, module.path, module.source, source)
        self._project.note(Module(ENTRY, module.path, source), from_disk=False)
        if self._patch.removed_classes():
            gc.collect()  # so that of the objects that are left only those count that live on
        return code

    def commit(self) -> None:
        """The new code has proved itself: what would undo it is forgotten."""
        if self._repetition is not None:
            self._repetition.keep()
        self._patch.drop_removed_names()
        self._patch.commit()
        for warning in self.warnings[self._told :]:  # too late for the fate
            stderr.warn(f"after a reload: {warning}")
        self._listed.clear()
        registry.current.commit()
        running = {module.path for module in list(self._project.modules.values())}
        self._project.snapshot = {
            path: source for path, source in self._project.snapshot.items() if path not in running
        }
        self._spaces.clear()
        self._modules.clear()
        self._before_values.clear()
        self._before_hooks = {}
        self._before_exposed = ()
        self._before_sources.clear()
        self._before_snapshot.clear()
        self._patch.recompile()

    def undo(self) -> None:
        """Puts everything back as it was before execute()."""
        project = self._project
        if not self._executed:
            return
        if self._repetition is not None:
            self._repetition.undo()
        self._patch.undo()
        for name, space in self._spaces.items():
            replace_items(self._modules[name].__dict__, space)
            tried = sys.modules.get(name)
            sys.modules[name] = self._listed[name]
            if tried is not None:
                _list_in_package(name, tried)
        for name in [name for name in list(sys.modules) if name not in self._names and name in project.modules]:
            gone_module = sys.modules.pop(name, None)
            package, _, last = name.rpartition(".")
            if package in sys.modules and sys.modules[package].__dict__.get(last) is gone_module:
                delattr(sys.modules[package], last)
        project.modules = self._before_sources
        project.snapshot = self._before_snapshot
        for path in self._sources:
            linecache.cache.pop(path, None)
            if (source := next((m.source for m in list(project.modules.values()) if m.path == path), None)) is not None:
                _show_in_tracebacks(path, source)
        persist.current.restore(self._before_values)
        hooks.current.restore(self._before_hooks)
        registry.current.restore(self._before_exposed)
        if self._changed and dynamo.is_in_use():
            dynamo.forget()


def _list_in_package(name: str, before: ModuleType) -> None:
    """Makes the attribute of a package what `sys.modules` has now, if it was what stood there before."""
    package, _, last = name.rpartition(".")
    parent, now = sys.modules.get(package), sys.modules.get(name)
    if now is not before and getattr(parent, last, None) is before:
        setattr(parent, last, now)


def _show_in_tracebacks(path: str, source: bytes) -> None:
    """Tracebacks show the lines of the source that runs, whatever is on disk by then."""
    linecache.cache[path] = len(source), None, decode(source).splitlines(keepends=True), path
