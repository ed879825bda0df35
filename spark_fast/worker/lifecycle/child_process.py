"""Watches the end of a worker that `multiprocessing` has started.

A forked one runs no exit handlers (Python 3.11, 3.12). Nor would exit handlers learn the exception that ended the
process: `BaseProcess._bootstrap()` prints it and returns an exit code. So the last functions that `_bootstrap()` calls
are wrapped, in this process alone: `traceback.print_exc()`, during which the exception is known, and
`util._flush_std_streams()`. If a later Python calls neither, its exit handlers publish the end.
"""

import sys
from collections.abc import Callable
from typing import Any

from spark_fast import stderr
from spark_fast.errors import first_stop, is_stop

__all__ = ["is_child", "is_daemon", "watch"]

_watched = False


def _this_process() -> Any:
    """Return multiprocessing's object of this process; None if multiprocessing has not started it."""
    module = sys.modules.get("multiprocessing.process")
    if module is None or module.parent_process() is None:
        return None
    return module.current_process()


def is_child() -> bool:
    """Return whether multiprocessing has started this process."""
    return _this_process() is not None


def is_daemon() -> bool:
    """Return whether this process serves another one and ends with it, as the workers of pools and data loaders do."""
    process = _this_process()
    return process is not None and bool(process.daemon)


def watch(raised: Callable[[BaseException], None], ended: Callable[[int], None]) -> None:
    """Have this process, for which is_child() is true, report its end.

    It calls `raised` with the exception that ends it, if one does, and then `ended` with its exit code. If a stop ends
    it, one line says so in place of a traceback.
    """
    global _watched
    if _watched:
        return  # the parent did this before the fork
    _watched = True
    import traceback
    from multiprocessing import process, util

    bootstrap = process.BaseProcess._bootstrap.__code__  # type: ignore[attr-defined]
    print_exc, flush = traceback.print_exc, util._flush_std_streams  # type: ignore[attr-defined]

    def print_last(*args: Any, **kwargs: Any) -> None:
        error = sys.exception()
        if sys._getframe(1).f_code is bootstrap and error is not None:
            raised(error)
            if is_stop(error):
                stderr.say(str(first_stop(error)))
                return
        print_exc(*args, **kwargs)

    def flush_last() -> None:
        frame = sys._getframe(1)
        if frame.f_code is bootstrap:
            ended(frame.f_locals.get("exitcode", 1))
        flush()

    traceback.print_exc = print_last
    util._flush_std_streams = flush_last  # type: ignore[attr-defined]
