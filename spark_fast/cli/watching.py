"""`spark-fast run --watch`: reloads the run whenever a file of its code is saved, in a thread of the supervisor."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from spark_fast.cli import exits
from spark_fast.cli.formatting import latency
from spark_fast.errors import SparkError
from spark_fast.plain_text import printable
from spark_fast.runfiles.versions import Store

__all__ = ["Watcher"]

_STEP = 4
"""Milliseconds between the watcher's looks at the system's notices. It sees a save at the first look after it, and
reports it at the next look without a new notice. Each look costs some 30 µs."""
_TOGETHER = 50
"""Milliseconds. Files that are saved within this time are one change."""
_LOOK = 500
"""Milliseconds between two looks for files that the run has loaded since, and for changes without a notice, as on a
network's file system."""
_CLOCK = 0.01
"""Seconds by which the time stamp of a file may be behind the clock."""


class Watcher:
    """Watches the folders that hold code of a run, but not the folders in them.

    To be made before the worker starts: a file that is saved later counts as changed.

    script: the script, or the likely file of the module.
    more: other folders to watch.
    """

    def __init__(self, script: str | None, more: Iterable[str] = ()) -> None:
        self._attach: Callable[[], Any] = lambda: None
        self._script = script
        self._more = list(more)
        self._began = time.time() - _CLOCK
        self._seen: dict[str, float | None] = {}
        self._loaded_at: tuple[int, int, int] | None = None
        self._loaded: set[str] = set()

    def start(self, attach: Callable[[], Any]) -> None:
        """Watch until the process ends. attach: returns the run as it is now."""
        self._attach = attach
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        try:
            # Imported here, in the thread: before the first change, but not before the worker starts.
            from watchfiles import watch

            import spark_fast.client.reloading  # noqa: F401

            pending = self._look()
            while True:
                folders = self._folders()
                changes = watch(
                    *folders,
                    watch_filter=lambda _, path: path.endswith(".py"),
                    debounce=_TOGETHER,
                    step=_STEP,
                    rust_timeout=_LOOK,
                    yield_on_timeout=True,
                    raise_interrupt=False,
                    recursive=False,
                )
                for told in changes:
                    pending |= {path for _, path in told} or self._look()
                    # An empty file may be one that an editor is just writing.
                    ready = {path for path in pending if not told or _has_text(path)}
                    pending -= ready
                    if ready:
                        self._seen |= {path: _saved(path) for path in ready}
                        self._reload(ready)
                    if not told and self._folders() != folders:
                        break
        except Exception as error:
            exits.say(f"watching has ended: {type(error).__name__}: {error}; the run goes on")

    def _folders(self) -> list[str]:
        folders = {*map(os.path.dirname, self._files()), *self._more}
        return sorted(folder for folder in folders if os.path.isdir(folder))

    def _files(self) -> set[str]:
        return self._loaded if self._script is None else self._loaded | {self._script}

    def _look(self) -> set[str]:
        """Return the files of the run that have changed since the last look."""
        self._read_loaded()
        changed = set()
        for path in self._files():
            saved = _saved(path)
            # The run has loaded a new file after this process began. So only a later save can be one that it lacks.
            new = saved > self._began if path not in self._seen and saved is not None else saved != self._seen.get(path)
            if new and saved is not None:
                changed.add(path)
            self._seen[path] = saved
        return changed

    def _read_loaded(self) -> None:
        folder: Path = self._attach().folder
        path = folder / "code" / "loaded.jsonl"
        try:
            about = path.stat()
            if (at := (about.st_ino, about.st_size, about.st_mtime_ns)) == self._loaded_at:
                return
            loaded = Store(folder).loaded()
        except FileNotFoundError:
            return
        self._loaded_at = at
        self._loaded = {line.path for line in loaded}

    def _reload(self, paths: set[str]) -> None:
        saved = [when for path in paths if (when := self._seen[path]) is not None]
        seen = time.time()
        names = ", ".join(sorted(os.path.basename(path) for path in paths))
        try:
            run = self._attach()
            fate = run.reload(wait=False).wait()
        except (SparkError, OSError) as error:
            exits.say(f"{names}: the reload could not be asked for: {error}")
            return
        since = max(saved, default=seen)
        took = time.time() - (since if seen - _LOOK / 500 < since <= seen else seen)
        if fate.state == "applied":
            if not fate.reason:  # a reason says that there was nothing to do
                exits.say(f"reloaded {names} at step {fate.step}, {latency(took)} after it was saved")
        elif run.status.live:
            first, *rest = (fate.reason or "no reason was given").splitlines()
            exits.say(f"{names}: the reload {_was(str(fate.state))}: {first}")
            if fate.step is None:  # otherwise the worker has printed it on the same terminal
                sys.stderr.write("".join(f"{printable(line)}\n" for line in rest))
                sys.stderr.flush()


def _was(state: str) -> str:
    return state if state == "failed" else f"was {state}"


def _has_text(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:  # an editor may be about to rename the new file into place
        return False


def _saved(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:  # removed, or not readable: it can't be reloaded
        return None
