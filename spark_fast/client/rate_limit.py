"""How much one sender may ask of a run: what a value or a call costs is time that the training does not have."""

from spark_fast.status import monotonic

__all__ = ["BURST", "RATE", "Share"]

BURST = 64
RATE = 20.0
"""Values and calls that one sender may ask for at once, and those a second in the long run. Each costs the training
some 16 µs, or 100 where it comes alone and finds none of our code in the caches: two thousandths of its time at most.
"""


class Share:
    """What one sender may still ask of one run. It is not safe with threads."""

    def __init__(self) -> None:
        self._whole_at = 0.0

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self._whole_at <= monotonic()

    def wait(self) -> float:
        """Seconds until the sender may ask again; 0 if it may now."""
        return max(0.0, self._whole_at - monotonic() - (BURST - 1) / RATE)

    def take(self) -> None:
        """The sender asks, now or when it may."""
        self._whole_at = max(self._whole_at, monotonic()) + 1 / RATE
