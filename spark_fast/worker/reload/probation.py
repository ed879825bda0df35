"""Code on probation: it runs but is not committed yet, and can be rolled back.

One passed checkpoint proves little: a loop's head passes one, and the mistake may be in the loop's body. So code stays
on probation until its loop has come round: it has completed the body of a new item and passes its checkpoint again. If
the code raises before that, it is rolled back.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from spark_fast._core import BODY_DONE, ITEM_YIELDED, Place
from spark_fast.errors import SparkReloadError
from spark_fast.request import format_id
from spark_fast.worker.state import loops

if TYPE_CHECKING:
    from spark_fast.worker.reload.transaction import Transaction

__all__ = ["Attempt", "DueReload", "Probation"]


class DueReload:
    """A reload whose step has come.

    entry: the request, as the log has it.

    Attributes:
        step: the step at which it is applied.
        error: the exception that leaves the loop.
        published: whether the reload's sender can see the outcome.
    """

    def __init__(self, entry: dict[str, Any], step: int) -> None:
        self.entry = entry
        self.step = step
        self.error = self.leave()
        self.published = False

    @property
    def seq(self) -> int:
        """The number of the request in the log."""
        seq: int = self.entry["seq"]
        return seq

    @property
    def id(self) -> str:
        """The id of the request, as people see it."""
        return format_id(self.entry["id"])

    def leave(self) -> SparkReloadError:
        """Make an exception that leaves the user's frames for this reload."""
        return SparkReloadError(self.id, self.step, self.entry["sender"])


class Attempt:
    """One execution of code that is not committed yet.

    due: the reload that brought the code; None if the old code runs once more.

    Attributes:
        executed: whether all ranks have executed the code's modules.
        aside: the places of loops that were set aside, if this code starts the training over.
    """

    def __init__(self, transaction: "Transaction", due: DueReload | None) -> None:
        self.transaction = transaction
        self.due = due
        self.executed = False
        self.aside: list[Place] = []
        self._ended = loops.ended_loops.snapshot()

    def rollback(self) -> None:
        """Put back what this code replaced, including the loops' places. Raises what Transaction.undo() raises."""
        try:
            self.transaction.undo()
        finally:
            loops.bring_back(self.aside)
            loops.ended_loops.restore(self._ended)


class Probation:
    """The attempts that are not committed yet, oldest first, and how far the last one has come.

    Several attempts are possible: when new code is rolled back, the old code runs again as an attempt of its own.

    Attributes:
        step: the step at which the last attempt began.
        rounds: how many bodies of loops the last attempt has completed.
    """

    def __init__(self) -> None:
        self.step = 0
        self.rounds = 0
        self._attempts: list[Attempt] = []
        self._bare = 0

    def __bool__(self) -> bool:
        return bool(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._attempts)

    @property
    def has_new_code(self) -> bool:
        """Whether an attempt runs code that a reload brought."""
        return any(attempt.due is not None for attempt in self._attempts)

    def begin(self, attempt: Attempt, step: int) -> None:
        """Add an attempt that begins at this step."""
        self._attempts.append(attempt)
        self.step = step
        self.rounds = self._bare = 0

    def pop(self) -> Attempt:
        """Remove and return the last attempt."""
        return self._attempts.pop()

    def clear(self) -> None:
        """Remove all attempts, as they are committed."""
        self._attempts.clear()

    def passes(self, done: int | None) -> bool:
        """Count a checkpoint; return whether the code has now proved itself.

        done: ITEM_YIELDED if the loop has handed out a new item since it began, and BODY_DONE if the body of its last
            item is complete; None for a checkpoint outside `track()`.
        """
        # A checkpoint outside track() proves nothing about the code after it, but a second one does.
        self._bare += done is None
        self.rounds += self._bare > 1 if done is None else bool(done & BODY_DONE)
        return bool((done or 0) & ITEM_YIELDED) or self._bare > 1
