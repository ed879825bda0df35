"""A run as its controllers see it."""

import math
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from spark_fast import _core, names, run_folder
from spark_fast._core import Segment
from spark_fast.client.deadline import Deadline
from spark_fast.client.look import Look, status_of_ranks, step_of_ranks
from spark_fast.descriptors import is_short
from spark_fast.durations import Duration, seconds_of
from spark_fast.errors import (
    AmbiguousRunError,
    LayoutError,
    LogFullError,
    NoSuchRunError,
    SegmentError,
    SparkCallError,
    SparkError,
    SparkRequestError,
    SparkSetError,
    SparkTimeoutError,
)
from spark_fast.homes import Home, opened_homes
from spark_fast.request import (
    RESET,
    UNDECIDED,
    Fate,
    FateState,
    Kind,
    Verdict,
    fate_of,
    format_id,
    sender_name,
    version_of,
)
from spark_fast.status import (
    ENDED,
    Progress,
    Rank,
    SparkStatus,
    WorkerState,
    monotonic,
    slowest,
    trouble_of,
)

if TYPE_CHECKING:
    from spark_fast.client.exposures import Board, Change, History, Value
    from spark_fast.code_versions import Version
    from spark_fast.exposed import Function
    from spark_fast.mailbox import Reply
    from spark_fast.runfiles.run_error import RunError

__all__ = ["Rank", "Request", "Run", "attach", "find", "request_hot_reload", "runs"]

_LOOK = 0.1
"""Seconds after which a waiter looks whether the worker still lives. What a worker publishes wakes it at once."""
_TURN = 5.0
"""Seconds to wait for other senders, each of which takes some 20 µs."""

_ENDED_NAMED = 3
"""How many of the runs that have ended an error names, where none is live."""

_WITH_ERROR = (SparkStatus.PAUSED, SparkStatus.PAUSING, SparkStatus.STOPPING, SparkStatus.FAILED, SparkStatus.LOST)

_ERRORS = "errors"
"""runfiles.run_error.FOLDER, which takes a millisecond to import: a resume is not to wait for that."""

_KINDS = {int(kind): kind for kind in Kind}

_COUNT_MAX = (1 << 63) - 1
"""The highest step that can be asked for."""


def _count(given: int, what: str) -> int:
    """Return a whole number of steps. Raises TypeError for any other type, ValueError if it is out of range."""
    count = operator.index(given)
    if not 1 <= count <= _COUNT_MAX:
        raise ValueError(f"{what} is 1 or more, and at most {_COUNT_MAX}: {given}")
    return count


class Request:
    """One request to a run.

    Attributes:
        id: what names it, in the log, in the exception that it raises and in what supersedes it.
        kind: `pause`, `resume`, `stop`, `reload`, `advance`, `set` or `call`.
        sender: who asked, for people.
        asked: when, in seconds since the epoch.
        version: of a reload: the number of the code version that it brings; else None.
        ranks: which rank was asked, or `all`.
        name: of a value that this process set or a function that it called, of several values all names; empty for all
            else.
    """

    def __init__(
        self,
        run: "Run",
        kind: Kind,
        ident: int,
        seq: int,
        sender: str,
        asked: float,
        fate: Fate | None = None,
        *,
        mail: str = "",
        ranks: "int | Literal['all']" = "all",
        name: str = "",
    ) -> None:
        self._run = run
        self._ident = ident
        self._seq = seq
        self._fate = fate
        self.kind = kind.name.lower()
        self.id = format_id(ident)
        self.sender = sender
        self.asked = asked
        self.version = version_of(mail) if kind is Kind.RELOAD else None
        self.ranks = ranks
        self.name = name
        self._replies: Mapping[int | None, Reply] | None = None

    @property
    def fate(self) -> Fate:
        """What became of it, now."""
        if self._fate is None:
            found = self._run._fate(self._seq, self._ident)
            if not found.final:
                return found
            self._fate = found
        return self._fate

    @property
    def result(self) -> Any:
        """Of a call that was applied: what the function returned; of one that all ranks were to do, a dict of that by
        rank. None before, and of all else."""
        replies = self._answered()
        if self.ranks == "all" and self.fate.final:
            return {rank or 0: reply.result for rank, reply in replies.items()}
        return next((reply.result for reply in replies.values()), None)

    @property
    def output(self) -> str:
        """What was printed while a function was called or a value was set, rank by rank. Empty before, and of all
        else."""
        return "".join(reply.output for reply in self._answered().values())

    def _answered(self) -> "Mapping[int | None, Reply]":
        """The replies by rank; that of a run of one rank under None."""
        if self._replies is None and self.kind in ("set", "call") and self._seq and self.fate.final:
            from spark_fast.mailbox import read_replies, read_reply

            alone = read_reply(self._run.folder, self._ident)
            if alone is not None:
                self._replies = {None: alone}
            else:
                self._replies = dict(read_replies(self._run.folder, self._ident).items())
        return self._replies or {}

    def wait(self, timeout: Duration | None = None) -> Fate:
        """Wait until the fate is final and return it, whatever it is; `raise_for_fate()` tells a bad one by an error.

        timeout: seconds, or text such as "90s", to wait at most; None for as long as it takes.

        Raises SparkTimeoutError when the time is up; the request stands.
        """
        return self._wait(Deadline(seconds_of(timeout, "timeout")))

    def _wait(self, deadline: Deadline) -> Fate:
        """wait(), as a part of a longer wait."""
        left = deadline.left()
        if self._seq < 0 and not self.fate.final:
            from spark_fast.client import meeting

            meeting.wait(self._run.folder, self._ident, left)
            left = 0.0
        if not self._run._until(lambda: self.fate.final, left):
            fate = self.fate
            ranks = self._run.ranks
            status, late = status_of_ranks(ranks), slowest(ranks)
            ends, now = ("ended", fate.reason) if fate.running else ("taken effect", f"the run is {status}")
            raise SparkTimeoutError(
                f"{self.kind} of run {self._run.id} has not {ends} in {deadline.seconds or 0:g} s: {now}, at step "
                f"{step_of_ranks(ranks)}{f'; {late}' if late else ''}. The request stands.",
                self,
            )
        return self.fate

    def raise_for_fate(self) -> "Request":
        """Return the request, unless it did not take effect: its fate is `refused`, `failed`, `void` or `lost`.

        One that has no final fate yet, or that a later request superseded, is returned.

        Raises SparkSetError for a value, SparkCallError for a call, SparkRequestError, their base, for all else.
        """
        fate = self.fate
        if fate.state not in (FateState.REFUSED, FateState.FAILED, FateState.VOID, FateState.LOST):
            return self
        raise self._error(fate)

    def _error(self, fate: Fate) -> SparkRequestError:
        reason, _, trace = fate.reason.partition("\n")
        run, state = self._run.id, str(fate.state)
        if self.kind == "set":
            return SparkSetError(self.name, run, state, reason, trace, request=self)
        if self.kind == "call":
            return SparkCallError(self.name, run, state, reason, trace, self.output, request=self)
        return SparkRequestError(self.kind, run, state, reason, trace, request=self)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.id} of {self._run.id}: {self.fate}>"


