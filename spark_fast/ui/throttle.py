"""A limit of log lines of a kind, so that a client can't fill a terminal or a disk with them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from spark_fast.status import monotonic

__all__ = ["Throttle"]

_KINDS_MAX = 256
"""How many kinds of lines are counted apart. Beyond that, all counts begin again."""


@dataclass
class _Counted:
    since: float
    shown: int = 0
    left_out: int = 0


class Throttle(logging.Filter):
    """Lets through at most `most` lines of one level and text within `seconds`, and then says how many were left out.

    clock: returns the time in seconds.
    """

    def __init__(self, most: int = 5, seconds: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._counted: dict[tuple[int, str], _Counted] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is to be written."""
        now = self._clock()
        kind = record.levelno, str(record.msg)
        if kind not in self._counted and len(self._counted) >= _KINDS_MAX:
            self._counted.clear()
        counted = self._counted.setdefault(kind, _Counted(now))
        if now - counted.since >= self._seconds:
            if counted.left_out:
                record.msg = f"{record.getMessage()} ({counted.left_out} more such lines were left out)"
                record.args = ()
            self._counted[kind] = counted = _Counted(now)
        if counted.shown >= self._most:
            counted.left_out += 1
            return False
        counted.shown += 1
        return True
