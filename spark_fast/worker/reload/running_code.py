"""The project's running code in this process, and its copy in the run's folder.

The copy is a list of versions (spark_fast/runfiles/versions.py). A sender compares the files on disk with the copy to
find the changes, and the worker reads new sources from the copy. So all ranks read the same text, even if files are
saved during the reload.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from spark_fast import stderr
from spark_fast.errors import CodeRefusedError, SparkError
from spark_fast.project.files import is_under
from spark_fast.request import sender_name
from spark_fast.runfiles.versions import Store
from spark_fast.worker import session
from spark_fast.worker.reload.modules import ENTRY, Module, Project
from spark_fast.worker.reload.spawn import Spawning

__all__ = ["RunningCode"]


class RunningCode:
    """The project's modules in this process, with their versions in the run's folder.

    roots: the folders that hold the project's code.

    Attributes:
        roots: these folders, absolute, each once.
        project: the project's modules.
        spawning: hands the running code to processes that this process spawns.
        number: the number of the running version.
    """

    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = list(dict.fromkeys(os.path.abspath(root) for root in roots))
        self.spawning = Spawning()
        self.project = Project(self.roots, self._on_loaded, self._on_spawn)
        self.number = 1
        self._store: Store | None = None

    def keep(self, entry: str | None, source: bytes | None) -> None:
        """Begin to keep the versions of the code in the run's folder.

        If that fails, a warning says so, and the run can't be reloaded.

        entry: the file that is executed as `__main__`; None if no file can be executed again.
        source: the text of that file that is about to be executed.
        """
        if entry is not None and source is not None:
            self.project.note(Module(ENTRY, os.path.abspath(entry), source), from_disk=True)
        folder = session.folder()
        if folder is None:
            return
        store = Store(folder)
        if session.has_local_peers() and not session.first_here():
            self._join(store)
            return
        path = [os.path.abspath(each or ".") for each in sys.path]
        inside = [each for each in path if any(is_under(each, root) for root in self.roots)]
        try:
            store.create(entry, self.roots, inside)
            for module in list(self.project.modules.values()):
                store.record(module.name, module.path, module.source, self.number)
            store.make_first(sender_name())
        except (OSError, SparkError) as error:
            stderr.warn(f"this run can't be reloaded: its code can't be kept: {error}")
            return
        self._use(store)

    def _join(self, store: Store) -> None:
        """Join the versions that the first rank of this host keeps; add the modules that only this rank imports."""
        try:
            store.join()
        except (OSError, SparkError) as error:
            stderr.warn(f"this rank can't be reloaded: its code can't be kept: {error}")
            return
        self._use(store)

    def _use(self, store: Store | None) -> None:
        self._store = self.spawning.store = store

    def close(self) -> None:
        """Stop following imports, and record in the run's folder that this process will run no new code."""
        self.project.remove()
        self.spawning.close()
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except (OSError, SparkError) as error:
                stderr.warn(f"could not write down that this run can't be reloaded any more: {error}")

    def forget_after_fork(self) -> None:
        """Stop keeping code in a forked child, whose imports are no part of the run.

        Processes that the child spawns run the code that ran when the child was forked.
        """
        self._store = None
        self.project.remove()

    # --- versions ---

    def changes_of(self, number: int) -> dict[str, bytes]:
        """Return the version's sources that differ from the running code, by path.

        Raises CodeRefusedError if the code could not be kept, OSError or SparkError if a source can't be read.
        """
        if self._store is None:
            raise CodeRefusedError("the code of this run could not be kept")
        version = self._store.version(number)
        running = {module.path: module.digest for module in list(self.project.modules.values())}
        return {
            path: self._store.source(digest) for path, digest in version.files.items() if running.get(path) != digest
        }

    def add_version(self, sources: Mapping[str, bytes], sender: str) -> int | None:
        """Add a version: the running code with some files replaced. Return its number.

        Return None, after a warning, if the version can't be kept.

        sources: the new sources, by path.
        """
        if self._store is None:
            return None
        files = {module.path: module.digest for module in list(self.project.modules.values())}
        try:
            for path, source in sources.items():
                files[path] = self._store.put(source, path)
            disk = self._store.current().disk
            return self._store.add(files, disk, "replayed", sender).number
        except (OSError, SparkError) as error:
            stderr.warn(f"a reload can't be replayed: {error}")
            return None

    def set_current(self, number: int) -> None:
        """Record the running version, here and in the run's folder."""
        if number == self.number:
            return
        self.number = number
        if self._store is not None:
            try:
                self._store.set_current(number)
            except (OSError, SparkError) as error:
                stderr.warn(f"could not write down which version of the code runs: {error}")

    # --- called by Project ---

    def _on_loaded(self, module: Module) -> None:
        if self._store is None:
            return
        try:
            self._store.record(module.name, module.path, module.source, self.number)
        except (OSError, SparkError) as error:
            self._use(None)
            stderr.warn(f"the code of this run can't be kept any more, so it can't be reloaded: {error}")

    def _on_spawn(self, spawn: ModuleType) -> None:
        self.spawning.begin(self.project, spawn)
