"""The project's modules: what was executed, from which source, and who imports whom.

A finder at the head of `sys.meta_path` lets the other finders find, and puts a loader of its own where they found a
file of the project. That loader notes what it executes.
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
"""The name of the module that the script is."""

_SPAWN = "multiprocessing.spawn"


class Module:
    """A module of the project that has been executed.

    Attributes:
        name: its name, `__main__` for the entry.
        path: its file.
        source: what was executed.
        loaded: in whose namespace; None for the entry, and for what `sys.modules` has by that name. Another object may
            have been put there in its place.
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
        """What the source is known by in a version."""
        if self._digest is None:
            self._digest = digest_of(self.source)
        return self._digest

    def imports(self) -> list[tuple[tuple[str, ...], int]]:
        """The names that its import statements name, and the dots before them."""
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
        if (source := project.snapshot.get(path)) is not None:
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
            project.note(Module(name, path, source, module), from_disk=False)
            return
        # Read before it is executed: what is noted is never newer than what runs.
        source = self.get_data(self.path)
        super().exec_module(module)
        project.note(Module(name, path, source, module), from_disk=True)


class _SpawnLoader(SourceFileLoader):
    """Loads `multiprocessing.spawn`, and tells of it."""

    def __init__(self, name: str, path: str, on_loaded: Callable[[ModuleType], None]) -> None:
        super().__init__(name, path)
        self._on_loaded = on_loaded

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        self._on_loaded(module)


class Project:
    """All modules of the project in this process.

    on_loaded: called with each module that was executed from disk.
    on_spawn: called with `multiprocessing.spawn`, once that is there.

    Attributes:
        roots: the folders that hold it.
        modules: what has been executed, by name, in the order in which each was done for the first time.
        snapshot: the sources of the version that runs of files that no module was made from yet, by path.
        anew: the files of which another source was executed than what stood on disk at first.
    """

    def __init__(
        self,
        roots: Sequence[str],
        on_loaded: Callable[[Module], None],
        on_spawn: Callable[[ModuleType], None],
    ) -> None:
        self.roots = [os.path.abspath(root) for root in roots]
        self.modules: dict[str, Module] = {}
        self.snapshot: dict[str, bytes] = {}
        self.anew: set[str] = set()
        self._on_loaded = on_loaded
        self._on_spawn = on_spawn

    # --- finding ---

    def install(self) -> None:
        """From here on imports go through it."""
        sys.meta_path.insert(0, self)
        if _SPAWN in sys.modules:
            self._on_spawn(sys.modules[_SPAWN])

    def remove(self) -> None:
        """Imports are as they were."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the finders behind this one find, with a loader of the project's own if it is the project's."""
        finders = list(sys.meta_path)
        # Not those before it: another that asks all others would ask this one again, and so on.
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
        """Part of what a finder has; it keeps none."""

    # --- what was executed ---

    def note(self, module: Module, *, from_disk: bool) -> None:
        """A module was executed."""
        before = self.modules.get(module.name)
        self.modules[module.name] = module
        if from_disk:
            self._on_loaded(module)
        elif before is None or before.source != module.source:
            self.anew.add(module.path)

    def adopt_loaded(self, entry: str | None) -> None:
        """Notes what was imported before the finder was there, as it stands on disk now; in a process that a worker
        has spawned, as it runs."""
        main = sys.modules.get(ENTRY)
        for name, found in list(sys.modules.items()):
            path = getattr(found, "__file__", None)
            # The script has a second name where multiprocessing is imported.
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
            except OSError:  # removed since it was imported: it can't be reloaded, and need not
                return
        self.note(Module(name, path, source), from_disk=True)

    def source_of(self, path: str) -> bytes | None:
        """What runs of a file; None if no module was made from it."""
        return next((module.source for module in list(self.modules.values()) if module.path == path), None)

    # --- who imports whom ---

    def importers(self, changed: Iterable[str]) -> list[str]:
        """The names of the modules in `changed` and of all that import them, in the order of import."""
        found = set(changed)
        waiting = list(found)
        while waiting:
            name = waiting.pop()
            last = name.rpartition(".")[2].encode()
            for module in list(self.modules.values()):
                # Most sources do not even hold the word: they need not be taken apart.
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
            # `import a.b` executes a and a.b, and so depends on both; of `from a import b`, b may be a name in a.
            if names[: len(words)] == words:
                return True
        return False


def _package_of(module: Module, level: int) -> tuple[str, ...] | None:
    loaded = sys.modules.get(module.name)
    package = getattr(loaded, "__package__", None) or ""
    words = tuple(package.split(".")) if package else ()
    return words[: len(words) - level + 1] if level <= len(words) else None
