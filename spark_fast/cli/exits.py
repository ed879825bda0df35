"""The exit statuses of the command line, and the line on standard error that goes with each but 0."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING

from spark_fast.cli.formatting import one_line
from spark_fast.errors import NoSuchRunError, SparkError, SparkTimeoutError
from spark_fast.plain_text import printable

if TYPE_CHECKING:
    import typer

__all__ = ["Exit", "exit_of", "leave", "reporting_errors", "say"]


class Exit(IntEnum):
    """An exit status of the command line. `run` exits as the script does."""

    DONE = 0
    """The request was applied."""
    REFUSED = 1
    """The request was refused, it failed, or a later request superseded it. The message says which."""
    USAGE = 2
    """The command line is wrong."""
    NO_RUN = 3
    """There is no such run, or the command names none and not exactly one is live."""
    TIMED_OUT = 4
    """The request was not applied in the time allowed. It stands."""
    LOST = 5
    """The worker ended before it came to the request."""
    INTERRUPTED = 130
    """Ctrl-C. A request that was sent stands."""


def exit_of(error: SparkError | OSError) -> Exit:
    """Return the status for an error of the client."""
    if isinstance(error, NoSuchRunError):
        return Exit.NO_RUN
    if isinstance(error, SparkTimeoutError):
        return Exit.TIMED_OUT
    return Exit.REFUSED


def say(message: str, more: str = "") -> None:
    """Print a message on standard error, on one line, and the lines of `more` below it.

    Where standard error is closed, or its terminal is gone, print nothing.
    """
    # A name may hold characters that the terminal's encoding lacks.
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    lines = [f"spark-fast: {one_line(message)}", *(printable(line.expandtabs()) for line in more.splitlines())]
    text = "".join(f"{line}\n" for line in lines)
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text.encode(encoding, "replace").decode(encoding))
        sys.stderr.flush()


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print an error of the block in one line, and exit with its status."""
    try:
        yield
    except (SparkError, OSError) as error:
        say(str(error))
        sys.exit(exit_of(error))


def leave(status: Exit, message: str, more: str = "") -> "typer.Exit":
    """Print a message. Return the exception that exits with a status, for the caller to raise."""
    import typer  # here, since `run` needs this module for as long as it lives, and no typer

    say(message, more)
    return typer.Exit(int(status))
