"""Ending the processes of a run that has not ended in time after it was asked to stop."""

import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from spark_fast import _core
from spark_fast.errors import SegmentError, SparkError, SparkTimeoutError
from spark_fast.request import GRACE, Kind
from spark_fast.runfiles import run_folder
from spark_fast.status import ENDED, WorkerState, monotonic

if TYPE_CHECKING:
    from spark_fast.client.run import Request, Run

__all__ = ["LAST_WORDS", "ask_stop", "end_after"]

LAST_WORDS = 2.0
"""Seconds between SIGTERM and SIGKILL."""
_SUPERVISORS = LAST_WORDS + 1.5
"""Seconds beyond the grace in which a supervisor, which looks twice a second, has ended its worker."""


def ask_stop(run: "Run", grace: float, *, stays: bool, timeout: float | None = None) -> "Request":
    """Asks a run to stop, and its supervisor to end it after `grace` seconds. Waits for none of that.

    stays: whether the caller calls end_after() then. If not, SparkError is raised where there is no supervisor.
    """
    if grace < 0:
        raise ValueError(f"grace is a number of seconds, 0 or more: {grace}")
    if not stays and not run_folder.has_supervisor(run.id):
        raise SparkError(
            f"run {run.id} has no supervisor that could end it after {grace:g} s, since 'spark-fast run' did not start "
            "it: wait for its end"
        )
    # The hosts of a job hand on no mail of a stop: there this process alone ends what is on its own host.
    mail = "" if run._is_elsewhere() else GRACE
    return run._ask(Kind.STOP, False, timeout, duration=grace, mail=mail)


def end_after(run: "Run", grace: float, *, timeout: float | None = None) -> list[str]:
    """Waits `grace` seconds for the end of a run that was asked to stop, then ends its processes on this host.

    They get SIGTERM and, two seconds later, SIGKILL. Where `spark-fast run` started them, its supervisor does that,
    also if this process is killed meanwhile. A process is only signalled if it has a rank of the run and the run's
    control file open, and through a descriptor of that very process: never another one that was given its number.

    timeout: seconds to wait at most; None for as long as that takes.

    Returns the names of the signals that this process sent. Raises SparkTimeoutError if the run lives when the time is
    up, or after SIGKILL, or if its processes can't be signalled from here.
    """
    end = float("inf") if timeout is None else monotonic() + timeout

    def ends_within(seconds: float) -> bool:
        return run._until(lambda: run.status in ENDED, max(0.0, min(seconds, end - monotonic())))

    sent: list[str] = []
    if ends_within(grace + (_SUPERVISORS if _is_supervised(run) else 0.0)):
        return sent
    for number in (signal.SIGTERM, signal.SIGKILL):
        if monotonic() >= end:
            break
        if not _signal_all(run, number):
            continue
        sent.append(number.name)
        if ends_within(LAST_WORDS):
            return sent
    why = f"after {' and '.join(sent)}" if sent else f"in {grace if timeout is None else timeout:g} s"
    hint = "" if sent or monotonic() >= end else ", and no process here can be found that has a rank of it"
    raise SparkTimeoutError(f"run {run.id} has not ended {why}: it is {run.status} at step {run.step}{hint}")


def _is_supervised(run: "Run") -> bool:
    """Whether a supervisor ends the run when the grace is over."""
    try:
        seq = run._view()["stop_seq"]
        entry = _core.read_entry(run._control, seq) if seq else None
        return entry is not None and entry["mail"] == GRACE and run_folder.has_supervisor(run.id)
    except (OSError, SparkError):  # nothing is known of one: it is done from here
        return False


def _signal_all(run: "Run", number: signal.Signals) -> bool:
    """Signals the living workers on this host; whether there was one that could be."""
    try:
        slots = run._slots()
    except SegmentError:
        return False
    sent = [_signal(run, seat, slot, number) for seat, slot in enumerate(slots) if slot["alive"]]
    return any(sent)


def _signal(run: "Run", seat: int, slot: dict[str, Any], number: signal.Signals) -> bool:
    pid = slot["pid"]
    if pid <= 0 or slot["state"] >= WorkerState.STOPPED:
        return False
    try:
        process = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux; or it is gone
        return False
    try:
        if not run_folder.has_open(pid, run._control):
            return False
        now = run._slots()[seat]
        # Looked at last: it has had this number all the while, so what was found is true of it.
        if not now["alive"] or now["generation"] != slot["generation"] or select.select([process], [], [], 0.0)[0]:
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
        return True
    except (SegmentError, OSError):
        return False
    finally:
        os.close(process)
