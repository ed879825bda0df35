"""The standard streams of a command that was started with some of them closed."""

import os
import sys

__all__ = ["open_closed_streams"]


def open_closed_streams() -> None:
    """Open /dev/null in the place of each standard stream that is closed, for this process and its children.

    Else the next files that are opened get the numbers 0 to 2, and what a child prints goes into them.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # open() takes the lowest free number. That is this one, since those before it are open.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
