"""Functions that run around a pause, and when a stop ends the run."""

import threading
from collections.abc import Callable
from typing import TypeVar

from spark_fast.errors import SparkInterrupt, is_stop
from spark_fast.worker import stderr

__all__ = ["inside", "inside_on_stop", "on_pause", "on_resume", "on_stop", "restore", "run", "run_on_stop", "snapshot"]

Hook = TypeVar("Hook", bound=Callable[[], object])
Snapshot = dict[str, list[Callable[[], object]]]

_hooks: Snapshot = {"on_pause": [], "on_resume": [], "on_stop": []}
_stop_functions_ran = False
_stopping_thread = 0
"""The thread that runs the functions of on_stop()."""
_running: set[int] = set()
"""The threads that run hooks."""


def on_pause(fn: Hook) -> Hook:
    """Has `fn()` called by the worker that is about to park: to move a model off the GPU, say.

    The status is `paused` only when all of them have returned. They run in the thread that parks, in the order in
    which they were added. One that raises is reported on standard error and does not break the pause. Returns `fn`,
    so that it can be used as a decorator. A function that was added before is not added again: a script that is
    executed anew after a reload adds its own once more. A checkpoint that `fn` passes does not park.
    """
    return _add("on_pause", fn)


def on_resume(fn: Hook) -> Hook:
    """Has `fn()` called by the worker that was parked, before its loop goes on: also when it goes on to stop.

    As on_pause(), in the opposite order.
    """
    return _add("on_resume", fn)


def on_stop(fn: Hook) -> Hook:
    """Has `fn()` called when a stop ends the run: to save the model, where no `except SparkStopError` can.

    It runs once, in the thread that ran the script, after SparkStopError has left the script. So it also runs where
    the script's own handlers are gone: when a run is stopped that is paused after an error. If the exception leaves a
    thread of the script, it runs when the script has ended. A handler that catches the
    exception and does not raise it again ends the stop: then it does not run. Functions run in the order in which they
    were added. One that raises is reported, the others still run, and the run counts as failed. Checkpoints that it
    passes do not raise. Returns `fn`; as on_pause(), a function is added once.
    """
    return _add("on_stop", fn)


def _add(kind: str, fn: Hook) -> Hook:
    if fn not in _hooks[kind]:
        _hooks[kind].append(fn)
    return fn


def snapshot() -> Snapshot:
    """The functions of each kind as they are now, for restore()."""
    return {kind: list(functions) for kind, functions in _hooks.items()}


def restore(hooks: Snapshot) -> None:
    """Puts back what a snapshot had: new code that failed leaves no function behind."""
    for kind, functions in _hooks.items():
        functions[:] = hooks.get(kind, [])


def inside() -> bool:
    """Whether this thread runs a hook."""
    return threading.get_ident() in _running


def run(*, resume: bool) -> None:
    """Calls the functions that run before or after a pause."""
    _running.add(threading.get_ident())
    try:
        _run("on_resume" if resume else "on_pause")
    finally:
        _running.discard(threading.get_ident())


def _run(kind: str) -> None:
    for fn in list(reversed(_hooks[kind]) if kind == "on_resume" else _hooks[kind]):
        try:
            fn()
        except (KeyboardInterrupt, SystemExit, SparkInterrupt):
            raise
        except BaseException as error:  # also a task's being cancelled, in the hook's own event loop
            if is_stop(error):
                raise
            stderr.warn_of(f"the {kind} hook {_name(fn)} raised", error)


def run_on_stop() -> bool:
    """Calls the functions that run when a stop ends the run, once in the life of the process. Returns whether all of
    them returned."""
    global _stop_functions_ran, _stopping_thread
    if _stop_functions_ran:
        return True
    _stop_functions_ran = True
    done = True
    _stopping_thread = threading.get_ident()
    try:
        for fn in list(_hooks["on_stop"]):
            try:
                fn()
            except Exception as error:
                done = False
                stderr.warn_of(f"the on_stop function {_name(fn)} raised", error)
    finally:
        _stopping_thread = 0
    return done


def inside_on_stop() -> bool:
    """Whether this thread runs a function of on_stop()."""
    return threading.get_ident() == _stopping_thread


def _name(fn: Callable[[], object]) -> str:
    return getattr(fn, "__qualname__", type(fn).__qualname__)
