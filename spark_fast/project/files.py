"""Decides which files are the project's own code, which a reload may replace."""

import os
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["innermost", "is_project_file", "is_under", "relative"]

_INSTALLED = {"site-packages", "dist-packages"}
_HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def is_project_file(path: str, roots: Sequence[str]) -> bool:
    """Return whether a file is the project's own code: a `.py` file below one of the roots.

    Files of installed packages, of the standard library, of spark_fast, and of virtual environments below a root do not
    count.

    Costs some ten microseconds for the first file of a folder, and a few for each other file.
    """
    if not path.endswith(".py"):
        return False
    folder = os.path.dirname(os.path.abspath(path))
    real = _real(folder)
    if _installed(folder) or _installed(real):
        return False
    return any(_belongs(folder, os.path.abspath(root)) or _belongs(real, _real(root)) for root in roots)


def relative(path: str, roots: Sequence[str]) -> str:
    """Return the path relative to the innermost root that holds it; the path itself if none does."""
    root = innermost(path, roots)
    return path if root is None else os.path.relpath(path, root)


def innermost(path: str, roots: Sequence[str]) -> str | None:
    """Return the innermost root that holds a path; None if none does."""
    return max((root for root in roots if is_under(path, root)), key=len, default=None)


def is_under(path: str, folder: str) -> bool:
    """Return whether an absolute path is the folder, or is below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _belongs(folder: str, root: str) -> bool:
    if not is_under(folder, root):
        return False
    # An environment around the root does not matter: some users keep their projects in one.
    while folder != root:
        if _is_environment(folder):
            return False
        folder = os.path.dirname(folder)
    return True


@lru_cache(4096)
def _installed(folder: str) -> bool:
    parts = folder.split("/")
    if not _INSTALLED.isdisjoint(parts) or is_under(folder, _HERE):
        return True
    # The standard library of this or another interpreter.
    return any(
        part.startswith("python3") and os.path.isfile("/".join([*parts[: at + 1], "os.py"]))
        for at, part in enumerate(parts)
    )


@lru_cache(4096)
def _is_environment(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "pyvenv.cfg"))


@lru_cache(4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
