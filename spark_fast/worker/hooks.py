"""Functions that run around a pause."""

import threading
from collections.abc import Callable
from typing import TypeVar

from spark_fast.errors import SparkInterrupt, is_stop
from spark_fast.worker import report

__all__ = ["inside", "on_pause", "on_resume", "restore", "run", "snapshot"]

Hook = TypeVar("Hook", bound=Callable[[], object])

_on_pause: list[Callable[[], object]] = []
_on_resume: list[Callable[[], object]] = []
_running: set[int] = set()
"""The threads that run hooks."""


def on_pause(fn: Hook) -> Hook:
    """Has `fn()` called by the worker that is about to park: to move a model off the GPU, say.

    The status is `paused` only when all of them have returned. They run in the thread that parks, in the order in
    which they were added. One that raises is reported on standard error and does not break the pause. Returns `fn`,
    so that it can be used as a decorator. A function that was added before is not added again: a script that is
    executed anew after a reload adds its own once more.
    """
    _add(_on_pause, fn)
    return fn


def on_resume(fn: Hook) -> Hook:
    """Has `fn()` called by the worker that was parked, before its loop goes on: also when it goes on to stop.

    As on_pause(), in the opposite order.
    """
    _add(_on_resume, fn)
    return fn


def _add(hooks: list[Callable[[], object]], fn: Callable[[], object]) -> None:
    if fn not in hooks:
        hooks.append(fn)


def snapshot() -> tuple[list[Callable[[], object]], list[Callable[[], object]]]:
    """What is to run around a pause now, for restore()."""
    return list(_on_pause), list(_on_resume)


def restore(hooks: tuple[list[Callable[[], object]], list[Callable[[], object]]]) -> None:
    """Has what a snapshot had run, and nothing else: new code that failed leaves no hook behind."""
    _on_pause[:], _on_resume[:] = hooks


def inside() -> bool:
    """Whether this thread runs a hook."""
    return threading.get_ident() in _running


def run(*, resume: bool) -> None:
    """Calls the hooks of one kind."""
    _running.add(threading.get_ident())
    try:
        _run(resume=resume)
    finally:
        _running.discard(threading.get_ident())


def _run(*, resume: bool) -> None:
    for fn in list(reversed(_on_resume) if resume else _on_pause):
        try:
            fn()
        except (KeyboardInterrupt, SystemExit, SparkInterrupt):
            raise
        except BaseException as error:  # also a task's being cancelled, in the hook's own event loop
            if is_stop(error):
                raise
            name = getattr(fn, "__qualname__", type(fn).__qualname__)
            report.warn_of(f"the {'on_resume' if resume else 'on_pause'} hook {name} raised", error)
