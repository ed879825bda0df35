"""How this package starts its own processes."""

import sys

__all__ = ["asks_for_safe_path", "own_command"]

_ADDED = "spark_fast_added_P"


def own_command(*words: str, module: str = "spark_fast") -> list[str]:
    """Return the command that runs a module of this package with these arguments, in this interpreter.

    Its -P keeps the working directory, where any file may have the name of a module, off the search path. A script
    under `spark-fast run` finds the modules in its folder nonetheless: -X says that the user has not asked for -P.
    """
    added = [] if asks_for_safe_path() else ["-X", _ADDED]
    return [sys.executable, "-P", *added, "-m", module, *words]


def asks_for_safe_path() -> bool:
    """Return whether the user started this process with -P or PYTHONSAFEPATH."""
    return sys.flags.safe_path and _ADDED not in sys._xoptions
