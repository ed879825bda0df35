"""Which files are the project's own code: what a reload may bring anew."""

import os
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["innermost", "is_project_file", "is_under", "relative"]

_INSTALLED = {"site-packages", "dist-packages"}
_HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def is_project_file(path: str, roots: Sequence[str]) -> bool:
    """Whether a file is the project's own code: a `.py` file below one of the roots, but of no installed package, of
    no virtual environment below that root, not of the standard library, and not of spark_fast itself.

    Costs some microseconds a folder that it has not met, a few after that.
    """
    if not path.endswith(".py"):
        return False
    folder = os.path.dirname(os.path.abspath(path))
    real = _real(folder)
    if _installed(folder) or _installed(real):
        return False
    return any(_belongs(folder, os.path.abspath(root)) or _belongs(real, _real(root)) for root in roots)


def relative(path: str, roots: Sequence[str]) -> str:
    """A path as people of the project call it: from the innermost root on that holds it, else as it is."""
    root = innermost(path, roots)
    return path if root is None else os.path.relpath(path, root)


def innermost(path: str, roots: Sequence[str]) -> str | None:
    """The innermost root that holds a path; None if none does."""
    return max((root for root in roots if is_under(path, root)), key=len, default=None)


def is_under(path: str, folder: str) -> bool:
    """Whether an absolute path is a folder, or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _belongs(folder: str, root: str) -> bool:
    if not is_under(folder, root):
        return False
    # An environment around the root does no harm: projects are kept in there, too.
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
    # A standard library, which need not be that of this interpreter.
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
