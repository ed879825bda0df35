"""The project's modules: which sources were executed, and which modules import which.

A finder at the head of `sys.meta_path` asks the other finders. If they find a file of the project, it replaces the
loader by its own, which records the source that it executes.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType

from spark_fast.project.files import is_project_file
from spark_fast.project.sources import imports_of
from spark_fast.runfiles.versions import digest_of

__all__ = ["ENTRY", "Module", "Project"]

ENTRY = "__main__"
"""The name of the module that holds the script."""

_SPAWN = "multiprocessing.spawn"


class Module:
    """A module of the project that has been executed.

    Attributes:
        name: its name, `__main__` for the entry.
        path: its file.
        source: the source that was executed.
        loaded: the module in whose namespace the source was executed; None for the entry, and if it is the module in
            `sys.modules`. A module may put another object there in its own place.
    """

    __slots__ = ("_digest", "_imports", "loaded", "name", "path", "source")

    def __init__(self, name: str, path: str, source: bytes, loaded: ModuleType | None = None) -> None:
        self.loaded = loaded
        self.name = name
        self.path = path
        self.source = source
        self._digest: str | None = None
        self._imports: list[tuple[tuple[str, ...], int]] | None = None

    @property
    def digest(self) -> str:
        """The digest by which a version names the source."""
        if self._digest is None:
            self._digest = digest_of(self.source)
        return self._digest

    def imports(self) -> list[tuple[tuple[str, ...], int]]:
        """Return the names in its import statements, each with the number of dots before it."""
        if self._imports is None:
            self._imports = [(each.names, each.level) for each in imports_of(self.source)]
        return self._imports


class _Loader(SourceFileLoader):
    """Loads a file of the project."""

    def __init__(self, name: str, path: str, project: "Project") -> None:
        super().__init__(name, path)
        self._project = project

    def exec_module(self, module: ModuleType) -> None:
        project = self._project
        name = module.__name__
        path = os.path.abspath(self.path)
        if (source := project.pending.get(path)) is not None:
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
            project.note(Module(name, path, source, module), from_disk=False)
            return
        # Read before execution, so that the recorded source is never newer than the running one.
        source = self.get_data(self.path)
        super().exec_module(module)
        project.note(Module(name, path, source, module), from_disk=True)


class _SpawnLoader(SourceFileLoader):
    """Loads `multiprocessing.spawn`, and passes it to a function."""

    def __init__(self, name: str, path: str, on_loaded: Callable[[ModuleType], None]) -> None:
        super().__init__(name, path)
        self._on_loaded = on_loaded

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        self._on_loaded(module)


class Project:
    """All modules of the project in this process.

    on_loaded: called with each module that was executed from disk.
    on_spawn: called with `multiprocessing.spawn`, once it is imported.

    Attributes:
        roots: the folders that hold the project's files.
        modules: the executed modules, by name, in the order of their first execution.
        pending: the running version's sources of files that are not loaded yet, by path.
        anew: the files whose running source differs from the one first read from disk.
    """

    def __init__(
        self,
        roots: Sequence[str],
        on_loaded: Callable[[Module], None],
        on_spawn: Callable[[ModuleType], None],
    ) -> None:
        self.roots = [os.path.abspath(root) for root in roots]
        self.modules: dict[str, Module] = {}
        self.pending: dict[str, bytes] = {}
        self.anew: set[str] = set()
        self._on_loaded = on_loaded
        self._on_spawn = on_spawn

    # --- finding ---

    def install(self) -> None:
        """Begin to find the project's modules for import statements."""
        sys.meta_path.insert(0, self)
        if _SPAWN in sys.modules:
            self._on_spawn(sys.modules[_SPAWN])

    def remove(self) -> None:
        """Stop finding modules for import statements."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module with the finders behind this one. If it is the project's, replace its loader."""
        finders = list(sys.meta_path)
        # Not with the finders before it: one that asks all others would ask this one again, and so on without end.
        for finder in finders[finders.index(self) + 1 :] if self in finders else finders:
            find = getattr(finder, "find_spec", None)
            if find is None:
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is None:
                continue
            if type(spec.loader) is SourceFileLoader:
                if name == _SPAWN:
                    spec.loader = _SpawnLoader(spec.loader.name, spec.loader.path, self._on_spawn)
                elif is_project_file(spec.loader.path, self.roots):
                    spec.loader = _Loader(spec.loader.name, spec.loader.path, self)
            return spec
        return None

    def invalidate_caches(self) -> None:
        """Do nothing: this finder has no caches. Python calls it."""

    # --- what was executed ---

    def note(self, module: Module, *, from_disk: bool) -> None:
        """Record an executed module. from_disk: whether its source came from the file on disk, not from a version."""
        before = self.modules.get(module.name)
        self.modules[module.name] = module
        if from_disk:
            self._on_loaded(module)
        elif before is None or before.source != module.source:
            self.anew.add(module.path)

    def adopt_loaded(self, entry: str | None) -> None:
        """Record the modules that were imported before install(), with the sources that are on disk now.

        In a process that a worker has spawned, record the running sources instead.

        entry: the file of `__main__`; None if it is no file.
        """
        main = sys.modules.get(ENTRY)
        for name, found in list(sys.modules.items()):
            path = getattr(found, "__file__", None)
            # __main__ is adopted below; multiprocessing gives the script a second name.
            if found is main or not isinstance(path, str) or not is_project_file(path, self.roots):
                continue
            self._adopt(name, os.path.abspath(path))
        if entry is not None:
            self._adopt(ENTRY, entry)

    def _adopt(self, name: str, path: str) -> None:
        spawned = sys.modules.get("spark_fast.project.spawned")
        source: bytes | None = spawned.running(path) if spawned is not None else None
        if source is None:
            try:
                with open(path, "rb") as file:
                    source = file.read()
            except OSError:  # the file is gone, so it can't change any more
                return
        self.note(Module(name, path, source), from_disk=True)

    def source_of(self, path: str) -> bytes | None:
        """Return the running source of a file; None if no module was made from the file."""
        return next((module.source for module in list(self.modules.values()) if module.path == path), None)

    # --- a reload that fails ---

    def snapshot(self) -> tuple[dict[str, Module], dict[str, bytes]]:
        """Return the modules with their running sources, for restore()."""
        return dict(self.modules), dict(self.pending)

    def restore(self, taken: tuple[dict[str, Module], dict[str, bytes]]) -> None:
        """Put back the modules of a snapshot, as the code that ran since is rolled back."""
        self.modules, self.pending = taken

    # --- imports ---

    def importers(self, changed: Iterable[str]) -> list[str]:
        """Return the names of these modules and of all that import them, in the order of their first execution."""
        found = set(changed)
        waiting = list(found)
        while waiting:
            name = waiting.pop()
            last = name.rpartition(".")[2].encode()
            for module in list(self.modules.values()):
                # Most sources do not contain the word, and need not be parsed.
                near = last in module.source or b"from ." in module.source
                if near and module.name not in found and self._imports(module, name):
                    found.add(module.name)
                    waiting.append(module.name)
        return [name for name in list(self.modules) if name in found]

    def _imports(self, module: Module, wanted: str) -> bool:
        words = tuple(wanted.split("."))
        for names, level in module.imports():
            if level:
                package = _package_of(module, level)
                if package is None:
                    continue
                names = (*package, *names)
            # `import a.b` executes a and a.b, so it depends on both; in `from a import b`, b may be a name in a.
            if names[: len(words)] == words:
                return True
        return False


def _package_of(module: Module, level: int) -> tuple[str, ...] | None:
    loaded = sys.modules.get(module.name)
    package = getattr(loaded, "__package__", None) or ""
    words = tuple(package.split(".")) if package else ()
    return words[: len(words) - level + 1] if level <= len(words) else None
