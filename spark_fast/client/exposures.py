"""Setting the values that a run exposes, calling its functions, and watching its values."""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from spark_fast.client.board import Board, Change, Value
from spark_fast.client.connection import Connection
from spark_fast.client.deadline import Deadline
from spark_fast.client.rate_limit import RATE, TokenBucket
from spark_fast.client.request import Request, unsent
from spark_fast.client.send import ask
from spark_fast.client.starting import await_exposed, await_rank, is_before_first_checkpoint
from spark_fast.errors import FolderRefusedError, SegmentError, SparkCallError, SparkTimeoutError, StoreError
from spark_fast.request import Fate, FateState, Kind
from spark_fast.runfiles import mailbox, run_folder
from spark_fast.runfiles.schema import UnfitError, check_arguments, fit, unknown
from spark_fast.status import SparkStatus, monotonic, ranges

__all__ = ["call", "pairs_of", "request_call", "set_values", "unfit", "watch"]

_TOUCH = 1.0
"""Seconds between two notes to the worker that a controller watches its values."""
_RUNS = 256
"""How many runs this process keeps a bucket for; full buckets beyond that are dropped."""
_buckets: dict[str, TokenBucket] = {}
"""How much more this process may ask of each run, by the run's folder."""
_lock = threading.RLock()
"""Guards _buckets."""


def unfit(board: Board, name: str, value: object) -> str:
    """Return why the run would refuse a value; empty if the value fits, or if only the worker can decide."""
    limits = board.exposures().values
    if name not in limits:
        return "" if is_before_first_checkpoint(board.connection) else unknown(name, "value", list(limits))
    try:
        fit(name, limits[name], value)
    except UnfitError as error:
        return str(error)
    return ""


