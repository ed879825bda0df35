"""What the worker says to the person who started it: on standard error, a line at a time."""

import sys
import traceback

__all__ = ["say", "warn", "warn_of"]


def say(message: str) -> None:
    """One line. A standard error that is closed or full is no reason to end a training."""
    try:
        print(f"spark_fast: {message}", file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        return


def warn(message: str) -> None:
    """One line that something is not as it should be."""
    say(f"warning: {message}")


def warn_of(message: str, error: BaseException) -> None:
    """A warning with the traceback of an error in the user's own code."""
    warn(f"{message}\n{''.join(traceback.format_exception(error)).rstrip()}")
