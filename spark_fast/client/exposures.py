"""What a run exposes, read and asked for from outside: see Run.values, Run.set() and those beside them."""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from spark_fast import _core
from spark_fast.client.deadline import Deadline
from spark_fast.client.rate_limit import RATE, Share
from spark_fast.client.starting import await_exposed, await_rank, is_before_first_checkpoint
from spark_fast.errors import FolderRefusedError, SegmentError, SparkCallError, SparkTimeoutError, StoreError
from spark_fast.request import Fate, FateState, Kind, sender_name
from spark_fast.runfiles import mailbox, run_folder, schema
from spark_fast.runfiles.descriptors import open_own
from spark_fast.runfiles.schema import Exposures, Limits, UnfitError, check_arguments, fit, unknown
from spark_fast.status import SparkStatus, monotonic, ranges

if TYPE_CHECKING:
    from spark_fast.client.run import Request, Run

__all__ = [
    "Board",
    "Change",
    "History",
    "Value",
    "call",
    "pairs_of",
    "request_call",
    "set_values",
    "unfit",
    "watch",
]

_TOUCH = 1.0
"""Seconds between two signs that somebody watches."""
_RUNS = 256
_shares: dict[str, Share] = {}
"""What this process may ask of each run, by its folder."""
_turns = threading.RLock()


@dataclass(frozen=True)
class Value:
    """An exposed value.

    Attributes:
        name: its name.
        value: what it was when it was read.
        type: `number`, `integer`, `boolean`, `text` or `json`.
        step: the step at which it was assigned last; 0 before the first.
        time: when that was, in seconds since the epoch; 0 if it never was.
        readonly: whether only the script changes it.
        min, max: its limits, None if there is none.
        step_size: by how much an input field changes it, None where nobody said.
        choices: all that it may be, None for anything of its type.
        unit, doc: of it, for people; empty where nobody said.
    """

    name: str
    value: Any
    type: str
    step: int
    time: float
    readonly: bool = False
    min: float | None = None
    max: float | None = None
    step_size: float | None = None
    choices: list[Any] | None = None
    unit: str = ""
    doc: str = ""


@dataclass(frozen=True)
class Change:
    """A value that has changed, as Run.watch() yields it: its name, what it is now, and the step and the time at which
    it was assigned."""

    name: str
    value: Any
    step: int
    time: float


@dataclass(frozen=True)
class History:
    """The numbers that a value has been, over the whole run.

    Each entry stands for as many assignments as it takes to cover the run with some thousand entries at most; of the
    newest ones only the last is here. A value that was not finite is left out of low, high and mean; where there was
    nothing else, these are NaN.

    Attributes:
        steps, times: of the first assignment of each entry; seconds since the epoch.
        last: the value at its end.
        low, high, mean: of its values.
    """

    steps: list[int]
    times: list[float]
    last: list[float]
    low: list[float]
    high: list[float]
    mean: list[float]

    def __len__(self) -> int:
        return len(self.steps)


