"""Ending the worker of a run and starting a fresh one."""

import math

from spark_fast.client import connection
from spark_fast.client.connection import Connection
from spark_fast.client.deadline import Deadline
from spark_fast.client.discovery import attach
from spark_fast.client.request import Request
from spark_fast.client.run import Run
from spark_fast.client.send import ask
from spark_fast.durations import Duration, seconds_of
from spark_fast.errors import AmbiguousRunError, NoSuchRunError, ResetError, SparkError, SparkTimeoutError
from spark_fast.request import RESET, FateState, Kind
from spark_fast.runfiles import supervisors
from spark_fast.status import monotonic

__all__ = ["ask_reset", "is_worker_initialized", "reset_worker"]

_PATIENCE = 1.0
"""Seconds in which a supervisor takes its lock after its worker has started, and releases it when it ends."""


def reset_worker(run: str | None = None, *, grace: Duration = 30.0, timeout: Duration | None = None) -> Run:
    """End the process of a run and start a fresh one in its place: the same command, the same run id, nothing kept.

    The loop is asked to stop, as by `Run.stop()`. A process that lives after `grace` seconds gets SIGTERM and, two
    seconds later, SIGKILL. So a process that hangs can be reset too.

    Args:
        run: the run id, or the beginning of one, as attach() takes it; None for the only live run.
        grace: seconds, or text such as "90s".
        timeout: seconds, or text, to wait for the fresh worker at most; None for as long as it takes.

    Returns the run of the fresh worker, when it has passed its first checkpoint, or has ended. Raises ResetError if the
    run was not started by `spark-fast run`, if its supervisor is gone, if it has several ranks, which only their
    launcher can start afresh, or if it is stopping already; SparkTimeoutError
    when the time is up (the reset stands); what attach() raises.
    """
    deadline = Deadline(seconds_of(timeout, "timeout"))
    old = (attach() if run is None else attach(run, exact=True))._connection
    request = ask_reset(old, grace=grace, timeout=deadline.seconds)
    fresh: Connection | None = None
    alone_since: float | None = None

    def is_fresh() -> bool:
        nonlocal fresh, alone_since
        try:
            found = connection.find(old.id)
        except (OSError, SparkError):  # it is being replaced
            found = old
        if found.is_same_worker(old):
            if supervisors.has_supervisor(old.id):
                alone_since = None
            elif alone_since is None:
                alone_since = monotonic()
            elif monotonic() >= alone_since + _PATIENCE:
                raise ResetError(old.id, f"its supervisor has ended, and started no fresh process; it is {old.status}")
            return False
        fresh = found
        return found.step > 0 or not found.status.live

    if not old.wait_until(is_fresh, deadline.left()):
        raise SparkTimeoutError(
            f"run {old.id} has no fresh worker that passes checkpoints after {deadline.seconds or 0:.2g} s: it is "
            f"{(fresh or old).status}. The reset stands.",
            request,
        )
    assert fresh is not None
    return Run(fresh)


def ask_reset(run: Connection, *, grace: Duration = 30.0, timeout: float | None = None) -> Request:
    """Ask for a reset, as reset_worker() does, and return the stop with which it begins. Do not wait for it.

    Raises ResetError as reset_worker() does.
    """
    seconds = seconds_of(grace, "grace")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"grace is a duration of 0 or more: {grace!r}")
    if not run.status.live:
        raise ResetError(run.id, f"it has ended: it is {run.status}")
    if run.info.world_size > 1 or run.local_world_size > 1:
        reason = f"a launcher has started its {run.info.world_size} ranks, and only that can start them afresh"
        raise ResetError(run.id, f"{reason}; 'spark-fast stop {run.id}' stops all of them")
    if not run.wait_until(lambda: supervisors.has_supervisor(run.id), _PATIENCE):
        raise ResetError(run.id, "no supervisor is there to start a fresh process; 'spark-fast run' is one")
    request = ask(run, Kind.STOP, False, timeout, duration=seconds, mail=RESET)
    if (fate := request.fate).state is FateState.REFUSED:
        raise ResetError(run.id, fate.reason)
    return request


def is_worker_initialized(run: str | None = None) -> bool:
    """Return whether a live worker of this run has passed its first checkpoint, so that its setup is done.

    run: the run id; None for the only live run. False if there is no such run. Raises AmbiguousRunError if none was
    named and several are live, and what attach() raises for one that can't be used.
    """
    try:
        found = attach(run, exact=True)
    except AmbiguousRunError:
        raise
    except NoSuchRunError:
        return False
    return found.status.live and found.step > 0
