"""The exit statuses of the command line, and the one line on standard error that goes with each but 0."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING

from spark_fast.cli.formatting import one_line, printable
from spark_fast.errors import NoSuchRunError, SparkError, SparkTimeoutError

if TYPE_CHECKING:
    import typer

__all__ = ["Exit", "exit_of", "leave", "say", "told"]


class Exit(IntEnum):
    """What the command line says to the shell. `run` exits as the script does."""

    DONE = 0
    """What was asked for happened."""
    REFUSED = 1
    """It was refused, it failed, or a later request took its place; the message says what."""
    USAGE = 2
    """The command line makes no sense."""
    NO_RUN = 3
    """There is no such run; or none was named, and not exactly one is live."""
    TIMED_OUT = 4
    """It did not happen in the time allowed. The request stands."""
    LOST = 5
    """The worker died, or ended, before it came to the request."""
    INTERRUPTED = 130
    """Ctrl-C. A request that was made stands."""


def exit_of(error: SparkError | OSError) -> Exit:
    """The status for an error of the client."""
    if isinstance(error, NoSuchRunError):
        return Exit.NO_RUN
    if isinstance(error, SparkTimeoutError):
        return Exit.TIMED_OUT
    return Exit.REFUSED


def say(message: str, more: str = "") -> None:
    """One line for a person, on standard error, and below it whatever lines there are in `more`.

    Where it is closed, or its terminal gone, nothing is said.
    """
    # A name in it may hold what the terminal's encoding lacks.
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    lines = [f"spark-fast: {one_line(message)}", *(printable(line.expandtabs()) for line in more.splitlines())]
    text = "".join(f"{line}\n" for line in lines)
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text.encode(encoding, "replace").decode(encoding))
        sys.stderr.flush()


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong in the block is said in a line, and this process exits."""
    try:
        yield
    except (SparkError, OSError) as error:
        say(str(error))
        sys.exit(exit_of(error))


def leave(status: Exit, message: str, more: str = "") -> "typer.Exit":
    """Says why, and returns what is to be raised to exit with this status."""
    import typer  # not for `run`, whose process says things too, and lives long

    say(message, more)
    return typer.Exit(int(status))
