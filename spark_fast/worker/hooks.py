"""Functions that run around a pause."""

from collections.abc import Callable
from typing import TypeVar

from spark_fast.worker import report

__all__ = ["on_pause", "on_resume", "run"]

Hook = TypeVar("Hook", bound=Callable[[], object])

_on_pause: list[Callable[[], object]] = []
_on_resume: list[Callable[[], object]] = []


def on_pause(fn: Hook) -> Hook:
    """Has `fn()` called by the worker that is about to park: to move a model off the GPU, say.

    The status is `paused` only when all of them have returned. They run in the thread that parks, in the order in
    which they were added. One that raises is reported on standard error and does not break the pause. Returns `fn`,
    so that it can be used as a decorator.
    """
    _on_pause.append(fn)
    return fn


def on_resume(fn: Hook) -> Hook:
    """Has `fn()` called by the worker that was parked, before its loop goes on: also when it goes on to stop.

    As on_pause(), in the opposite order.
    """
    _on_resume.append(fn)
    return fn


def run(*, resume: bool) -> None:
    """Calls the hooks of one kind."""
    for fn in list(reversed(_on_resume) if resume else _on_pause):
        try:
            fn()
        except Exception as error:
            report.warn_of(f"the {'on_resume' if resume else 'on_pause'} hook {fn!r} raised", error)
