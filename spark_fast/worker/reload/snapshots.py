"""The interfaces that a reload needs of those parts of the worker that the user's code fills as it is executed.

Each part takes a snapshot of itself before new code is executed, and restores the snapshot if that code fails.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

__all__ = ["Declarations", "Persisted", "Snapshot"]


class Snapshot(Protocol):
    """A part of the worker whose former content can be restored."""

    def snapshot(self) -> Any:
        """Return the present content, for restore()."""

    def restore(self, taken: Any, /) -> None:
        """Put back the content of a snapshot and nothing else, so that code that failed leaves nothing behind."""


class Persisted(Snapshot, Protocol):
    """The values of `persist()`."""

    def snapshot(self) -> Mapping[str, object]:
        """Return the values, by key."""

    def clear_all(self) -> None:
        """Forget all values, as the training starts over."""


class Declarations(Snapshot, Protocol):
    """The values and functions that modules expose as they are executed."""

    def expect_again(self, modules: Iterable[str], /) -> None:
        """Have commit() remove what these modules, which are executed again, do not declare again."""

    def commit(self) -> None:
        """Keep the declarations of the new code."""
