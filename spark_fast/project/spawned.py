"""Makes processes that multiprocessing spawns run the worker's code instead of the files on disk.

A spawned process executes the main script again, as `__mp_main__`, and imports the modules that it needs. While the
worker keeps its code, a script in the run's folder replaces the main script. It calls begin(), which puts a finder
before all others, and executes the main script's source as it runs in the worker. Files whose source is gone, or that
were never part of the run's code, are read from disk.

This module is not part of `worker`, since that takes long to import, and a spawned process may not need it.
"""

import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType

TYPE_CHECKING = False  # typing takes longer to import than all other modules here
if TYPE_CHECKING:
    from typing import Any

__all__ = ["begin", "divert", "running", "script_for"]

MAIN = "__mp_main__"
"""The name under which multiprocessing executes a main script in another process."""


# --- in the process that spawns ---


def divert(spawn: ModuleType, script: "Callable[[dict[str, Any]], str | None]") -> Callable[[], None]:
    """Make processes that are spawned from now on begin with another script than the main one.

    spawn: the module `multiprocessing.spawn`.
    script: gets the preparation data of a process, and returns the path of the script that the process must execute;
        None for the main script.

    Return the function that undoes this.
    """
    before = spawn.get_preparation_data
    plain = getattr(before, "plain", before)

    def get_preparation_data(name: str) -> "dict[str, Any]":
        data: dict[str, Any] = plain(name)
        path = script(data)
        if path is None:
            return before(name) if before is not plain else data
        data.pop("init_main_from_name", None)
        data["init_main_from_path"] = path
        return data

    def undo() -> None:
        if spawn.get_preparation_data is get_preparation_data:
            spawn.get_preparation_data = before  # type: ignore[attr-defined]

    get_preparation_data.plain = plain  # type: ignore[attr-defined]
    spawn.get_preparation_data = get_preparation_data  # type: ignore[attr-defined]
    return undo


def script_for(
    data: "Mapping[str, Any]",
    *,
    folder: str,
    blobs: str,
    roots: Sequence[str],
    modules: Mapping[str, tuple[str, str]],
    files: Mapping[str, str],
    anew: Sequence[str],
) -> bytes:
    """Return the script that a spawned process must execute.

    data: multiprocessing's preparation data of the process.
    folder, blobs: the run's folder, and the folder in it that holds the sources.
    roots: the folders that hold the project.
    modules: file and digest of the running code, by module name.
    files: the digest of the running source, by file.
    anew: the files whose running source differs from the one first read from disk.
    """
    name: str | None = data.get("init_main_from_name")
    path: str | None = data.get("init_main_from_path")
    if name is not None and (name == "__main__" or name.endswith(".__main__")):
        name = None  # multiprocessing does not execute such a module
    elif path is not None and os.path.splitext(os.path.basename(path))[0] == "ipython":
        path = None  # multiprocessing does not execute it either
    if name is not None:
        plain = f"globals().update(runpy.run_module({name!r}, run_name={MAIN!r}, alter_sys=True))"
    elif path is not None:
        plain = f"globals().update(runpy.run_path({path!r}, run_name={MAIN!r}))"
    else:
        plain = "pass"
    given = {
        "main": (name, path),
        "folder": folder,
        "blobs": blobs,
        "roots": list(roots),
        "modules": dict(modules),
        "files": dict(files),
        "anew": list(anew),
    }
    return f"""\
# What a process that multiprocessing spawns for this run executes in place of the main script.
try:
    from spark_fast.project.spawned import begin
except ImportError:  # another interpreter than the worker's: the main script as it is on disk
    import runpy
    {plain}
else:
    begin(globals(), {given!r})
""".encode()


# --- in the process that was spawned ---


class _Code:
    """The code that ran in the worker when this process was spawned. given: the arguments of script_for()."""

    def __init__(self, script: str, given: "dict[str, Any]") -> None:
        self.script = script
        self.main: tuple[str | None, str | None] = given["main"]
        self.modules: dict[str, tuple[str, str]] = given["modules"]
        self.files: dict[str, str] = given["files"]
        self.roots: list[str] = given["roots"]
        self.anew: set[str] = set(given["anew"])
        self._folder: str = given["folder"]
        self._blobs: str = given["blobs"]

    @property
    def key(self) -> tuple[object, ...]:
        """A value that is equal for equal code."""
        return self.main, self.modules, self.files

    def read(self, path: str, digest: str) -> "tuple[bytes, os.stat_result | None] | None":
        """Return a file's source that ran; None, after a warning, if the source can't be read.

        Also return the state of the file on disk, if the file has always had this source, so that its bytecode may be
        used.
        """
        # If no file was edited, nothing must be hashed, and no module for that imported.
        state, disk = _on_disk(path)
        if disk is not None and disk == _on_disk(os.path.join(self._blobs, digest))[1]:
            # Python identifies bytecode by the source's second and size, so it may be that of an earlier source.
            return disk, None if path in self.anew else state
        # These imports take longer than the rest of this module, and only edited files need them.
        from pathlib import Path

        from spark_fast.errors import SparkError
        from spark_fast.runfiles.versions import Store

        try:
            return Store(Path(self._folder)).source(digest), None
        except (OSError, SparkError) as error:
            from spark_fast import stderr

            stderr.warn(f"a spawned process runs {path} as it is on disk: the source that runs can't be read: {error}")
            return None


def _on_disk(path: str) -> "tuple[os.stat_result | None, bytes | None]":
    try:
        # In this order, so that bytecode kept for this state is never older than the source.
        state = os.stat(path)
        with open(path, "rb") as file:
            return state, file.read()
    except OSError:
        return None, None


