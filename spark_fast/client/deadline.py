"""How long a client waits in all, while it waits for one thing after the other."""

from spark_fast.status import monotonic

__all__ = ["Deadline"]


class Deadline:
    """The end of a wait that has several parts: a turn, the log, the fate of a request.

    Attributes:
        seconds: the whole time that was asked for, as errors name it; None for no limit.
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
