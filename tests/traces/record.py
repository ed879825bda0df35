"""Runs a script with a core that logs the calls that change something.

    python record.py LOG plain SCRIPT
    python record.py LOG runner SCRIPT    as `spark-fast run` does, so that its code can be reloaded

A child that is forked writes a log of its own beside LOG.
"""

import functools
import os
import runpy
import sys
import threading
from typing import Any

READS = frozenset(
    {"attached", "changes", "fileno", "handed", "in_the_log", "journal_begun", "journal_error", "pending", "step"}
)
"""What the log leaves out: it changes nothing, and it may be read more or less often."""
WAITS = frozenset({"wait", "wait_for_change", "wait_for_resume"})
"""How often these are called depends on the machine's load: the log tells of the first of several in a row."""


class Log:
    """The calls, in the order in which they return."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._pid = os.getpid()
        self._last = ""
        self._main = threading.main_thread()

    def add(self, name: str, args: tuple[Any, ...], options: dict[str, Any], result: str) -> None:
        """Writes one call. result: what it returned, or the class of what it raised."""
        who = "" if threading.current_thread() is self._main else "other thread: "
        told = [*map(self._plain, args), *(f"{key}={self._plain(each)}" for key, each in options.items())]
        line = f"{who}{name}({', '.join(told)}) {result}".rstrip() if name not in WAITS else f"{who}{name}"
        if name in WAITS and line == self._last:
            return
        self._last = line
        path = self._path if os.getpid() == self._pid else f"{self._path}.child"
        with open(path, "a") as file:
            file.write(line + "\n")

    def result(self, value: Any) -> str:
        """How a result stands in the log."""
        return "" if value is None else f"-> {self._plain(value)}"

    def _plain(self, value: Any) -> str:
        if isinstance(value, dict):
            return f"{value['kind']} {value['mail'] or '-'}"  # an entry of the log of requests
        if isinstance(value, bool) or value is None:
            return str(value)
        if isinstance(value, int):
            return str(value) if value < 1 << 32 else "<large>"
        if isinstance(value, float):
            return "<seconds>"
        if isinstance(value, tuple):
            return "(" + ", ".join(map(self._plain, value)) + ")"
        if isinstance(value, bytes):
            return "<bytes>"
        if isinstance(value, str | os.PathLike):
            return os.path.basename(os.fspath(value))
        return type(value).__name__


class RecordingCore:
    """Passes all calls on to the core, and logs those that are not READS.

    Attributes:
        waiting: whether the main thread is parked, in one of WAITS.
    """

    def __init__(self, core: Any, log: Log) -> None:
        object.__setattr__(self, "_core", core)
        object.__setattr__(self, "_log", log)
        object.__setattr__(self, "waiting", False)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._core, name)
        if name in READS or not callable(found):
            return found

        @functools.wraps(found)
        def call(*args: Any, **options: Any) -> Any:
            parks = name in WAITS and threading.current_thread() is threading.main_thread()
            object.__setattr__(self, "waiting", parks)
            try:
                result = found(*args, **options)
            except BaseException as error:
                self._log.add(name, args, options, f"raised {type(error).__name__}")
                raise
            finally:
                object.__setattr__(self, "waiting", False)
            self._log.add(name, args, options, self._log.result(result))
            return result

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._core, name, value)


def main() -> None:
    """Records the script that the command line names."""
    _, path, how, script = sys.argv
    from spark_fast import _core

    _core.worker = RecordingCore(_core.worker, Log(path))  # type: ignore[assignment]
    sys.path[0] = os.path.dirname(script)
    if how == "runner":
        sys.argv = ["spark_fast.worker", "run", script]
        runpy.run_module("spark_fast.worker", run_name="__main__", alter_sys=True)
    else:
        sys.argv = [script]
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
