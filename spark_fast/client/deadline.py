"""Time limits of waits, and the one loop in which this package waits."""

import time
from collections.abc import Callable

from spark_fast.status import monotonic

__all__ = ["Deadline", "wait_until"]


class Deadline:
    """The end of a wait that has several parts: the sender's turn, the log, the request's fate.

    Attributes:
        seconds: the whole time that the caller allowed, as errors name it; None for no limit.
    """

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float | None, *, began: float | None = None) -> None:
        """
        Args:
            seconds: how long to wait at most; None for no limit.
            began: when the wait began, on the clock of `status.monotonic()`; None for now.
        """
        self.seconds = seconds
        self._end = None if seconds is None else (monotonic() if began is None else began) + seconds

    def left(self) -> float | None:
        """Return the seconds that are left, 0 or more; None if there is no limit."""
        return None if self._end is None else max(0.0, self._end - monotonic())

    def within(self, seconds: float) -> float:
        """Return so many seconds, or those that are left if they are fewer."""
        left = self.left()
        return seconds if left is None else min(seconds, left)


def _sleep() -> Callable[[float], object]:
    return time.sleep


def wait_until(
    done: Callable[[], bool],
    deadline: Deadline,
    *,
    interval: float,
    arm: Callable[[], Callable[[float], object]] = _sleep,
) -> bool:
    """Wait until `done()` is true. Return whether it was before the deadline.

    Args:
        done: called once at least, and again after each sleep.
        interval: seconds between two calls of `done` at most.
        arm: called before each call of `done`. Returns a function that sleeps for a number of seconds, or until
            something has changed since that call of `arm`. So no change between `done` and the sleep is missed.
    """
    while True:
        sleep = arm()
        if done():
            return True
        seconds = deadline.within(interval)
        if seconds <= 0:
            return False
        sleep(seconds)
