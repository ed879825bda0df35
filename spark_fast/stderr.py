"""Prints the worker's messages to standard error, a line at a time, for the person who started it."""

import os
import sys
import traceback
from contextlib import suppress

from spark_fast._core import is_forked

__all__ = ["as_printed", "say", "say_at_once", "warn", "warn_of"]

_LIBRARY = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "")


def say(message: str) -> None:
    """Print one line. A closed or full standard error does not end the training."""
    if is_forked():  # the parent's threads may have held sys.stderr's lock, which stays held here
        say_at_once(message)
        return
    try:
        print(f"spark_fast: {message}", file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        return
    except RuntimeError:  # in a signal handler that interrupted another write
        say_at_once(message)


def say_at_once(message: str) -> None:
    """Print one line without sys.stderr, for signal handlers: the main thread may be writing to sys.stderr."""
    with suppress(OSError):
        os.write(2, f"spark_fast: {message}\n".encode(errors="replace"))


def warn(message: str) -> None:
    """Print a warning in one line."""
    say(f"warning: {message}")


def warn_of(message: str, error: BaseException) -> None:
    """Print a warning with the traceback of an error in the user's own code."""
    warn(f"{message}\n{as_printed(error).rstrip()}")


def as_printed(error: BaseException) -> str:
    """Return the error as Python prints it, without the frames of this package."""
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
    try:
        found = traceback.TracebackException.from_exception(error)
    except Exception as problem:  # the exception's class has attribute methods that raise
        lines = "".join(traceback.format_tb(error.__traceback__))
        return (
            f"Traceback (most recent call last):\n{lines}{type(error).__qualname__}: "
            f"<its description raised {type(problem).__name__}>\n"
        )
    for each in (found, found.__cause__, found.__context__):
        if each is not None:
            kept = [
                frame
                for frame in each.stack
                if not frame.filename.startswith(here) and not frame.filename.startswith("<frozen importlib")
            ]
            while kept and kept[0].filename.startswith(_LIBRARY):  # the frames that lead to the user's first line
                del kept[0]
            each.stack = traceback.StackSummary.from_list(kept)
    return "".join(found.format())