class Run:
    """One run: a process, or the processes of one job, that passes checkpoints.

    Reading it costs some 20 µs and never disturbs the worker. Each attribute is read anew each time. Once the run's
    folder is gone, it reads as it was last seen, and `lost` if it had not ended by then. Any thread may use it. Get
    one with `attach()` or `runs()`.
    """

    def __init__(self, folder: Path, about: run_folder.About, control: int) -> None:
        self._folder = folder
        self._about = about
        self._control = control
        self._segment: Segment | None = None
        self._sample: tuple[float, int] | None = None
        self._speed: float | None = None
        self._exposed: Board | None = None
        self._idle_parent: Run | None = None
        """The run that this one was attached to by the name of, and that is to stop with it."""

    def __reduce__(self) -> tuple[object, ...]:
        # A copy, or one in another process, has a descriptor of its own.
        return find, (self.id,)

    def __del__(self) -> None:
        control = getattr(self, "_control", -1)
        if control >= 0:
            os.close(control)

    # --- what it is ---

    @property
    def id(self) -> str:
        """The run id."""
        return self._about.id

    @property
    def command(self) -> list[str]:
        """The command line of the worker."""
        return list(self._about.command)

    @property
    def started(self) -> float:
        """When it began, in seconds since the epoch."""
        return self._about.started

    @property
    def ended(self) -> float | None:
        """When its last rank ended, in seconds since the epoch; None while it is live, and where it did not say."""
        look = self._look()
        return None if look is None else look.ended()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._folder

    def _is_idle(self) -> bool:
        return self._about.world_size == 1 and self.step == 0 and self.status.live

    def _is_same_worker(self, other: "Run") -> bool:
        return (self._about.pid, self._about.started) == (other._about.pid, other._about.started)

    # --- what it does ---

    def _view(self) -> dict[str, Any]:
        return _core.read_view(self._control)

    def _slots(self) -> list[dict[str, Any]]:
        return [_core.read_slot(self._control, rank) for rank in range(self._view()["slot_count"])]

    def _entries(self) -> list[dict[str, Any]]:
        """What the log still holds, oldest first. Raises SegmentError."""
        tail = self._view()["tail"]
        first = max(1, tail - _core.LOG_CAPACITY + 1)
        found = (_core.read_entry(self._control, seq) for seq in range(first, tail + 1))
        return [entry for entry in found if entry is not None]

    def _look(self) -> Look | None:
        """What the control file says now; None if it is damaged or gone."""
        try:
            look = Look(self._control, self._peers)
            if len(look.slots) > 1 and (dead := look.unseen_deaths()):
                for slot in dead:
                    with suppress(SegmentError, OSError):  # it is as dead without the note
                        self._open_segment().note_lost(slot)
                look = Look(self._control, self._peers)
            return look
        except SegmentError:
            return None

    def _peers(self) -> list[Rank]:
        from spark_fast.client import meeting

        return meeting.peers(self._folder)

    def _why_ended(self) -> str:
        """Why a run that is not live refuses a request."""
        look = self._look()
        status = status_of_ranks(self._ranks_of(look))
        if look is None or not self._is_elsewhere():
            return f"the run has ended: it is {status}"
        from spark_fast.client import meeting

        return meeting.why_not_here(status, look.peers, self._about.world_size - len(look.slots))

    def _may_live_elsewhere(self) -> bool:
        """Whether ranks of other hosts live, or may live."""
        look = self._look()
        if look is None:
            return False
        from spark_fast.client import meeting

        return not meeting.have_ended(look.peers, self._about.world_size - len(look.slots))

    @property
    def ranks(self) -> list[Rank]:
        """The workers, one for each rank that has ever been there."""
        return self._ranks_of(self._look())

    def _ranks_of(self, look: Look | None) -> list[Rank]:
        if look is None:
            return [Rank(0, SparkStatus.LOST, 0, self._about.pid, self._about.host)]
        return look.ranks(self._about)

    @property
    def status(self) -> SparkStatus:
        """What the run is doing: what its living ranks are, where they agree; else what the first of them is on its way
        to. Of a run that has ended, `lost` or `failed` if one of its ranks is.
        """
        return status_of_ranks(self.ranks)

    @property
    def step(self) -> int:
        """Checkpoints passed, by the living rank that is furthest behind; of a run that has ended, by any of them."""
        return step_of_ranks(self.ranks)

    @property
    def steps_per_second(self) -> float | None:
        """The speed now; None while it is not running or can't be told.

        The first reading is the mean since the worker last began to run; later ones, by the same object, the mean
        between readings at least half a second apart.
        """
        return self._speed_of(self._look(), monotonic())

    def _speed_of(self, look: Look | None, now: float) -> float | None:
        mean = None if look is None else look.mean_speed(now)
        if look is None or mean is None:
            self._sample = self._speed = None
            return None
        slot = look.first()
        sample, speed = self._sample, self._speed  # another thread may be here too
        if sample is None or slot["step"] < sample[1] or slot["mark"] > sample[0]:
            sample, speed = (now, slot["step"]), None
        elif now - sample[0] >= 0.5 and slot["step"] > sample[1]:
            speed = (slot["step"] - sample[1]) / (now - sample[0])
            sample = now, slot["step"]
        self._sample, self._speed = sample, speed
        return speed if speed is not None else mean

    @property
    def in_first_step(self) -> float:
        """Seconds that it has spent in the first step since it began or was resumed; 0 if it is in a later one, or has
        several ranks."""
        look = self._look()
        return 0.0 if look is None else look.in_first_step(monotonic())

    @property
    def progress(self) -> Progress | None:
        """How far its `track()` loops are; None if it has none."""
        look = self._look()
        return None if look is None else look.progress(monotonic())

    @property
    def error(self) -> "RunError | None":
        """The exception that ended the run, or after which it is paused; None if there is none. Of several ranks, the
        one that failed first. Reads a file."""
        return self._error_of(self.status)

    def _error_of(self, status: SparkStatus) -> "RunError | None":
        if status not in _WITH_ERROR:
            return None  # that code runs again, and no other status tells of an error
        from spark_fast.runfiles import run_error

        return next(iter(run_error.read(self._folder)), None)

    @property
    def resumes(self) -> float | None:
        """When a timed pause ends by itself, in seconds since the epoch; None if it is in none."""
        look = self._look()
        return None if look is None else look.resumes()

    @property
    def stop_by(self) -> float | None:
        """When whoever asked for the stop ends the processes itself, a scheduler say, in seconds since the epoch; None
        if it is not stopping, or nobody said."""
        look = self._look()
        return None if look is None else look.stop_by()

    @property
    def stop_step(self) -> int | None:
        """The step at which SparkStopError was raised; None if it was not. The code that handles it may pass
        checkpoints too, so `step` may be higher."""
        look = self._look()
        return None if look is None else look.stop_step()

    @property
    def swallowed_stop(self) -> int | None:
        """`stop_step`, of a run that is known to have swallowed the stop: its loop came back to where it was raised.
        Else None."""
        look = self._look()
        return None if look is None else look.swallowed_stop()

    @property
    def world_size(self) -> int:
        """How many ranks its job has, on all hosts; some may not be there yet, or no more."""
        return self._about.world_size

    @property
    def local_world_size(self) -> int:
        """How many of its job's ranks are to be on this host."""
        look = self._look()
        return 1 if look is None else len(look.slots)

    @property
    def requests(self) -> list[Request]:
        """What the log still holds, oldest first: the last hundred requests or so, whoever asked."""
        try:
            return [
                Request(
                    self,
                    _KINDS[entry["kind"]],
                    entry["id"],
                    entry["seq"],
                    entry["sender"],
                    entry["asked"],
                    mail=entry["mail"],
                    ranks=entry["ranks"] - 1 if entry["ranks"] else "all",
                )
                for entry in self._entries()
                if entry["kind"] in _KINDS
            ]
        except SegmentError:
            return []

    @property
    def versions(self) -> "list[Version]":
        """The versions of its code, oldest first: each that a reload brought or was to bring. Empty if it was not
        started such that its code can be replaced.

        Raises StoreError if they can't be read.
        """
        from spark_fast.client import reloading

        return reloading.versions(self)

    @property
    def version(self) -> int | None:
        """The number of the version that runs; None where there are no versions. Raises StoreError."""
        from spark_fast.client import reloading

        return reloading.current(self)

    # --- what it exposes ---

    @property
    def values(self) -> "dict[str, Value]":
        """The exposed values, by name, as they are now. Costs some 10 µs and never disturbs the worker.

        Raises StoreError, FolderRefusedError or SegmentError if the run's files can't be used.
        """
        return self._board().values()

    @property
    def functions(self) -> "dict[str, Function]":
        """The functions that can be called, by name. As values."""
        return self._board().exposures().functions

    def history(self, name: str) -> "History":
        """What a number has been over the whole run, in a thousand entries at most; see History. Some 50 µs.

        Raises LookupError if no value has this name; as values.
        """
        return self._board().history(name)

    def watch(self, *, interval: Duration = 0.05) -> "Iterator[Change]":
        """Yields the exposed values, and then each that changes, until the run has ended. Of assignments that follow
        each other within `interval`, seconds or text such as "100ms", the last is seen. As values.
        """
        from spark_fast.client import exposures

        return exposures.watch(self, seconds_of(interval, "interval"))

    def board_version(self) -> int:
        """A number that grows with each assignment, and whenever something is exposed; 0 where nothing is. 5 µs."""
        return self._board().version()

    def touch(self) -> None:
        """Says that somebody looks at the values, for the next three seconds: tensors on an accelerator are copied only
        then. watch() does it."""
        self._board().touch()

    def _board(self) -> "Board":
        found = self._exposed  # another thread may take it away
        if found is None:
            from spark_fast.client.exposures import Board

            found = self._exposed = Board(self)
        return found

    def as_dict(self) -> dict[str, Any]:
        """All of the above, for JSON."""
        return self._as_dict(self._look(), monotonic())

    def _as_dict(self, look: Look | None, now: float) -> dict[str, Any]:
        ranks = self._ranks_of(look)
        progress = None if look is None else look.progress(now)
        speed = self._speed_of(look, now)
        status = status_of_ranks(ranks)
        error = self._error_of(status)
        return {
            "id": self.id,
            "status": str(status),
            "error": None if error is None else asdict(error),
            "step": step_of_ranks(ranks),
            "steps_per_second": speed,
            "progress": None
            if progress is None
            else {
                "loops": progress.loops,
                "fraction": progress.fraction,
                "seconds_left": progress.seconds_left,
            },
            "started": self.started,
            "ended": None if look is None else look.ended(),
            "command": self.command,
            "folder": str(self.folder),
            "resumes": None if look is None else look.resumes(),
            "stop_by": None if look is None else look.stop_by(),
            "swallowed_stop": None if look is None else look.swallowed_stop(),
            "world_size": self._about.world_size,
            "local_world_size": 1 if look is None else len(look.slots),
            "ranks": [
                {
                    "rank": rank.rank,
                    "status": str(rank.status),
                    "step": rank.step,
                    "pid": rank.pid,
                    "host": rank.host,
                    "since": rank.since,
                    "behind": rank.behind,
                    "overdue": float(int(rank.overdue)),
                    "trouble": trouble_of(rank, speed),
                }
                for rank in ranks
            ],
        }

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self.status} at step {self.step}>"

    # --- what can be asked of it ---

    def pause(
        self,
        *,
        wait: bool = True,
        timeout: Duration | None = None,
        at_step: int | None = None,
        resume_after: Duration | None = None,
    ) -> Request:
        """Ask the run to park at its next checkpoint.

        Args:
            wait: whether to wait until it is parked, or the request has another fate.
            timeout: seconds, or text such as "90s" or "1h30m", to wait at most; None for as long as it takes.
            at_step: the step to park at, instead of the next; the next all the same if it has passed. The pause is
                superseded by any later pause or resume.
            resume_after: seconds, or text, after which it goes on by itself.

        Returns the request: its `fate` is `applied`, or `superseded` by a later request. Without `wait` it may be any.
        Raises SparkRequestError, with the reason, if it waits and the request is refused, void or lost, because the run
        has ended, say; SparkTimeoutError when the time is up (the pause stands); SegmentError when the control file
        can't be used.
        """
        if at_step is not None:
            at_step = _count(at_step, "a step to park at")
        duration = seconds_of(resume_after, "resume_after") or 0.0
        if resume_after is not None and not 0 < duration < math.inf:
            raise ValueError(f"resume_after is a duration of more than 0: {resume_after!r}")
        return self._make(Kind.PAUSE, wait, timeout, arg=at_step or 0, duration=duration)

    def resume(self, *, wait: bool = True, timeout: Duration | None = None) -> Request:
        """Ask a paused run to go on, and call off a pause that was set for later. Nothing happens otherwise.

        As pause().
        """
        return self._make(Kind.RESUME, wait, timeout)

    def stop(self, *, wait: bool = True, timeout: Duration | None = None, grace: Duration | None = None) -> Request:
        """Ask the run to stop: its next checkpoint raises SparkStopError.

        Args:
            wait: whether to wait until it was raised. What the code then makes of it is another matter:
                `run.wait("stopped")` waits for the end of the process, `run.swallowed_stop` tells of a loop that went
                on.
            timeout: seconds to wait at most; None for as long as it takes.
            grace: seconds that the processes have to end. What lives then gets SIGTERM and, two seconds later, SIGKILL,
                on this host. With `wait`, waits for their end. Without, a supervisor does it, so `spark-fast run` is to
                have started the run.

        As pause(). With `grace`, raises SparkTimeoutError too if the run lives on, and SparkError if `wait` is False
        and no supervisor is there.
        """
        if grace is None:
            return self._make(Kind.STOP, wait, timeout)
        from spark_fast.client import ending

        seconds, limit = seconds_of(grace, "grace"), seconds_of(timeout, "timeout")
        request = ending.ask_stop(self, seconds, stays=wait, timeout=limit)
        if wait:
            request.raise_for_fate()
            ending.end_after(self, seconds, timeout=limit)
        return request

    def advance(self, steps: int, *, wait: bool = True, timeout: Duration | None = None) -> Request:
        """Ask the run to run `steps` more steps and then to park. With `wait`, wait until it is parked again.

        As pause().
        """
        steps = _count(steps, "a number of steps to advance")
        return self._make(Kind.ADVANCE, wait, timeout, arg=steps)

    def _make(
        self, kind: Kind, wait: bool, timeout: Duration | None, *, arg: int = 0, duration: float = 0.0
    ) -> Request:
        limit = seconds_of(timeout, "timeout")
        if kind in (Kind.RESUME, Kind.ADVANCE) and self._would_start_over():
            reason = (
                "it is paused after an error, none of its loops has a key and nothing is persisted: its code would "
                "start the training over. Stop it, or mend the code and reload it with --restart"
            )
            fate = Fate(FateState.REFUSED, reason=reason)
            request = Request(self, kind, run_folder.new_id(), 0, sender_name(), time.time(), fate)
        else:
            request = self._ask(kind, wait, limit, arg=arg, duration=duration)
        return request.raise_for_fate() if wait else request

    def _would_start_over(self) -> bool:
        """Whether the run is paused after an error and has nothing to go on with."""
        if not (self._folder / _ERRORS).exists() or self.status is not SparkStatus.PAUSED:
            return False
        from spark_fast.runfiles import run_error

        return not all(error.can_resume for error in run_error.read(self._folder))

    def reload(
        self,
        code: str | bytes | None = None,
        *,
        to: int | None = None,
        restart: bool = False,
        wait: bool = True,
        timeout: Duration | None = None,
        check: bool = False,
    ) -> Request:
        """Ask the run to leave its loop at its next checkpoint and to go on from there with new code.

        Without arguments the code is what changed on disk: of the files that the run has loaded, and of those that they
        import now. What has not changed since it was last taken is not looked at, so code that was pushed stays.

        Args:
            code: the complete new source of the entry file. No file is written, and none is read but those that the
                code imports and the run does not know.
            to: the number of a version to go back to, or forth.
            restart: whether to start the training over with the code: what is persisted and the places of loops are
                forgotten. Without, a script is refused that would start over, since it keeps nothing.
            wait: whether to wait until the new code runs, or the request has another fate. The code of a run that is
                starting is waited for in any case, ten seconds at most.
            timeout: seconds, or text such as "90s", to wait at most; None for as long as it takes.
            check: whether to raise SparkRequestError also where the run refuses the code.

        Returns the request. Its `fate` is `applied` when the new code runs. It is `refused`, with the reason, if the
        run refuses the code because what it has in memory could not go on with it: nothing has changed then, and
        without `check` a SparkReloadWarning says so. Raises SparkRequestError, if it waits, for every other reload that
        did not happen: the code does not compile or the run can't be reloaded (`refused`, the worker has not heard of
        it); the new code raised an exception and the old code goes on (`failed`, with the traceback); the run ended
        (`lost`). Raises SparkTimeoutError when the time is up (the reload stands), SegmentError or StoreError when the
        run's files can't be used.
        """
        from spark_fast.client import reloading

        request = reloading.reload(
            self, code, to=to, restart=restart, wait=wait, timeout=seconds_of(timeout, "timeout")
        )
        return reloading.judge(request, check=check) if wait else request

    @overload
    def set(self, name: str, value: Any, /, *, wait: bool = True, timeout: Duration | None = None) -> Request: ...

    @overload
    def set(
        self, values: Mapping[str, Any], /, *, wait: bool = True, timeout: Duration | None = None
    ) -> dict[str, Request]: ...

    @overload
    def set(self, *, wait: bool = True, timeout: Duration | None = None, **values: Any) -> Any: ...

    def set(self, *args: Any, wait: bool = True, timeout: Duration | None = None, **values: Any) -> Any:
        """Set exposed values at the run's next checkpoint; where it is parked, at once.

            run.set("lr", 3e-4)                     # any name
            run.set(lr=3e-4)
            run.set(lr=3e-4, epochs=20)             # several
            run.set({"lr": 3e-4, "drop out": 0.1})

        Several values are one request: all are set at the same step, or none is, if one does not fit or its on_set
        raises.

        wait, timeout: as pause(). Values that are called `wait` or `timeout` go in one of the other forms. A value that
            a starting run does not expose yet is waited for, ten seconds at most; then, and without `wait`, the worker
            takes or refuses it at its first checkpoint.

        Returns the request; of several values and of a dict, a dict with that one request under each name. Raises
        SparkSetError, if it waits, for the first value that does not fit its limits (`refused`), or whose on_set raised
        (`failed`, with the traceback); its text names the value. Else raises what pause() raises.
        A process that sets and calls more than twenty times a second, 64 times at once, waits for its turn;
        SparkTimeoutError if that comes too late, and nothing was asked then.
        """
        from spark_fast.client import exposures

        pairs, single = exposures.pairs_of(args, values)
        requests = exposures.set_values(self, pairs, wait=wait, timeout=seconds_of(timeout, "timeout"))
        return next(iter(requests.values())) if single else requests

    def call(
        self,
        function: str,
        /,
        *args: Any,
        spark_timeout: Duration | None = None,
        spark_ranks: "int | Literal['all'] | None" = None,
        **kwargs: Any,
    ) -> Any:
        """Call an exposed function at the run's next checkpoint, also while it is parked, and return what it returns.

        Args:
            function: its name.
            args, kwargs: JSON.
            spark_timeout: seconds, or text such as "90s", to wait at most; None for as long as it takes.
            spark_ranks: the rank that calls it; "all" for all of them at the same step, as a function needs that uses
                collectives: then what they return comes as a dict by rank. None for what the script says of the
                function (see spark_fast.function()), which is rank 0 where it says nothing.

        Raises SparkCallError, with the traceback and what was printed, if it raised, could not be called with these
        arguments, a later request superseded it, or the run ended before; SparkTimeoutError when the time is up (the
        call stands).
        """
        from spark_fast.client import exposures

        return exposures.call(self, function, args, kwargs, seconds_of(spark_timeout, "spark_timeout"), spark_ranks)

    def request_call(
        self,
        function: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        wait: bool = True,
        timeout: Duration | None = None,
        ranks: "int | Literal['all'] | None" = None,
    ) -> Request:
        """Call a function as call() does, and return the request: its `fate`, `result` and `output`.

        wait, timeout: as pause().

        Raises SparkCallError, if it waits, as call() does, except for a call that was superseded.
        """
        from spark_fast.client import exposures

        limit = seconds_of(timeout, "timeout")
        request = exposures.request_call(self, function, args, kwargs or {}, wait=wait, timeout=limit, ranks=ranks)
        return request.raise_for_fate() if wait else request

    def wait(self, status: str | Iterable[str], timeout: Duration | None = None) -> SparkStatus:
        """Wait until the run has this status, or one of these, and return it.

        timeout: seconds, or text such as "90s", to wait at most; None for as long as it takes.

        Raises SparkTimeoutError when the time is up, SparkError if the run ended otherwise, so that it will never
        have it.
        """
        limit = seconds_of(timeout, "timeout")
        wanted = {SparkStatus(status)} if isinstance(status, str) else {SparkStatus(each) for each in status}
        found = self.status

        def there() -> bool:
            nonlocal found
            found = self.status
            return found in wanted or found in ENDED

        names_wanted = " or ".join(sorted(wanted))
        if not self._until(there, limit):
            went_on = self.swallowed_stop
            why = "" if went_on is None else f", and its loop swallowed the stop that was raised at step {went_on}"
            raise SparkTimeoutError(f"run {self.id} is not {names_wanted} after {limit:g} s: it is {found}{why}")
        if found not in wanted:
            raise SparkError(f"run {self.id} will not be {names_wanted}: it is {found}")
        return found

    # --- how ---

    def _open_segment(self) -> Segment:
        found = self._segment  # another thread may take it away
        if found is None:
            found = self._segment = Segment(self._folder / run_folder.CONTROL)
        return found

    def _ask(
        self,
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
        deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
        if kind is Kind.STOP and self._idle_parent is not None:
            # First, so that what the parent forks next heeds it.
            self._idle_parent._ask(Kind.STOP, False, deadline, duration=duration)
        if ident is None:
            ident = run_folder.new_id()
        sender = sender_name()
        if self._is_elsewhere():
            request = self._ask_hosts(kind, ident, sender, arg=arg, duration=duration, mail=mail, ranks=ranks)
            if wait:
                request._wait(deadline)
            return request
        try:
            left = deadline.left()
            patience = _TURN if left is None else min(_TURN, left)
            verdict, seq, _target = (self._segment or self._open_segment()).append(
                kind,
                ident,
                arg=arg,
                duration=duration,
                sender=sender,
                mail=mail,
                ranks=0 if ranks == "all" else ranks + 1,
                timeout=patience,
            )
            asked = time.time()
        except LogFullError as error:
            raise self._name_stuck_rank(error) from None
        except (SegmentError, FileNotFoundError) as error:
            if isinstance(error, LayoutError) or self.status.live:
                raise
            ended = Fate(FateState.REFUSED, reason=self._why_ended())
            return Request(self, kind, ident, 0, sender, time.time(), ended, mail=mail)
        fate: Fate | None = None
        if verdict == Verdict.REFUSED_ENDED:
            fate = Fate(FateState.REFUSED, reason=self._why_ended())
        elif verdict == Verdict.REFUSED_STOPPING:
            fate = Fate(FateState.REFUSED, reason="the run is stopping")
        elif verdict == Verdict.NOTHING_TO_DO and seq:
            # A stop was asked for already: this one shares its fate, unless what follows the end is another matter.
            entry = _core.read_entry(self._control, seq)
            if entry is not None and (entry["mail"] == RESET) != (mail == RESET):
                begun = "its reset" if entry["mail"] == RESET else "its stop"
                fate = Fate(FateState.REFUSED, reason=f"{begun} is under way, asked by {entry['sender']}")
            elif entry is not None:
                ident, sender, asked = entry["id"], entry["sender"], entry["asked"]
        elif verdict == Verdict.NOTHING_TO_DO:
            fate = Fate(FateState.APPLIED, step=self.step, reason="nothing to do: it was not paused")
        request = Request(self, kind, ident, seq, sender, asked, fate, mail=mail, ranks=ranks)
        if wait:
            request._wait(deadline)
        return request

    def _is_elsewhere(self) -> bool:
        """Whether the job has ranks on other hosts, which have a say in what is asked."""
        if self._about.world_size == 1:
            return False
        try:
            return bool(self._about.world_size > self._view()["slot_count"])
        except SegmentError:
            return False

    def _ask_hosts(
        self,
        kind: Kind,
        ident: int,
        sender: str,
        *,
        arg: int,
        duration: float,
        mail: str,
        ranks: "int | Literal['all']",
    ) -> Request:
        from spark_fast.client import meeting

        slots = self._slots()
        fate: Fate | None = None
        if not any(slot["alive"] and slot["state"] < WorkerState.STOPPED for slot in slots):
            fate = Fate(FateState.REFUSED, reason=self._why_ended())
        else:
            fate = meeting.ask(self._folder, kind, ident, sender, arg=arg, duration=duration, mail=mail, ranks=ranks)
        return Request(self, kind, ident, meeting.ELSEWHERE, sender, time.time(), fate, mail=mail, ranks=ranks)

    def _name_stuck_rank(self, error: LogFullError) -> LogFullError:
        alive = [(slot["applied"], slot["rank"], slot["step"]) for slot in self._slots() if slot["alive"]]
        if not alive:
            return error
        applied, rank, step = min(alive)
        oldest = _core.read_entry(self._control, applied + 1)
        since = time.time() if oldest is None else oldest["asked"]
        return LogFullError(error.reason, error.path, rank, step, since)

    def _fate(self, seq: int, ident: int) -> Fate:
        if seq < 0:
            from spark_fast.client import meeting

            return meeting.fate(self._folder, ident, self.step)
        try:
            # Life first: what a worker published before it died is then read after its death was seen.
            slots = self._slots()
            alive = any(slot["alive"] and slot["state"] < WorkerState.STOPPED for slot in slots)
            ended = str(self.status)
            fate = fate_of(self._control, seq, ident, folder=self._folder, alive=alive, ended=ended)
            if fate.reason == UNDECIDED:
                self._open_segment().void_orphan(seq)
                fate = fate_of(self._control, seq, ident, folder=self._folder, alive=alive, ended=ended)
            if not fate.final and len(slots) > 1:
                concluded = self._open_segment().conclude(seq)
                if concluded is None:
                    return Fate(FateState.LOST, reason="the ranks that were to do it have died")
                if concluded:
                    fate = fate_of(self._control, seq, ident, folder=self._folder, alive=alive, ended=ended)
            if fate == Fate(FateState.ASKED) and all(slot["state"] <= WorkerState.IDLE for slot in slots):
                return Fate(FateState.ASKED, reason="the run has passed no checkpoint yet")
            return fate
        except SegmentError as error:
            return Fate(FateState.LOST, reason=str(error))

    def _until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Waits for done(), looked at after each change that a worker publishes, and each tenth of a second."""
        end = None if timeout is None else monotonic() + timeout
        while True:
            try:
                segment: Segment | None = self._open_segment()
                seen = segment.changes() if segment is not None else 0
            except (SegmentError, OSError):
                segment = None  # no file any more: what there is to know is known at once
            if done():
                return True
            left = _LOOK if end is None else min(_LOOK, end - monotonic())
            if left <= 0:
                return False
            if segment is None:
                time.sleep(left)
                continue
            try:
                segment.wait(seen, left)
            except SegmentError:
                self._segment = None


def open_in(home: Home, run: str) -> Run:
    """The run of this name in a folder of runs. FileNotFoundError if it is none, FolderRefusedError, LayoutError,
    SegmentError, or another OSError if that can't be told."""
    folder = run_folder.open_run(home, run)
    path = home.path / run
    try:
        control = run_folder.open_control(folder, path)
        try:
            about = run_folder.read_about(folder)
            if os.fstat(control).st_nlink == 0:
                raise FileNotFoundError(f"run {run} is being removed or replaced")
            if about is None:
                raise SegmentError("no readable run.json beside it", str(path / run_folder.CONTROL))
            if run_folder.elsewhere(about):
                raise SegmentError(
                    f"a run of the machine {about.host}: control it there", str(path / run_folder.CONTROL)
                )
            try:
                _core.read_view(control)
            except SegmentError as error:
                raise run_folder.name_path(error, path / run_folder.CONTROL) from None
            return Run(path, about, control)
        except BaseException:
            os.close(control)
            raise
    finally:
        os.close(folder)


def runs(*, ended: bool = True) -> list[Run]:
    """The runs of this user on this host, by the time at which they began.

    ended: whether to list those too that have ended, until `remove_ended()` or a new run of the same id removes them.

    Folders that can't be read are left out; `attach()` with their name says why. Costs some 0.1 ms a run. Raises
    FolderRefusedError if the folder of runs can't be trusted.
    """
    found: dict[str, Run] = {}
    with opened_homes() as homes:
        for home in homes:
            for name in run_folder.run_names(home):
                try:
                    run = open_in(home, name)
                except (OSError, SparkError) as error:
                    if is_short(error):
                        raise  # those that come after it can't be read either, and may be the living ones
                    continue
                if (ended or run.status.live) and (name not in found or found[name].started < run.started):
                    found[name] = run
    return sorted(found.values(), key=lambda run: run.started)


def attach(run: str | None = None, *, exact: bool = False) -> Run:
    """Return the run of this id; without one, the only live run.

    The beginning of an id is enough where it is the beginning of one live run's only, or, if no live run's id begins
    so, of one ended run's. A run that is called exactly so is preferred. A run that passes no checkpoints, since its
    worker has forked the process that trains, stands for the run of that process.

    Args:
        run: the id, or its beginning.
        exact: whether it has to be the run of exactly this id, as a program wants that waits for a run of its own.

    Raises NoSuchRunError, which lists the live runs; AmbiguousRunError if several runs could be meant; LayoutError,
    SegmentError or FolderRefusedError if there is one that can't be used.
    """
    if run is None:
        live = runs(ended=False)
        training = [each for each in live if not _trained_by(each, live)]
        if len(training) == 1:
            return training[0]
        if live:
            raise AmbiguousRunError(None, [each.id for each in training])
        latest = sorted(runs(), key=lambda each: each.ended or each.started, reverse=True)
        raise NoSuchRunError(None, [], [each.id for each in latest[:_ENDED_NAMED]])
    if exact:
        return find(run)
    found = _named(run)
    if not found._is_idle():
        return found
    children = _trained_by(found, runs(ended=False))
    if len(children) > 1:
        raise AmbiguousRunError(None, [each.id for each in children])
    if not children:
        return found
    children[0]._idle_parent = found
    return children[0]


def _named(run: str) -> Run:
    """The run of this id, or the one whose id alone begins so."""
    if names.valid(run):
        with suppress(NoSuchRunError):
            return find(run)
    known = runs()
    live = [each for each in known if each.status.live]
    meant = [each for each in live if each.id.startswith(run)] or [each for each in known if each.id.startswith(run)]
    if not run or not meant:
        raise NoSuchRunError(run, [each.id for each in live])
    if len(meant) > 1:
        raise AmbiguousRunError(run, [each.id for each in meant])
    return meant[0]


def _trained_by(parent: Run, live: Sequence[Run]) -> list[Run]:
    """The runs of the processes that the worker of an idle run has forked."""
    if not parent._is_idle():
        return []
    return [
        each
        for each in live
        if (each._about.forked_from, each._about.parent) == (parent.id, parent._about.pid) and each is not parent
    ]


def find(run: str) -> Run:
    """The run of this id, and never another in its place; as attach()."""
    found = find_or_none(run)
    if found is None:
        raise NoSuchRunError(run, [each.id for each in runs(ended=False)])
    return found


def find_or_none(run: str) -> Run | None:
    """As find(); None if there is no such run."""
    found: Run | None = None
    if not names.valid(run):
        return None
    with opened_homes() as homes:
        for home in homes:
            with suppress(FileNotFoundError):
                other = open_in(home, run)
                # Two of one name: one has ended, and then the folder that it is in could not be used for a while.
                if found is None or found.started < other.started:
                    found = other
    return found


def request_hot_reload(code: str | bytes | None = None, run: str | None = None) -> Request:
    """Ask a run to go on with new code, and wait until it does: `attach(run).reload(code, check=True)`.

    code: the complete new source of the entry file; None for what changed on disk.
    run: its id, or the beginning of one, as attach() takes it; None for the only live one.

    Raises SparkRequestError, with the reason, if the run does not go on with the new code, and what attach() raises.
    """
    return attach(run).reload(code, check=True)