def pairs_of(args: Sequence[Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the values that Run.set() is to set, by name, and whether its caller gave a single one.

    Raises TypeError if the arguments are none of the forms that Run.set() takes.
    """
    if len(args) == 2 and isinstance(args[0], str):
        positional, single = {args[0]: args[1]}, not values
    elif len(args) == 1 and isinstance(args[0], Mapping):
        positional, single = dict(args[0]), False
    elif not args and values:
        positional, single = {}, len(values) == 1
    else:
        raise TypeError("say what to set: set('lr', 0.1), set(lr=0.1) or set({'lr': 0.1})")
    if twice := sorted(positional.keys() & values.keys()):
        raise TypeError(f"{twice[0]} is given twice")
    return {**positional, **values}, single


def set_values(board: Board, pairs: Mapping[str, Any], *, wait: bool, timeout: float | None) -> dict[str, Request]:
    """See Run.set(). Returns the one request that sets all values, under the name of each."""
    deadline = Deadline(timeout)
    several = len(pairs) > 1
    if wait:
        await_exposed(board, pairs.keys(), "value", deadline)
    fault = next(((name, reason) for name, value in pairs.items() if (reason := unfit(board, name, value))), None)
    if fault is not None:
        reason = f"{fault[1]}; none of the values is set" if several else fault[1]
        request = _refused(board.connection, Kind.SET, reason, fault[0])
    elif several:
        request = _send(board.connection, Kind.SET, {"values": dict(pairs)}, ", ".join(pairs), deadline)
    else:
        ((name, value),) = pairs.items()
        request = _send(board.connection, Kind.SET, {"name": name, "value": value}, name, deadline)
    if wait:
        request._wait(deadline)
        request.raise_for_fate()
    return dict.fromkeys(pairs, request)


def request_call(
    board: Board,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    wait: bool,
    timeout: float | None,
    ranks: "int | Literal['all'] | None",
) -> Request:
    """See Run.request_call()."""
    deadline = Deadline(timeout)
    run = board.connection
    functions = (await_exposed(board, [name], "function", deadline) if wait else board.exposures()).functions
    try:
        if name in functions:
            check_arguments(name, functions[name], args, kwargs)
            ranks = functions[name].ranks if ranks is None else ranks
        elif not is_before_first_checkpoint(run):
            raise UnfitError(unknown(name, "function", list(functions)))
        elif ranks is None and run.info.world_size > 1:
            raise UnfitError(f"the run is starting, and has not said yet which ranks call {name}(): name them, or wait")
        ranks = 0 if ranks is None else ranks
        if wait and isinstance(ranks, int):
            await_rank(run, ranks, deadline)
        _check_rank(run, ranks)
    except UnfitError as error:
        return _refused(run, Kind.CALL, str(error), name)
    content = {"name": name, "args": list(args), "kwargs": dict(kwargs)}
    request = _send(run, Kind.CALL, content, name, deadline, ranks=ranks)
    if wait:
        request._wait(deadline)
    return request


def _check_rank(run: Connection, ranks: "int | Literal['all']") -> None:
    if ranks == "all":
        return
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 0:
        raise ValueError(f'ranks is the number of a rank, or "all": {ranks!r}')
    # Only the relay of a host that is not heard knows whether its rank lives.
    there = [rank.rank for rank in run.ranks if rank.status.live or rank.status is SparkStatus.UNHEARD]
    if there and ranks not in there:
        raise UnfitError(f"rank {ranks} is not there; there {'are' if len(there) > 1 else 'is'} {ranges(there)}")


def call(
    board: Board,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    timeout: float | None,
    ranks: "int | Literal['all'] | None",
) -> Any:
    """See Run.call()."""
    request = request_call(board, name, args, kwargs, wait=True, timeout=timeout, ranks=ranks)
    fate = request.raise_for_fate().fate
    if fate.state is not FateState.APPLIED:
        by = f"request {fate.by}" if fate.by is not None else "a later request"
        raise SparkCallError(name, board.connection.id, str(fate.state), f"{by} took its place", request=request)
    return request.result


def _refused(run: Connection, kind: Kind, reason: str, name: str) -> Request:
    reason = reason if run.status.live else run.why_ended()
    return unsent(run, kind, Fate(FateState.REFUSED, reason=reason), name=name)


def _send(
    run: Connection,
    kind: Kind,
    content: dict[str, Any],
    name: str,
    deadline: Deadline,
    *,
    ranks: "int | Literal['all']" = "all",
) -> Request:
    """Send a request that carries mail, without waiting for its fate."""
    ident = run_folder.new_id()
    _take_turn(run, deadline)
    try:
        mail = mailbox.send_mail(run.folder, ident, content)
    except ValueError as error:
        return _refused(run, kind, f"it can't be sent: {error}", name)
    except FileNotFoundError:
        return _refused(run, kind, run.why_ended(), name)
    except OSError as error:  # a full disk, say
        raise StoreError(str(error.filename or run.folder), f"mail can't be left: {error.strerror}") from None
    sent = False
    try:
        request = ask(run, kind, False, deadline, mail=mail, ident=ident, ranks=ranks)
        request.name = name
        sent = request.fate.state is not FateState.REFUSED or request.fate.step is not None
    finally:
        if not sent and mail == mailbox.mail_name(ident):
            mailbox.discard_mail(run.folder, ident)
    if not mailbox.stands_in_log(mail):
        with suppress(SegmentError):  # without the log, no mail is known to be stale
            mailbox.discard_stale_mail(run.folder, lambda: {entry["mail"] for entry in run.entries()})
    return request


def _take_turn(run: Connection, deadline: Deadline) -> None:
    """Wait while this process has asked the run for more than its share.

    Raises SparkTimeoutError if its turn comes too late; nothing was asked then.
    """
    folder = str(run.folder)
    with _lock:
        bucket = _buckets.get(folder)
        if bucket is None:
            if len(_buckets) >= _RUNS:
                for known in [known for known, each in _buckets.items() if each.full]:
                    del _buckets[known]
            bucket = _buckets[folder] = TokenBucket()
        wait = bucket.wait()
        limit = deadline.left()
        left = wait if limit is None else limit
        if wait <= left:
            bucket.take()
    if wait > 0:
        time.sleep(min(wait, left))
    if wait > left:
        raise SparkTimeoutError(
            f"this process has set values and called functions of run {run.id} more than {RATE:g} times a second, and "
            f"its next turn comes too late: nothing was asked"
        )


def _forget_after_fork() -> None:
    """Start with full buckets in a forked child, which is another sender."""
    global _lock
    _lock = threading.RLock()
    _buckets.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


# --- watching ---


def watch(board: Board, interval: float) -> Iterator[Change]:
    """See Run.watch()."""
    seen: dict[str, Value] = {}
    version = -1
    touched = 0.0
    while True:
        live = board.connection.status.live
        now = monotonic()
        if now - touched >= _TOUCH:
            touched = now
            board.touch()
        at = board.version()
        if at != version:
            version = at
            try:
                found = board.values()
            except FolderRefusedError:
                return
            for name, value in found.items():
                before = seen.get(name)
                if before is None or (before.value, before.step, before.time) != (value.value, value.step, value.time):
                    yield Change(name, value.value, value.step, value.time)
            seen = found
        if not live:
            return
        time.sleep(interval)  # at least so long, so that a value that changes often is read once in it
