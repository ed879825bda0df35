"""The rate limit of a sender: each value or call that the worker handles takes time from the training."""

from spark_fast.status import monotonic

__all__ = ["BURST", "RATE", "TokenBucket"]

BURST = 64
RATE = 20.0
"""Values and calls that one sender may send at once (BURST), and per second in the long run (RATE). Each costs the
training some 16 µs, or 100 µs if it comes alone and none of our code is in the caches: 0.2 % of its time at most."""


_ROUNDING = 1e-5
"""More seconds than BURST sums lose to rounding, also on a machine that has been up for years."""


class TokenBucket:
    """The values and calls that one sender may still send to one run. Its callers hold a lock."""

    def __init__(self) -> None:
        self._full_at = 0.0

    @property
    def full(self) -> bool:
        """Whether no token is in use."""
        return self._full_at <= monotonic()

    def wait(self) -> float:
        """Return the seconds until the sender may send again; 0 if it may now."""
        left = self._full_at - monotonic() - (BURST - 1) / RATE
        return left if left > _ROUNDING else 0.0

    def take(self) -> None:
        """Take a token, now or when one is there."""
        self._full_at = max(self._full_at, monotonic()) + 1 / RATE
