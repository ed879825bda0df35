"""Requests to a run that is starting: it does not expose yet what they name, or does not keep its code yet.

A run can be asked for something before the first line of its script has run. What such a request names comes a moment
later: so the sender waits for it, for a limited time. A value or a call whose name is still not there then goes into
the log if the run has passed no checkpoint, and the worker decides at the first one.
"""

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from spark_fast.client.deadline import Deadline
from spark_fast.errors import SegmentError, StoreError
from spark_fast.status import WorkerState

if TYPE_CHECKING:
    from spark_fast.client.run import Run
    from spark_fast.runfiles.schema import Exposures

__all__ = ["PATIENCE", "await_exposed", "await_rank", "await_start", "is_before_first_checkpoint"]

PATIENCE = 10.0
"""Seconds to wait, at most, for what a run that is starting does not have yet."""


def is_before_first_checkpoint(run: "Run") -> bool:
    """Return whether the run lives, and its first rank on this host has passed no checkpoint since its process began.

    What a run exposes, and its code, come from that rank.
    """
    try:
        first = run._slots()[0]
    except SegmentError:
        return False
    return first["state"] in (WorkerState.NONE, WorkerState.IDLE) and run.status.live


def await_start(run: "Run", ready: Callable[[], bool], deadline: Deadline) -> None:
    """Wait until `ready()`, or until the run has passed its first checkpoint, for PATIENCE seconds."""
    left = deadline.left()
    limit = PATIENCE if left is None else min(PATIENCE, left)
    run._until(lambda: ready() or not is_before_first_checkpoint(run), limit)


def await_rank(run: "Run", rank: int, deadline: Deadline) -> None:
    """Wait until this rank of the job is there, in the first seconds of the run."""
    limit = _young(run, deadline)
    if rank < run.world_size and limit > 0:
        run._until(lambda: _is_over(run) or any(each.rank == rank and each.status.live for each in run.ranks), limit)


def await_exposed(run: "Run", names: Collection[str], what: str, deadline: Deadline) -> "Exposures":
    """Return what the run exposes, once all these names are there.

    Waits while the run has passed no checkpoint, and in its first seconds also while it exposes nothing at all.

    Args:
        what: "value" or "function".
        deadline: of the request; PATIENCE limits the wait further.
    """
    board = run._board()

    def is_there() -> bool:
        found = board.exposures()
        return set(names) <= (found.values if what == "value" else found.functions).keys()

    def exposes_anything() -> bool:
        try:
            found = board.exposures()
        except StoreError:  # whoever reads it next tells what is wrong
            return True
        return bool(found.values or found.functions)

    if not is_there():
        await_start(run, is_there, deadline)
        if not is_before_first_checkpoint(run) and (limit := _young(run, deadline)) > 0:
            run._until(lambda: exposes_anything() or _is_over(run), limit)
    return board.exposures()


def _is_over(run: "Run") -> bool:
    return not run.status.live


def _young(run: "Run", deadline: Deadline) -> float:
    """Return for how many seconds more the run counts as starting, as far as the deadline allows."""
    limits = [run.started + PATIENCE - time.time(), deadline.left()]
    return min(each for each in limits if each is not None)
