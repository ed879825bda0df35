"""The exceptions for the error numbers of the C functions: those of errno, and those of csrc/sf_error.h."""

import os

from spark_fast import _core
from spark_fast.errors import LayoutError, LogFullError, SegmentError
from spark_fast.runfiles.descriptors import open_own

__all__ = ["describe_code", "from_code", "layout_error"]

_NOT_CONTROL, _LAYOUT, _CORRUPT, _GONE, _FULL, _BUSY, _FOREIGN = range(4001, 4008)

_REASONS = {
    _NOT_CONTROL: "not a control file, or one that its maker did not finish",
    _LAYOUT: "a control file of another layout",
    _CORRUPT: "damaged: sizes or numbers in it make no sense",
    _GONE: "removed, replaced or cut short",
    _FULL: "its log is full: a rank has passed no checkpoint for a long time",
    _BUSY: "another sender has kept the log for too long; if it is suspended, continue or end it",
    _FOREIGN: "not a regular file of yours with one name: another user may have put it there",
}


def describe_code(code: int) -> str:
    """Return the meaning of an error number, in words."""
    return _REASONS.get(code) or os.strerror(code)


def from_code(code: int, call: str, path: str | None) -> Exception:
    """Return the exception for an error number.

    Args:
        code: the error number, positive.
        call: the C function that failed.
        path: the file that the call used; None for the worker's own control file.
    """
    if code not in _REASONS:
        return OSError(code, f"{call}: {os.strerror(code)}", path)
    if code == _LAYOUT:
        return layout_error(path) if path is not None else LayoutError(_REASONS[code])
    kind = LogFullError if code == _FULL else SegmentError
    return kind(_REASONS[code], path)


def layout_error(path: str) -> LayoutError:
    """Return the error for a control file of another layout. It names both versions and the file."""
    fd = open_own(path, os.O_RDONLY)
    try:
        theirs = _core.read_layout_version(fd)
    finally:
        os.close(fd)
    ours = _core.LAYOUT_VERSION
    return LayoutError(
        f"has layout {theirs}, spark_fast {_core.BUILD_VERSION} has layout {ours}: "
        "use the spark-fast command of the environment that the training runs in",
        path,
    )