class _Loader(SourceFileLoader):
    """Loads a given source. state: the state of the file on disk, if it has this source and bytecode may be kept."""

    def __init__(self, name: str, path: str, digest: str, source: bytes, state: "os.stat_result | None") -> None:
        super().__init__(name, path)
        self.digest = digest
        self.source = source
        self._state = state

    def get_data(self, path: str) -> bytes:
        return self.source if path == self.path else super().get_data(path)

    def path_stats(self, path: str) -> "Mapping[str, Any]":
        if self._state is None:
            raise OSError("the file on disk is not the source that runs")
        return {"mtime": self._state.st_mtime, "size": self._state.st_size}

    def exec_module(self, module: ModuleType) -> None:
        if self._state is None:
            _show_in_tracebacks(self.path, self.source)
        super().exec_module(module)


class _Finder:
    """Finds the worker's modules, by name or by file."""

    def __init__(self, code: _Code) -> None:
        self._code = code

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = self._code.modules.get(name)
        if known is not None and (loader := self._loader(name, *known)) is not None:
            return spec_from_file_location(name, loader.path, loader=loader)
        finders = list(sys.meta_path)
        # Not with the finders before it: one that asks all others would ask this one again, and so on without end.
        for finder in finders[finders.index(self) + 1 :] if self in finders else finders:
            find = getattr(finder, "find_spec", None)
            if isinstance(finder, _Finder) or find is None:
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is None:
                continue
            if type(spec.loader) is SourceFileLoader:
                digest = self._code.files.get(os.path.abspath(spec.loader.path))
                if digest is not None:
                    spec.loader = self._loader(name, spec.loader.path, digest) or spec.loader
            return spec
        return None

    def invalidate_caches(self) -> None:
        """Do nothing: this finder has no caches. Python calls it."""

    def _loader(self, name: str, path: str, digest: str) -> _Loader | None:
        found = self._code.read(path, digest)
        return _Loader(name, path, digest, *found) if found is not None else None


_executed: "tuple[_Code, dict[str, Any]] | None" = None
"""The code that this process began with, and the namespace of its main script. A process that a fork server makes
inherits them from the server."""

_undo: Callable[[], None] | None = None


def begin(space: "dict[str, Any]", given: "dict[str, Any]") -> None:
    """Make this process run the code that its parent runs. The script of script_for() calls this.

    space: the namespace of that script, which becomes the main script's namespace.
    """
    global _executed, _undo
    code = _Code(space["__file__"], given)
    before = _executed
    _drop_stale_modules(code)
    sys.meta_path[:] = [_Finder(code), *(finder for finder in sys.meta_path if not isinstance(finder, _Finder))]
    if _undo is not None:
        _undo()
    # Processes that this process spawns must run the same code.
    _undo = divert(sys.modules["multiprocessing.spawn"], lambda _: code.script if os.path.exists(code.script) else None)
    for name in [name for name in space if not (name.startswith("__") and name.endswith("__"))]:
        del space[name]
    if before is not None and before[0].key == code.key:
        space.clear()
        space.update(before[1])
    else:
        _execute_main(space, code)
    _executed = code, space


def running(path: str) -> bytes | None:
    """Return a file's running source, if a worker spawned this process and gave it that source; else None."""
    if _executed is None or (digest := _executed[0].files.get(path)) is None:
        return None
    found = _executed[0].read(path, digest)
    return found[0] if found is not None else None


def _execute_main(space: "dict[str, Any]", code: _Code) -> None:
    name, path = code.main
    if name is not None:
        space.update(runpy.run_module(name, run_name=MAIN, alter_sys=True))
        return
    if path is None:
        del space["__file__"]
        return
    digest = code.files.get(path)
    found = code.read(path, digest) if digest is not None else None
    if found is None:
        space.update(runpy.run_path(path, run_name=MAIN))
        return
    source, state = found
    main = sys.modules["__main__"]
    if state is not None and getattr(main, "__file__", None) == path:
        # A server that was started before the run began, and that has executed the script, has forked this process.
        space.clear()
        space.update(vars(main))
        return
    if state is None:
        _show_in_tracebacks(path, source)
    space["__file__"] = sys.argv[0] = path  # runpy puts sys.argv back
    exec(compile(source, path, "exec", dont_inherit=True), space)


def _drop_stale_modules(code: _Code) -> None:
    """Remove the project's modules, if one of them runs other code than it must run now.

    A process that a fork server makes inherits the modules that the server has imported.
    """
    if not any(_stale(name, module, code) for name, module in list(sys.modules.items())):
        return
    from spark_fast.project.files import is_project_file  # only a fork server's process with old modules needs it

    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name not in ("__main__", MAIN) and isinstance(path, str) and is_project_file(path, code.roots):
            del sys.modules[name]


def _stale(name: str, module: ModuleType, code: _Code) -> bool:
    path = getattr(module, "__file__", None)
    if name in ("__main__", MAIN) or not isinstance(path, str):
        return False
    path, digest = code.modules.get(name) or (path, code.files.get(path))
    if digest is None:
        return False
    loader = getattr(module.__spec__, "loader", None)
    if isinstance(loader, _Loader):
        return loader.digest != digest
    # The server imported the module before this finder was installed.
    found = code.read(path, digest)
    return found is not None and found[1] is None


def _show_in_tracebacks(path: str, source: bytes) -> None:
    from spark_fast.project.sources import show_in_tracebacks  # it loads ast, and only edited files need it

    show_in_tracebacks(path, source)
