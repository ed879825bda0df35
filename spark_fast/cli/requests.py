"""Sends a request to a run, waits for its fate, and prints it."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spark_fast.cli import ranks
from spark_fast.cli.exits import Exit, leave, say
from spark_fast.cli.formatting import latency
from spark_fast.client import FateState, Request, Run, SparkStatus, SparkTimeoutError
from spark_fast.client.deadline import Deadline
from spark_fast.plain_text import printable
from spark_fast.runfiles.json_text import to_json
from spark_fast.status import ENDED, monotonic, slowest

__all__ = ["Patience", "ask", "because", "request_dict"]

_SILENT = 2.0
"""Seconds after which a user who waits at a terminal reads what the command waits for."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for the fate of a request.

    Attributes:
        wait: whether to wait at all.
        timeout: seconds at most, from the start of the command; None for as long as it takes.
        began: when that was, on the monotonic clock.
    """

    wait: bool
    timeout: float | None
    began: float

    @property
    def deadline(self) -> Deadline:
        """The time at which the waiting ends."""
        return Deadline(self.timeout, began=self.began)

    def left(self) -> float | None:
        """Return the seconds that are left, 0 or more; None if there is no limit."""
        return self.deadline.left()


def request_dict(run: Run, request: Request) -> dict[str, Any]:
    """Return a request for JSON."""
    fate = request.fate
    return {
        "id": request.id,
        "kind": request.kind,
        **({"version": request.version} if request.kind == "reload" else {}),
        **({"ranks": request.ranks} if request.kind == "call" else {}),
        **({"result": request.result} if request.kind == "call" else {}),
        **({"output": request.output} if request.kind in ("call", "set") else {}),
        "run": run.id,
        "sender": request.sender,
        "asked": request.asked,
        "fate": {
            "state": str(fate.state),
            "step": fate.step,
            "by": fate.by,
            "reason": fate.reason,
            "warnings": list(fate.warnings),
        },
    }


def ask(
    run: Run,
    make: Callable[[], Request],
    patience: Patience,
    *,
    as_json: bool,
    what: str = "",
    grace: float | None = None,
) -> None:
    """Make a request, wait for its fate as long as `patience` says, and print it.

    make: sends it, without waiting.
    what: of a value that is set: its name and what it is set to.
    grace: of a stop: seconds that the processes have to end by themselves; None for as long as they take.

    Raises typer.Exit with a status of `Exit`, unless the request was applied, or only asked for.
    """
    began = monotonic()
    try:
        request = make()
    except KeyboardInterrupt:
        unknown = f"interrupted while asking run {run.id}; `spark-fast status {run.id}` shows whether it was asked"
        raise leave(Exit.INTERRUPTED, unknown) from None
    try:
        if patience.wait:
            _wait_for_fate(run, request, patience, grace)
        took = monotonic() - began
        if patience.wait and not as_json and request.fate.state is FateState.APPLIED:
            print(_done(run, request, took, what), flush=True)
            for warning in request.fate.warnings:
                say(f"warning: {warning}")
        if (
            patience.wait
            and request.kind == "stop"
            and (
                request.fate.state is FateState.APPLIED or (grace is not None and request.fate.state is FateState.ASKED)
            )
        ):
            _wait_for_end(run, patience, began, grace)
    except SparkTimeoutError as error:
        why = _late(run, request, patience) if patience.left() == 0.0 else str(error)
        raise leave(Exit.TIMED_OUT, why) from None
    except KeyboardInterrupt:
        raise leave(
            Exit.INTERRUPTED, f"no longer waiting; the {request.kind} of run {run.id} stands: {request.fate}"
        ) from None
    finally:
        if as_json:
            print(to_json(request_dict(run, request), indent=2), flush=True)
    over = grace if grace is not None and monotonic() - began >= grace else None
    _judge(run, request, as_json=as_json, waited=patience.wait, grace=over)


def _wait_for_fate(run: Run, request: Request, patience: Patience, grace: float | None) -> None:
    if grace is None:
        _wait(run, request.kind, request.wait, patience)
        return
    try:  # a run that hangs does not come to the stop, and its processes are ended all the same
        _wait(run, request.kind, request.wait, Patience(True, min(grace, _or_forever(patience.left())), monotonic()))
    except SparkTimeoutError:
        if patience.left() == 0.0:
            raise


def _wait_for_end(run: Run, patience: Patience, began: float, grace: float | None) -> None:
    if grace is not None:
        from spark_fast.client.ending import end_after  # only `stop --grace` pays for it

        for name in end_after(run._connection, max(0.0, began + grace - monotonic()), timeout=patience.left()):
            say(f"run {run.id} did not end in {grace:g} s: it got {name}")
        return
    reported = False

    def wait(timeout: float | None) -> None:
        nonlocal reported
        end = None if timeout is None else monotonic() + timeout
        run._connection.wait_until(lambda: run.status in ENDED or run.swallowed_stop is not None, timeout)
        if run.swallowed_stop is not None and not reported:
            reported = True
            say(f"{_went_on(run)}; waiting for the end of its process (Ctrl-C ends the waiting only)")
        run.wait(ENDED, None if end is None else max(0.0, end - monotonic()))

    _wait(run, "the end of its process", wait, patience)


def _went_on(run: Run) -> str:
    return (
        f"run {run.id} raised SparkStopError at step {run.swallowed_stop}, and the loop went on: it is at step "
        f"{run.step}"
    )


def _or_forever(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds


def _wait(run: Run, what: str, wait: Callable[[float | None], object], patience: Patience) -> None:
    left = patience.left()
    if sys.stderr.isatty() and (left is None or left > _SILENT):
        try:
            wait(_SILENT)
            return
        except SparkTimeoutError:
            now = f"run {run.id} is {run.status} at step {run.step}{because(run, 'overdue')}"
            say(f"{now}; waiting for {what} (Ctrl-C ends the waiting only)")
            left = patience.left()
    wait(left)


def _late(run: Run, request: Request, patience: Patience) -> str:
    now = f"after {patience.timeout:g} s run {run.id} is {run.status} at step {run.step}{because(run, 'overdue')}"
    if request.fate.state is FateState.APPLIED and request.kind == "stop":
        if run.swallowed_stop is not None:
            return f"after {patience.timeout:g} s: {_went_on(run)}; 'spark-fast stop {run.id} --grace 10s' ends it"
        return f"{now}: it raised SparkStopError at step {request.fate.step}, and its process has not ended yet"
    if request.fate.running:
        return f"{now}; the function has begun and not ended: {request.fate.reason}"
    undo = f"; 'spark-fast resume {run.id}' calls it off" if request.kind in ("pause", "advance") else ""
    return f"{now}; the {request.kind} stands{undo}"


def _done(run: Run, request: Request, took: float, what: str) -> str:
    fate = request.fate
    if fate.reason:
        return f"run {run.id}: {fate.reason}"
    if request.version is not None:
        return f"run {run.id} runs version {request.version} since step {fate.step} (after {latency(took)})"
    if what:
        return f"run {run.id} has {what} since step {fate.step} (after {latency(took)})"
    words = {
        "pause": "is paused",
        "resume": "goes on",
        "stop": "raised SparkStopError",
        "advance": "has advanced and is paused",
        "call": "has called it",
    }.get(request.kind, f"has applied the {request.kind}")
    return f"run {run.id} {words} at step {fate.step} (after {latency(took)})"


def _judge(run: Run, request: Request, *, as_json: bool, waited: bool, grace: float | None) -> None:
    """Print how the request ended, or exit with its status.

    grace: of a stop whose grace is over: how long it was, in seconds.
    """
    fate = request.fate
    what = f"{request.kind} of run {run.id}"
    if fate.state is FateState.ASKED:
        if not as_json:
            print(f"{what} is asked for; 'spark-fast status {run.id}' shows whether it was done")
        return
    if grace is not None and run.status is SparkStatus.LOST:
        why = f"it had not ended {grace:g} s after the stop, so it was killed; what it had not saved is lost"
        raise leave(Exit.LOST, f"run {run.id}: {why}")
    if fate.state is FateState.APPLIED:
        if not waited:
            if not as_json:
                print(f"{what}: {fate}")
        elif request.kind == "stop":
            _judge_end(run, as_json=as_json)
        return
    if fate.state is FateState.LOST:
        raise leave(Exit.LOST, f"{what} is lost: {fate.reason}; 'spark-fast status {run.id}' shows what is left")
    if fate.state is FateState.REFUSED and run.status is SparkStatus.LOST:
        hint = "" if run._connection.remote_ranks_may_live() else "; 'spark-fast gc' removes what it left"
        raise leave(Exit.LOST, f"{what} was refused: {fate.reason}{hint}")
    if fate.state is FateState.SUPERSEDED:
        raise leave(Exit.REFUSED, f"{what} was superseded by {_other(run, fate.by)}; run {run.id} is {run.status}")
    reason, _, more = fate.reason.partition("\n")
    raise leave(Exit.REFUSED, f"{what} {_past(fate.state)}{f': {reason}' if reason else ''}", more)


def _judge_end(run: Run, *, as_json: bool) -> None:
    status = run.status
    if status is SparkStatus.LOST:
        why = because(run, "lost") or ": its process died while it was stopping"
        raise leave(Exit.LOST, f"run {run.id} is lost{why}")
    if status is SparkStatus.FAILED:
        whose = because(run, "failed")
        error = run.error
        why = f": {printable(error.message)}" if error is not None else ""
        raise leave(
            Exit.REFUSED,
            f"run {run.id} has failed{whose}{why}; 'spark-fast status {run.id}' shows the traceback",
        )
    if not as_json:
        print(f"run {run.id} is {status} at step {run.step}")


def because(run: Run, trouble: str) -> str:
    """Return in brackets which ranks have a trouble, where there are several; for one overdue rank, for how long.

    If none is overdue, return which one is furthest behind: the others wait at the step of the request until it comes.
    """
    if not ranks.several(run):
        late = ranks.lateness(run) if trouble == "overdue" else ""
        return f" ({late})" if late else ""
    there = run.ranks
    words = ranks.concerns(there, run.steps_per_second, time.time(), only=[trouble])
    if not words and trouble == "overdue" and (last := slowest(there)):
        words = [last]
    return f" ({'; '.join(words)})" if words else ""


def _past(state: FateState) -> str:
    return str(state) if state is FateState.FAILED else f"was {state}"


def _other(run: Run, ident: str | None) -> str:
    """Return what superseded a request, and its sender, as long as the log holds that entry."""
    for request in run.requests:
        if request.id == ident:
            return f"a later {request.kind} ({ident}, by {request.sender})"
    return f"a later request ({ident})" if ident is not None else "a later request"
