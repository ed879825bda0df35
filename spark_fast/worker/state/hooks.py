"""Functions that run around a pause, and when a stop ends the run."""

import threading
from collections.abc import Callable
from typing import TypeVar

from spark_fast import stderr
from spark_fast.errors import SparkInterrupt, is_stop

__all__ = ["Hooks", "current", "on_pause", "on_resume", "on_stop"]

Hook = TypeVar("Hook", bound=Callable[[], object])
Snapshot = dict[str, list[Callable[[], object]]]


class Hooks:
    """The functions of this process's script that run around a pause, and when a stop ends the run."""

    def __init__(self) -> None:
        self._hooks: Snapshot = {"on_pause": [], "on_resume": [], "on_stop": []}
        self._stop_functions_ran = False
        self._stopping_thread = 0
        """The thread that runs the functions of on_stop()."""
        self._running: set[int] = set()
        """The threads that run hooks."""

    def add(self, kind: str, fn: Hook) -> Hook:
        if fn not in self._hooks[kind]:
            self._hooks[kind].append(fn)
        return fn

    def snapshot(self) -> Snapshot:
        """Return the functions of each kind as they are now, for restore()."""
        return {kind: list(functions) for kind, functions in self._hooks.items()}

    def restore(self, hooks: Snapshot) -> None:
        """Put back the functions of a snapshot: new code that failed leaves none behind."""
        for kind, functions in self._hooks.items():
            functions[:] = hooks.get(kind, [])

    def inside(self) -> bool:
        """Return whether this thread runs a hook of a pause."""
        return threading.get_ident() in self._running

    def any(self, *, resume: bool) -> bool:
        """Return whether there are functions that run before or after a pause."""
        return bool(self._hooks["on_resume" if resume else "on_pause"])

    def run(self, *, resume: bool) -> None:
        """Call the functions that run before or after a pause."""
        self._running.add(threading.get_ident())
        try:
            self._run("on_resume" if resume else "on_pause")
        finally:
            self._running.discard(threading.get_ident())

    def _run(self, kind: str) -> None:
        for fn in list(reversed(self._hooks[kind]) if kind == "on_resume" else self._hooks[kind]):
            try:
                fn()
            except (KeyboardInterrupt, SystemExit, SparkInterrupt):
                raise
            except BaseException as error:  # also a task's being cancelled, in the hook's own event loop
                if is_stop(error):
                    raise
                stderr.warn_of(f"the {kind} hook {_name(fn)} raised", error)

    def run_on_stop(self) -> bool:
        """Call the functions that run when a stop ends the run, once in the life of the process.

        Returns False if one of them raised.
        """
        if self._stop_functions_ran:
            return True
        self._stop_functions_ran = True
        done = True
        self._stopping_thread = threading.get_ident()
        try:
            for fn in list(self._hooks["on_stop"]):
                try:
                    fn()
                except Exception as error:
                    done = False
                    stderr.warn_of(f"the on_stop function {_name(fn)} raised", error)
        finally:
            self._stopping_thread = 0
        return done

    def inside_on_stop(self) -> bool:
        """Return whether this thread runs a function of on_stop()."""
        return threading.get_ident() == self._stopping_thread


current = Hooks()
"""The hooks of this process, which its forked children have too."""


def on_pause(fn: Hook) -> Hook:
    """Have the worker call `fn()` when it is about to park: to move a model off the GPU, say.

    The status is `paused` only when all of them have returned. They run in the thread that parks, in the order in
    which they were added. One that raises is reported on standard error and does not break the pause. Returns `fn`,
    so that it can be used as a decorator. A function that was added before is not added again: a script that is
    executed anew after a reload adds its own once more. A checkpoint that `fn` passes does nothing, and is
    no step of the loop.
    """
    return current.add("on_pause", fn)


def on_resume(fn: Hook) -> Hook:
    """Have the worker call `fn()` after a pause, before its loop goes on: also when it goes on to stop.

    As on_pause(), in the opposite order.
    """
    return current.add("on_resume", fn)


def on_stop(fn: Hook) -> Hook:
    """Have the worker call `fn()` when a stop ends the run: to save the model where no `except SparkStopError` can.

    It runs once, in the thread that ran the script, after SparkStopError has left the script. So it also runs where
    the script's own handlers are gone: when a run is stopped that is paused after an error. If the exception leaves a
    thread of the script, it runs when the script has ended. A handler that catches the
    exception and does not raise it again ends the stop: then it does not run. Functions run in the order in which they
    were added. One that raises is reported, the others still run, and the run counts as failed. Checkpoints that it
    passes do not raise. Returns `fn`; as on_pause(), a function is added once.
    """
    return current.add("on_stop", fn)


def _name(fn: Callable[[], object]) -> str:
    return getattr(fn, "__qualname__", type(fn).__qualname__)
