"""What a reload asks of the parts of the worker that the user's code fills as it is executed.

Each part takes a snapshot of itself before new code is executed, and restores it if that code fails.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

__all__ = ["Declarations", "Persisted", "Snapshot"]


class Snapshot(Protocol):
    """A part that can be put back as it was."""

    def snapshot(self) -> Any:
        """Return what restore() needs."""

    def restore(self, taken: Any, /) -> None:
        """Put back what a snapshot has, and nothing else: code that failed leaves nothing behind."""


class Persisted(Snapshot, Protocol):
    """The values of `persist()`."""

    def snapshot(self) -> Mapping[str, object]:
        """Return the values, by key."""

    def clear_all(self) -> None:
        """Forget all values: the training starts over."""


class Declarations(Snapshot, Protocol):
    """What modules declare as they are executed: exposed values and functions."""

    def expect_again(self, modules: Iterable[str], /) -> None:
        """Note that these modules are executed again: what they do not declare again is gone with commit()."""

    def commit(self) -> None:
        """Keep what the new code has declared."""
