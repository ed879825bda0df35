"""Waiting for a run that is starting, and does not expose its values yet or does not keep its code yet.

A controller can send a request before the first line of the script has run. The value or function that the request
names comes a moment later, so the sender waits for it, for a limited time. If it is still not there and the run has
passed no checkpoint, the request goes into the log, and the worker decides at its first checkpoint.
"""

import time
from collections.abc import Callable, Collection

from spark_fast.client.board import Board
from spark_fast.client.connection import Connection
from spark_fast.client.deadline import Deadline
from spark_fast.errors import SegmentError, StoreError
from spark_fast.runfiles.schema import Exposures
from spark_fast.status import WorkerState

__all__ = ["PATIENCE", "await_exposed", "await_rank", "await_start", "is_before_first_checkpoint"]

PATIENCE = 10.0
"""Seconds to wait for a run that is starting, at most."""


def is_before_first_checkpoint(run: Connection) -> bool:
    """Return whether the run lives, and its first rank on this host has passed no checkpoint since its process began.

    That rank writes the values, the functions and the code of the run.
    """
    try:
        first = run.slots()[0]
    except SegmentError:
        return False
    return first["state"] in (WorkerState.NONE, WorkerState.IDLE) and run.status.live


def await_start(run: Connection, ready: Callable[[], bool], deadline: Deadline) -> None:
    """Wait until `ready()`, or until the run has passed its first checkpoint, for PATIENCE seconds."""
    run.wait_until(lambda: ready() or not is_before_first_checkpoint(run), deadline.within(PATIENCE))


def await_rank(run: Connection, rank: int, deadline: Deadline) -> None:
    """Wait until this rank of the job has joined, in the first seconds of the run."""
    limit = _young(run, deadline)
    if rank < run.info.world_size and limit > 0:
        run.wait_until(
            lambda: _is_over(run) or any(each.rank == rank and each.status.live for each in run.ranks), limit
        )


def await_exposed(board: Board, names: Collection[str], what: str, deadline: Deadline) -> Exposures:
    """Return the values and functions that the run exposes, once all these names are among them.

    Waits while the run has passed no checkpoint, and in its first seconds also while it exposes nothing at all.

    Args:
        what: "value" or "function".
        deadline: of the request; PATIENCE limits the wait further.
    """
    run = board.connection

    def is_there() -> bool:
        found = board.exposures()
        return set(names) <= (found.values if what == "value" else found.functions).keys()

    def exposes_anything() -> bool:
        try:
            found = board.exposures()
        except StoreError:  # the caller reads it next, and raises the error
            return True
        return bool(found.values or found.functions)

    if not is_there():
        await_start(run, is_there, deadline)
        if not is_before_first_checkpoint(run) and (limit := _young(run, deadline)) > 0:
            run.wait_until(lambda: exposes_anything() or _is_over(run), limit)
    return board.exposures()


def _is_over(run: Connection) -> bool:
    return not run.status.live


def _young(run: Connection, deadline: Deadline) -> float:
    """Return for how many seconds more the run counts as starting, within the deadline."""
    return deadline.within(run.info.started + PATIENCE - time.time())
