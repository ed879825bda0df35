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
    """The functions that the script wants called around a pause, and when a stop ends the run."""

    def __init__(self) -> None:
        self._hooks: Snapshot = {"on_pause": [], "on_resume": [], "on_stop": []}
        self._stop_functions_ran = False
        self._stopping_thread = 0
        """The thread that runs the functions of on_stop()."""
        self._running: set[int] = set()
        """The threads that run hooks."""

    def add(self, kind: str, fn: Hook) -> Hook:
        """Add a function of a kind, "on_pause" say, unless it is there already; return it."""
        if fn not in self._hooks[kind]:
            self._hooks[kind].append(fn)
        return fn

    def snapshot(self) -> Snapshot:
        """Return the present functions of each kind, for restore()."""
        return {kind: list(functions) for kind, functions in self._hooks.items()}

    def restore(self, hooks: Snapshot) -> None:
        """Put back the functions of a snapshot, so that new code that failed leaves none behind."""
        for kind, functions in self._hooks.items():
            functions[:] = hooks.get(kind, [])

    def inside(self) -> bool:
        """Return whether this thread runs a hook of a pause."""
        return threading.get_ident() in self._running

    def any(self, *, resume: bool) -> bool:
        """Return whether any function runs before a pause, or after one with `resume`."""
        return bool(self._hooks["on_resume" if resume else "on_pause"])

    def run(self, *, resume: bool) -> None:
        """Call the functions that run before a pause, or after one with `resume`."""
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
            except BaseException as error:  # also the CancelledError of a task in the hook's own event loop
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
"""The hooks of this process. Its forked children inherit them."""


def on_pause(fn: Hook) -> Hook:
    """Have the worker call `fn()` when it is about to park: to move a model off the GPU, say.

    The status becomes `paused` once all pause hooks have returned. They run in the thread that parks, in the order in
    which they were added. A hook that raises is reported on standard error and does not prevent the pause. Returns
    `fn`, so that it can be used as a decorator. A function is added only once, even if a script that is executed again
    after a reload adds it again. A checkpoint that `fn` passes does nothing, and is no step of the loop.
    """
    return current.add("on_pause", fn)


def on_resume(fn: Hook) -> Hook:
    """Have the worker call `fn()` after a pause, before its loop goes on, even if only to stop.

    Otherwise as on_pause(), but in the opposite order.
    """
    return current.add("on_resume", fn)


def on_stop(fn: Hook) -> Hook:
    """Have the worker call `fn()` when a stop ends the run: to save the model where no `except SparkStopError` can.

    `fn` runs once, in the thread that ran the script, after SparkStopError has left the script. So it also runs where
    the script's own handlers are gone: when a run that is paused after an error is stopped. If the exception leaves a
    thread of the script, `fn` runs when the script has ended. If a handler catches the exception and does not raise it
    again, the stop is over and `fn` does not run. Functions run in the order in which they were added. If one raises,
    that is reported, the others still run, and the run counts as failed. Checkpoints that `fn` passes do not raise.
    Returns `fn`; as with on_pause(), a function is added only once.
    """
    return current.add("on_stop", fn)


def _name(fn: Callable[[], object]) -> str:
    return getattr(fn, "__qualname__", type(fn).__qualname__)
