"""Processes that the worker spawns run the code that runs in the worker: see spark_fast/project/spawned.py."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from spark_fast.errors import SparkError
from spark_fast.runfiles.versions import Store, digest_of
from spark_fast.worker import stderr
from spark_fast.worker.reload.modules import ENTRY, Project

__all__ = ["Spawning"]


class Spawning:
    """What the processes are told that this process spawns, and those that it forks.

    Attributes:
        store: where the sources are kept; None as long as they are not: such processes read the files on disk.
    """

    def __init__(self) -> None:
        self.store: Store | None = None
        self._project: Project | None = None
        self._before: tuple[dict[str, tuple[str, str]], dict[str, str]] | None = None
        self._undo: Callable[[], None] | None = None
        self._failed = False

    def begin(self, project: Project, spawn: ModuleType) -> None:
        """`multiprocessing.spawn` is there."""
        from spark_fast.project import spawned

        self._project = project
        self._undo = spawned.divert(spawn, self._script)

    def close(self) -> None:
        """From here on such processes read the files on disk."""
        self.store = None
        if self._undo is not None:
            self._undo()

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Within it modules are executed that may be taken back: what other threads spawn runs what ran before."""
        self._before = self._running() if self._project is not None else None
        try:
            yield
        finally:
            self._before = None

    def _script(self, data: dict[str, Any]) -> str | None:
        from spark_fast.project import spawned

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
                stderr.warn(f"processes that are spawned read the code from disk, and not what runs: {error}")
            return None

    def _running(self) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
        """File and digest of what runs, by the module's name; and the digest by file."""
        assert self._project is not None
        # What is being executed anew stands in the snapshot first, all of it.
        newest = {path: digest_of(source) for path, source in self._project.snapshot.items()}
        found = list(self._project.modules.values())
        modules = {
            module.name: (module.path, newest.get(module.path, module.digest))
            for module in found
            if module.name == ENTRY or _found_as_usual(module.name)
        }
        # The entry last: imported too, under its name, it may have been read at another time.
        files = {module.path: module.digest for module in sorted(found, key=lambda module: module.name == ENTRY)}
        return modules, files | newest


def _found_as_usual(name: str) -> bool:
    """Whether a module was loaded from its file by Python's own loader, or by the project's in its place."""
    return isinstance(getattr(getattr(sys.modules.get(name), "__spec__", None), "loader", None), SourceFileLoader)
