"""Makes the processes that the worker spawns run the worker's code: see spark_fast/project/spawned.py."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from spark_fast import stderr
from spark_fast.errors import SparkError
from spark_fast.runfiles.versions import Store, digest_of
from spark_fast.worker.reload.modules import ENTRY, Project

__all__ = ["Spawning"]


class Spawning:
    """Hands the running code to the processes that this process spawns. Forked children hand it on, too.

    Attributes:
        store: keeps the sources. None if they are not kept: spawned processes then read the files on disk.
    """

    def __init__(self) -> None:
        self.store: Store | None = None
        self._project: Project | None = None
        self._before: tuple[dict[str, tuple[str, str]], dict[str, str]] | None = None
        self._undo: Callable[[], None] | None = None
        self._failed = False

    def begin(self, project: Project, spawn: ModuleType) -> None:
        """Begin, as the module `multiprocessing.spawn`, which is `spawn`, has been imported."""
        from spark_fast.project import spawned  # it loads runpy, which only a worker that spawns needs

        self._project = project
        self._undo = spawned.divert(spawn, self._script)

    def close(self) -> None:
        """Stop: processes that are spawned from now on read the files on disk."""
        self.store = None
        if self._undo is not None:
            self._undo()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have processes that are spawned within the block run the code that ran when the block began.

        A reload uses this while it executes modules that may be rolled back, since other threads may spawn processes.
        """
        self._before = self._running() if self._project is not None else None
        try:
            yield
        finally:
            self._before = None

    def _script(self, data: dict[str, Any]) -> str | None:
        """Return the script for a process that is about to be spawned; None for the main script: see divert()."""
        from spark_fast.project import spawned  # begin(), which comes before this, has loaded it

        if self.store is None or self._project is None:
            return None
        modules, files = self._before or self._running()
        name = data.get("init_main_from_name")
        if name is not None and name not in modules and ENTRY in modules:
            spec = getattr(sys.modules.get(ENTRY), "__spec__", None)
            if spec is not None and spec.origin is not None and os.path.abspath(spec.origin) == modules[ENTRY][0]:
                modules = {**modules, name: modules[ENTRY]}
        try:
            return self.store.keep_script(
                spawned.script_for(
                    data,
                    folder=str(self.store.folder),
                    blobs=str(self.store.blobs),
                    roots=self._project.roots,
                    modules={name: found for name, found in modules.items() if name != ENTRY},
                    files=files,
                    anew=sorted(self._project.anew),
                )
            )
        except (OSError, SparkError) as error:
            if not self._failed:
                self._failed = True
                stderr.warn(f"spawned processes read the code from disk instead of the code that runs: {error}")
            return None

    def _running(self) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
        """Return the file and digest of the running code by module name, and the digest by file."""
        assert self._project is not None
        # Sources that a reload is executing are pending until their modules are noted.
        newest = {path: digest_of(source) for path, source in self._project.pending.items()}
        found = list(self._project.modules.values())
        modules = {
            module.name: (module.path, newest.get(module.path, module.digest))
            for module in found
            if module.name == ENTRY or _found_as_usual(module.name)
        }
        # The entry comes last, so that it counts if its file was imported under another name, too.
        files = {module.path: module.digest for module in sorted(found, key=lambda module: module.name == ENTRY)}
        return modules, files | newest


def _found_as_usual(name: str) -> bool:
    """Return whether Python's own loader, or the project's in its place, has loaded a module from its file."""
    return isinstance(getattr(getattr(sys.modules.get(name), "__spec__", None), "loader", None), SourceFileLoader)
