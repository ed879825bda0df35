"""Functions that run around a pause, and when a stop ends the run."""

from collections.abc import Callable
from typing import TypeVar

from spark_fast.errors import SparkInterrupt
from spark_fast.worker import report

__all__ = ["on_pause", "on_resume", "on_stop", "restore", "run", "run_on_stop", "snapshot"]

Hook = TypeVar("Hook", bound=Callable[[], object])
Snapshot = dict[str, list[Callable[[], object]]]

_hooks: Snapshot = {"on_pause": [], "on_resume": [], "on_stop": []}
_stop_functions_ran = False


def on_pause(fn: Hook) -> Hook:
    """Has `fn()` called by the worker that is about to park: to move a model off the GPU, say.

    The status is `paused` only when all of them have returned. They run in the thread that parks, in the order in
    which they were added. One that raises is reported on standard error and does not break the pause. Returns `fn`,
    so that it can be used as a decorator. A function that was added before is not added again: a script that is
    executed anew after a reload adds its own once more.
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
    the script's own handlers are gone: when a run is stopped that is paused after an error. A handler that catches the
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


def run(*, resume: bool) -> None:
    """Calls the functions that run before or after a pause."""
    kind = "on_resume" if resume else "on_pause"
    for fn in list(reversed(_hooks[kind]) if resume else _hooks[kind]):
        try:
            fn()
        except (KeyboardInterrupt, SystemExit, SparkInterrupt):
            raise
        except BaseException as error:  # also a task's being cancelled, in the hook's own event loop
            report.warn_of(f"the {kind} hook {_name(fn)} raised", error)


def run_on_stop() -> bool:
    """Calls the functions that run when a stop ends the run, once in the life of the process. Returns whether all of
    them returned."""
    global _stop_functions_ran
    if _stop_functions_ran:
        return True
    _stop_functions_ran = True
    done = True
    for fn in list(_hooks["on_stop"]):
        try:
            fn()
        except Exception as error:
            done = False
            report.warn_of(f"the on_stop function {_name(fn)} raised", error)
    return done


def _name(fn: Callable[[], object]) -> str:
    return getattr(fn, "__qualname__", type(fn).__qualname__)
