"""Handles a stop that leaves a thread of the script: reports it in a line, and runs the `on_stop()` functions.

An exception in a thread does not end the script. So a script whose threads train ends normally once they are stopped,
and would report no stop.
"""

import threading
from collections.abc import Callable
from typing import Any

from spark_fast import stderr
from spark_fast.errors import error_behind, first_stop, is_stop
from spark_fast.worker.state import hooks

__all__ = ["finish", "has_left_a_thread", "watch"]

_previous_hook: Callable[[Any], object] = threading.__excepthook__
_left = False


def watch() -> None:
    """Replace the hook for uncaught exceptions of threads by one that handles stops."""
    global _previous_hook
    if threading.excepthook is not _on_uncaught:  # else this process was forked from a worker
        _previous_hook = threading.excepthook
        threading.excepthook = _on_uncaught


def has_left_a_thread() -> bool:
    """Return whether a stop has left a thread, and all threads that the interpreter waits for at its end have ended."""
    main = threading.main_thread()
    return _left and all(each is main or each.daemon for each in threading.enumerate())


def finish() -> bool:
    """Run the `on_stop()` functions if a stop has left a thread. Return False if one of them raised."""
    return not _left or hooks.current.run_on_stop()


def _on_uncaught(args: Any) -> None:
    global _left
    error = args.exc_value
    if error is None or not is_stop(error) or error_behind(error) is not None:
        _previous_hook(args)
    elif not _left:
        _left = True
        stderr.say(str(first_stop(error)))
