"""The positions of the frames that a reload leaves, or that an exception has left."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

__all__ = ["CO_GENERATOR", "Position", "of_stack", "of_traceback"]

CO_GENERATOR = 0x20 | 0x200  # as in inspect, which takes long to import


@dataclass(frozen=True)
class Position:
    """The line at which a frame stands.

    Attributes:
        path: the file of the frame's code.
        name: the name of the frame's function; `<module>` for the top level of a module.
        line: the line that the frame runs.
        generator: whether the frame belongs to a generator, whose caller gets the yielded items.
        names: returns the value of a variable by its name; None for an unknown name.
    """

    path: str
    name: str
    line: int
    generator: bool
    names: Callable[[str], Any]


def of_stack(frame: FrameType | None, paths: Iterable[str]) -> list[Position]:
    """Return the positions of this frame and its callers, as far as they run one of these files, outermost first."""
    wanted = frozenset(paths)
    found = []
    while frame is not None:
        if frame.f_code.co_filename in wanted:
            found.append(_position(frame, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def of_traceback(trace: TracebackType | None, paths: Iterable[str]) -> list[Position]:
    """Return the positions of the frames that an exception left, if they ran one of these files, outermost first."""
    wanted = frozenset(paths)
    found = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in wanted:
            found.append(_position(trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found


def _position(frame: FrameType, line: int) -> Position:
    values = {**frame.f_globals, **frame.f_locals}
    code = frame.f_code
    return Position(code.co_filename, code.co_name, line, bool(code.co_flags & CO_GENERATOR), values.get)
