"""Sending a request to a run: into the log of this host, or to the relay of a job of several hosts."""

import time
from typing import Literal

from spark_fast import _core
from spark_fast.client.connection import REMOTE, Connection
from spark_fast.client.deadline import Deadline
from spark_fast.client.request import Request, unsent
from spark_fast.errors import LayoutError, LogFullError, SegmentError
from spark_fast.request import RESET, Fate, FateState, Kind, Verdict, sender_name
from spark_fast.runfiles import run_folder
from spark_fast.status import SparkStatus, WorkerState

__all__ = ["ask", "steer"]

_TURN = 5.0
"""Seconds to wait for other senders, each of which takes some 20 µs."""

_ERRORS = "errors"
"""runfiles.run_error.FOLDER, which takes a millisecond to import: a resume is not to wait for that."""


def steer(
    connection: Connection, kind: Kind, wait: bool, timeout: float | None, *, arg: int = 0, duration: float = 0.0
) -> Request:
    """Send a pause, resume, stop or advance. With `wait`, wait for its fate, and raise SparkRequestError for a bad one.

    A resume and an advance are refused if they would start the training over. Raises as `Run.pause()` does.
    """
    if kind in (Kind.RESUME, Kind.ADVANCE) and _would_start_over(connection):
        reason = (
            "it is paused after an error, none of its loops has a key and nothing is persisted: its code would "
            "start the training over. Stop it, or mend the code and reload it with --restart"
        )
        request = unsent(connection, kind, Fate(FateState.REFUSED, reason=reason))
    else:
        request = ask(connection, kind, wait, timeout, arg=arg, duration=duration)
    return request.raise_for_fate() if wait else request


def _would_start_over(connection: Connection) -> bool:
    """Return whether the run is paused after an error and keeps nothing from which its code could go on."""
    if not (connection.folder / _ERRORS).exists() or connection.status is not SparkStatus.PAUSED:
        return False
    from spark_fast.runfiles import run_error  # see _ERRORS

    return not all(error.can_resume for error in run_error.read(connection.folder))


def ask(
    connection: Connection,
    kind: Kind,
    wait: bool,
    timeout: Deadline | float | None,
    *,
    arg: int = 0,
    duration: float = 0.0,
    mail: str = "",
    ident: int | None = None,
    ranks: "int | Literal['all']" = "all",
) -> Request:
    """Send a request and return it.

    Args:
        wait: whether to wait for the fate.
        timeout: of the sending and the wait together.
        arg, duration, mail: what the request carries in the log; their meaning depends on its kind.
        ident: the id of the request; None for a new one.
        ranks: the rank that it is for.

    Raises LogFullError, SegmentError or another OSError if the control file can't be used; SparkTimeoutError if it
    waits and the time is up.
    """
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    if kind is Kind.STOP and connection.idle_parent is not None:
        # The parent first, so that the process that it forks next stops too.
        ask(connection.idle_parent, Kind.STOP, False, deadline, duration=duration)
    if ident is None:
        ident = run_folder.new_id()
    sender = sender_name()
    if connection.has_remote_ranks():
        request = _ask_hosts(connection, kind, ident, sender, arg=arg, duration=duration, mail=mail, ranks=ranks)
        if wait:
            request._wait(deadline)
        return request
    try:
        verdict, seq, _target = connection.segment().append(
            kind,
            ident,
            arg=arg,
            duration=duration,
            sender=sender,
            mail=mail,
            ranks=0 if ranks == "all" else ranks + 1,
            timeout=deadline.within(_TURN),
        )
        asked = time.time()
    except LogFullError as error:
        raise connection.with_stuck_rank(error) from None
    except (SegmentError, FileNotFoundError) as error:
        if isinstance(error, LayoutError) or connection.status.live:
            raise
        ended = Fate(FateState.REFUSED, reason=connection.why_ended())
        return Request(connection, kind, ident, 0, sender, time.time(), ended, mail=mail)
    fate: Fate | None = None
    if verdict == Verdict.REFUSED_ENDED:
        fate = Fate(FateState.REFUSED, reason=connection.why_ended())
    elif verdict == Verdict.REFUSED_STOPPING:
        fate = Fate(FateState.REFUSED, reason="the run is stopping")
    elif verdict == Verdict.NOTHING_TO_DO and seq:
        # The run stops already, so this request has the fate of the first stop, unless one of both is a reset.
        entry = _core.read_entry(connection.control, seq)
        if entry is not None and (entry["mail"] == RESET) != (mail == RESET):
            begun = "its reset" if entry["mail"] == RESET else "its stop"
            fate = Fate(FateState.REFUSED, reason=f"{begun} is under way, asked by {entry['sender']}")
        elif entry is not None:
            ident, sender, asked = entry["id"], entry["sender"], entry["asked"]
    elif verdict == Verdict.NOTHING_TO_DO:
        fate = Fate(FateState.APPLIED, step=connection.step, reason="nothing to do: it was not paused")
    request = Request(connection, kind, ident, seq, sender, asked, fate, mail=mail, ranks=ranks)
    if wait:
        request._wait(deadline)
    return request


def _ask_hosts(
    connection: Connection,
    kind: Kind,
    ident: int,
    sender: str,
    *,
    arg: int,
    duration: float,
    mail: str,
    ranks: "int | Literal['all']",
) -> Request:
    """Leave a request for the relay of this host, which hands it to the job's other hosts."""
    from spark_fast.client import multihost  # only a job of several hosts loads it, which takes some time

    fate: Fate | None
    if not any(slot["alive"] and slot["state"] < WorkerState.STOPPED for slot in connection.slots()):
        fate = Fate(FateState.REFUSED, reason=connection.why_ended())
    else:
        fate = multihost.ask(connection.folder, kind, ident, sender, arg=arg, duration=duration, mail=mail, ranks=ranks)
    return Request(connection, kind, ident, REMOTE, sender, time.time(), fate, mail=mail, ranks=ranks)
