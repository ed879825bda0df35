"""Ending the processes of a run that has not ended in time after a stop."""

import os
import select
import signal
from contextlib import suppress
from typing import Any

from spark_fast import _core
from spark_fast.client.connection import Connection
from spark_fast.client.deadline import Deadline
from spark_fast.client.request import Request
from spark_fast.client.send import ask
from spark_fast.errors import SegmentError, SparkError, SparkTimeoutError
from spark_fast.request import GRACE, Kind
from spark_fast.runfiles import run_folder, supervisors
from spark_fast.status import ENDED, WorkerState

__all__ = ["LAST_WORDS", "ask_stop", "end_after"]

LAST_WORDS = 2.0
"""Seconds between SIGTERM and SIGKILL."""
_SUPERVISORS = LAST_WORDS + 1.5
"""Seconds beyond the grace in which a supervisor, which looks twice a second, has ended its worker."""


def ask_stop(run: Connection, grace: float, *, stays: bool, timeout: float | None = None) -> Request:
    """Ask a run to stop, and its supervisor to end it after `grace` seconds. Wait for neither.

    stays: whether the caller calls end_after() then. If not, SparkError is raised where there is no supervisor.
    """
    if grace < 0:
        raise ValueError(f"grace is a number of seconds, 0 or more: {grace}")
    if not stays and not supervisors.has_supervisor(run.id):
        raise SparkError(
            f"run {run.id} has no supervisor that could end it after {grace:g} s, since 'spark-fast run' did not start "
            "it: wait for its end"
        )
    # A stop of a job of several hosts carries no mail: there this process ends the ranks of its own host.
    mail = "" if run.has_remote_ranks() else GRACE
    return ask(run, Kind.STOP, False, timeout, duration=grace, mail=mail)


def end_after(run: Connection, grace: float, *, timeout: float | None = None) -> list[str]:
    """Wait `grace` seconds for the end of a run that was asked to stop, then end its processes on this host.

    They get SIGTERM and, two seconds later, SIGKILL. Where `spark-fast run` started them, its supervisor does that,
    also if this process is killed meanwhile. A process is only signalled if it has a rank of the run and the run's
    control file open, and through a descriptor of that very process: never another one that was given its number.

    timeout: seconds to wait at most; None for as long as that takes.

    Returns the names of the signals that this process sent. Raises SparkTimeoutError if the run lives when the time is
    up, or after SIGKILL, or if its processes can't be signalled from here.
    """
    deadline = Deadline(timeout)

    def ends_within(seconds: float) -> bool:
        return run.wait_until(lambda: run.status in ENDED, deadline.within(seconds))

    sent: list[str] = []
    if ends_within(grace + (_SUPERVISORS if _is_supervised(run) else 0.0)):
        return sent
    for number in (signal.SIGTERM, signal.SIGKILL):
        if deadline.left() == 0:
            break
        if not _signal_all(run, number):
            continue
        sent.append(number.name)
        if ends_within(LAST_WORDS):
            return sent
    why = f"after {' and '.join(sent)}" if sent else f"in {grace if timeout is None else timeout:g} s"
    hint = "" if sent or deadline.left() == 0 else ", and no process here can be found that has a rank of it"
    raise SparkTimeoutError(f"run {run.id} has not ended {why}: it is {run.status} at step {run.step}{hint}")


def _is_supervised(run: Connection) -> bool:
    """Return whether a supervisor ends the run when the grace is over."""
    try:
        seq = run.view()["stop_seq"]
        entry = _core.read_entry(run.control, seq) if seq else None
        return entry is not None and entry["mail"] == GRACE and supervisors.has_supervisor(run.id)
    except (OSError, SparkError):  # no supervisor is known, so this process ends the run
        return False


def _signal_all(run: Connection, number: signal.Signals) -> bool:
    """Send a signal to the living workers on this host. Return whether one got it."""
    try:
        slots = run.slots()
    except SegmentError:
        return False
    sent = [_signal(run, seat, slot, number) for seat, slot in enumerate(slots) if slot["alive"]]
    return any(sent)


def _signal(run: Connection, seat: int, slot: dict[str, Any], number: signal.Signals) -> bool:
    pid = slot["pid"]
    if pid <= 0 or slot["state"] >= WorkerState.STOPPED:
        return False
    try:
        process = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux; or the process is gone
        return False
    try:
        if not run_folder.has_open(pid, run.control):
            return False
        now = run.slots()[seat]
        # The check of the life comes last: the process has had this number since, so the checks before were of it.
        if not now["alive"] or now["generation"] != slot["generation"] or select.select([process], [], [], 0.0)[0]:
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
        return True
    except (SegmentError, OSError):
        return False
    finally:
        os.close(process)