class _File:
    """A board that is open for as long as somebody has it: another thread may have found a newer one meanwhile."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Board:
    """What a run exposes, as far as it has been read; the description is read again only when it was written anew.

    Several threads may use it.
    """

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._file: _File | None = None
        self._known: tuple[_File | None, int, Exposures] = (None, -1, Exposures())
        """A description, and of what board and how new it is at least."""

    def _open(self) -> _File:
        """The board that is in the folder; where that is gone, the one that was."""
        known = self._file
        ended = os.fstat(self._run._control).st_nlink == 0  # another run may have its name by now
        if known is not None and (ended or os.fstat(known.fd).st_nlink > 0):
            return known
        path = self._run.folder / schema.BOARD
        try:
            found = _File(open_own(path, os.O_RDWR))
        except FileNotFoundError:
            if known is None:
                raise
            return known
        except FolderRefusedError as error:
            raise StoreError(str(path), f"it is no file of yours: {error.found}") from None
        self._file = found  # the one before it is of a process that is gone, and has come again
        return found

    @contextmanager
    def _reading(self) -> Iterator[int]:
        """The board, open. Raises SegmentError or StoreError with its path; FileNotFoundError if there is none."""
        path = self._run.folder / schema.BOARD
        try:
            found = self._open()
            yield found.fd
        except FileNotFoundError:
            raise
        except SegmentError as error:
            raise type(error)(error.reason, str(path)) from None
        except OSError as error:
            raise StoreError(str(path), f"it can't be read: {error.strerror}") from None

    def exposures(self) -> Exposures:
        """What describes the values and functions. Raises StoreError, FolderRefusedError."""
        known = self._known
        found: _File | None = None
        try:
            found = self._open()
            described = _core.read_board(found.fd)[1]
        except (OSError, SegmentError, StoreError):
            described = -1  # none, or a damaged one: what can be called is told by the description alone
        if described < 0 or (found, described) != known[:2]:
            try:
                known = (found, described, schema.read(self._run.folder))
            except FileNotFoundError:  # with its run
                return known[2]
            self._known = known
        return known[2]

    def version(self) -> int:
        """Grows with each assignment, and whenever something is exposed."""
        try:
            found = self._open()
            _cells, described, changes = _core.read_board(found.fd)
        except (OSError, SegmentError, StoreError):
            return 0
        return described + changes

    def touch(self) -> None:
        """Says that somebody looks at the values: those on an accelerator are copied for some seconds more."""
        try:
            found = self._open()
            _core.touch_board(found.fd)
        except (OSError, SegmentError, StoreError):  # what is wrong with it is said by those who read it
            return

    def values(self) -> dict[str, Value]:
        """All values, now."""
        exposures = self.exposures()
        try:
            with self._reading() as fd:
                cells, _described, _changes = _core.read_board(fd)
                found = _core.read_cells(fd, cells)
        except FileNotFoundError:
            return {}
        return {name: self._value(name, limits, found) for name, limits in exposures.values.items()}

    def _value(self, name: str, limits: Limits, found: Sequence[tuple[Any, int, float]]) -> Value:
        raw, step, when = found[limits.cell] if 0 <= limits.cell < len(found) else (None, 0, 0.0)
        if isinstance(raw, bytes):
            try:
                raw = json.loads(raw.decode("utf-8", "surrogatepass"))
            except (ValueError, RecursionError):
                raise StoreError(str(self._run.folder / schema.BOARD), f"the value {name!r} is damaged") from None
        elif limits.type == "number" and type(raw) is int:
            raw = float(raw)
        return Value(
            name,
            raw,
            limits.type,
            step,
            when,
            limits.readonly,
            limits.min,
            limits.max,
            limits.step,
            limits.choices,
            limits.unit,
            limits.doc,
        )

    def history(self, name: str) -> History:
        """Raises LookupError if no value has this name."""
        exposed_values = self.exposures().values
        limits = exposed_values.get(name)
        if limits is None:
            raise LookupError(unknown(name, "value", list(exposed_values)))
        nothing = History([], [], [], [], [], [])
        try:
            with self._reading() as fd:
                cells, _described, _changes = _core.read_board(fd)
                if not 0 <= limits.cell < cells:
                    return nothing
                found = History(*_core.read_history(fd, limits.cell))
                now, step, when = _core.read_cells(fd, limits.cell + 1)[limits.cell]
        except FileNotFoundError:
            return nothing
        if isinstance(now, (int, float)) and (not found.steps or step > found.steps[-1]):
            # The newest assignments have not filled an entry yet.
            number = float(now)
            finite = number if number - number == 0 else float("nan")
            rows = (found.steps, found.times, found.last, found.low, found.high, found.mean)
            for row, entry in zip(rows, (step, when, number, finite, finite, finite), strict=True):
                row.append(entry)  # type: ignore[attr-defined]
        return found


# --- requests ---


def unfit(run: "Run", name: str, value: object) -> str:
    """Why the run would refuse a value; empty if it fits, and where only the worker can tell."""
    limits = run._board().exposures().values
    if name not in limits:
        return "" if is_before_first_checkpoint(run) else unknown(name, "value", list(limits))
    try:
        fit(name, limits[name], value)
    except UnfitError as error:
        return str(error)
    return ""


def pairs_of(args: Sequence[Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return what Run.set() is to set, by name, and whether it was given as a single value.

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


def set_values(run: "Run", pairs: Mapping[str, Any], *, wait: bool, timeout: float | None) -> "dict[str, Request]":
    """See Run.set(). Returns the one request that sets all values, under the name of each."""
    deadline = Deadline(timeout)
    several = len(pairs) > 1
    if wait:
        await_exposed(run, pairs.keys(), "value", deadline)
    fault = next(((name, reason) for name, value in pairs.items() if (reason := unfit(run, name, value))), None)
    if fault is not None:
        request = _refused(run, Kind.SET, f"{fault[1]}; none of the values is set" if several else fault[1], fault[0])
    elif several:
        request = _send(run, Kind.SET, {"values": dict(pairs)}, ", ".join(pairs), deadline)
    else:
        ((name, value),) = pairs.items()
        request = _send(run, Kind.SET, {"name": name, "value": value}, name, deadline)
    if wait:
        request._wait(deadline)
        request.raise_for_fate()
    return dict.fromkeys(pairs, request)


def request_call(
    run: "Run",
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    wait: bool,
    timeout: float | None,
    ranks: "int | Literal['all'] | None",
) -> "Request":
    """See Run.request_call()."""
    deadline = Deadline(timeout)
    board = run._board()
    functions = (await_exposed(run, [name], "function", deadline) if wait else board.exposures()).functions
    try:
        if name in functions:
            check_arguments(name, functions[name], args, kwargs)
            ranks = functions[name].ranks if ranks is None else ranks
        elif not is_before_first_checkpoint(run):
            raise UnfitError(unknown(name, "function", list(functions)))
        elif ranks is None and run.world_size > 1:
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


def _check_rank(run: "Run", ranks: "int | Literal['all']") -> None:
    if ranks == "all":
        return
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 0:
        raise ValueError(f'ranks is the number of a rank, or "all": {ranks!r}')
    # Of a host that is not heard its own relay says whether the rank lives.
    there = [rank.rank for rank in run.ranks if rank.status.live or rank.status is SparkStatus.UNHEARD]
    if there and ranks not in there:
        raise UnfitError(f"rank {ranks} is not there; there {'are' if len(there) > 1 else 'is'} {ranges(there)}")


def call(
    run: "Run",
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    timeout: float | None,
    ranks: "int | Literal['all'] | None",
) -> Any:
    """See Run.call()."""
    request = request_call(run, name, args, kwargs, wait=True, timeout=timeout, ranks=ranks)
    fate = request.raise_for_fate().fate
    if fate.state is not FateState.APPLIED:
        by = f"request {fate.by}" if fate.by is not None else "a later request"
        raise SparkCallError(name, run.id, str(fate.state), f"{by} took its place", request=request)
    return request.result


def _refused(run: "Run", kind: Kind, reason: str, name: str) -> "Request":
    from spark_fast.client.run import Request

    if not run.status.live:
        reason = run._why_ended()
    fate = Fate(FateState.REFUSED, reason=reason)
    return Request(run, kind, run_folder.new_id(), 0, sender_name(), time.time(), fate, name=name)


def _send(
    run: "Run",
    kind: Kind,
    content: dict[str, Any],
    name: str,
    deadline: Deadline,
    *,
    ranks: "int | Literal['all']" = "all",
) -> "Request":
    """Send a request that carries mail, without waiting for its fate."""
    ident = run_folder.new_id()
    _take_turn(run, deadline)
    try:
        mail = mailbox.send_mail(run.folder, ident, content)
    except ValueError as error:
        return _refused(run, kind, f"it can't be sent: {error}", name)
    except FileNotFoundError:
        return _refused(run, kind, run._why_ended(), name)
    except OSError as error:  # a full disk, say
        raise StoreError(str(error.filename or run.folder), f"mail can't be left: {error.strerror}") from None
    sent = False
    try:
        request = run._ask(kind, False, deadline, mail=mail, ident=ident, ranks=ranks)
        request.name = name
        sent = request.fate.state is not FateState.REFUSED or request.fate.step is not None
    finally:
        if not sent and mail == mailbox.mail_name(ident):
            mailbox.discard_mail(run.folder, ident)
    if not mailbox.stands_in_log(mail):
        with suppress(SegmentError):  # then it is not known what was asked
            mailbox.discard_stale_mail(run.folder, lambda: {entry["mail"] for entry in run._entries()})
    return request


def _take_turn(run: "Run", deadline: Deadline) -> None:
    """Waits while this process has asked the run for more than its share. Raises SparkTimeoutError if its turn comes
    too late: nothing was asked then."""
    place = str(run.folder)
    with _turns:
        share = _shares.get(place)
        if share is None:
            if len(_shares) >= _RUNS:
                for known in [known for known, each in _shares.items() if each.whole]:
                    del _shares[known]
            share = _shares[place] = Share()
        wait = share.wait()
        limit = deadline.left()
        left = wait if limit is None else limit
        if wait <= left:
            share.take()
    if wait > 0:
        time.sleep(min(wait, left))
    if wait > left:
        raise SparkTimeoutError(
            f"this process has set values and called functions of run {run.id} more than {RATE:g} times a second, and "
            f"its next turn comes too late: nothing was asked"
        )


def _forget_after_fork() -> None:
    """In a forked child, which is a sender of its own."""
    global _turns
    _turns = threading.RLock()
    _shares.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


# --- watching ---


def watch(run: "Run", interval: float) -> Iterator[Change]:
    """See Run.watch()."""
    board = run._board()
    seen: dict[str, Value] = {}
    version = -1
    touched = 0.0
    while True:
        live = run.status.live
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
        time.sleep(interval)
