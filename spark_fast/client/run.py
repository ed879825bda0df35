"""The public object of a run, which its controllers hold."""

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from spark_fast.client import exposures
from spark_fast.client.board import Board, Change, History, Value
from spark_fast.client.connection import Connection, find
from spark_fast.client.request import Request, requests_in_log
from spark_fast.client.send import steer
from spark_fast.client.snapshot import Snapshot, SpeedMeter, status_of_ranks
from spark_fast.client.summary import summarize
from spark_fast.durations import Duration, seconds_of
from spark_fast.errors import SparkError, SparkTimeoutError
from spark_fast.request import Kind
from spark_fast.runfiles.schema import Function
from spark_fast.status import ENDED, Progress, Rank, SparkStatus, monotonic

if TYPE_CHECKING:
    from spark_fast.runfiles.run_error import RunError
    from spark_fast.runfiles.versions import Version

__all__ = ["Run"]

_WITH_ERROR = (SparkStatus.PAUSED, SparkStatus.PAUSING, SparkStatus.STOPPING, SparkStatus.FAILED, SparkStatus.LOST)

_COUNT_MAX = (1 << 63) - 1
"""The highest step that a request can name."""


def _count(given: int, what: str) -> int:
    """Return a whole number of steps. Raises TypeError for any other type, ValueError if it is out of range."""
    count = operator.index(given)
    if not 1 <= count <= _COUNT_MAX:
        raise ValueError(f"{what} is 1 or more, and at most {_COUNT_MAX}: {given}")
    return count


class Run:
    """One run: a process, or the processes of one job, that passes checkpoints.

    Reading it costs some 20 µs and never disturbs the worker. Each access reads the attribute anew. Once the run's
    folder is gone, the attributes stay as they were, and the status is `lost` if the run had not ended by then. Any
    thread may use it. Get one with `attach()` or `runs()`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._board = Board(connection)
        self._speed = SpeedMeter()

    def __reduce__(self) -> tuple[object, ...]:
        return _found, (self.id,)  # a copy, or one in another process, needs a connection of its own

    def _release(self) -> None:
        """Close the files that are opened again when they are needed: all but a descriptor of the control file."""
        self._connection.release()
        self._board.release()

    # --- identity ---

    @property
    def id(self) -> str:
        """The run id."""
        return self._connection.id

    @property
    def command(self) -> list[str]:
        """The command line of the worker."""
        return list(self._connection.info.command)

    @property
    def started(self) -> float:
        """When it began, in seconds since the epoch."""
        return self._connection.info.started

    @property
    def ended(self) -> float | None:
        """When its last rank ended, in seconds since the epoch; None before, or if no rank has noted it."""
        found = self._snapshot()
        return None if found is None else found.ended()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._connection.folder

    # --- status ---

    def _snapshot(self) -> Snapshot | None:
        return self._connection.snapshot()

    @property
    def ranks(self) -> list[Rank]:
        """The workers, one for each rank that has ever joined."""
        return self._connection.ranks

    @property
    def status(self) -> SparkStatus:
        """What the run is doing.

        It is the status of its living ranks if they agree, else the one that they are changing to. Of a run that has
        ended, it is `lost` or `failed` if one of its ranks is.
        """
        return self._connection.status

    @property
    def step(self) -> int:
        """Checkpoints that the slowest living rank has passed; of a run that has ended, the slowest rank."""
        return self._connection.step

    @property
    def steps_per_second(self) -> float | None:
        """The speed now; None while the run does not run or the speed is not known.

        The first reading is the mean since the worker last began to run; later ones, by the same object, the mean
        between readings at least half a second apart.
        """
        return self._speed.update(self._snapshot(), monotonic())

    @property
    def in_first_step(self) -> float:
        """Seconds that the run has spent in its first step since it began or was resumed.

        0 in a later step, and for a run of several ranks.
        """
        found = self._snapshot()
        return 0.0 if found is None else found.in_first_step(monotonic())

    @property
    def progress(self) -> Progress | None:
        """The progress of its `track()` loops; None if it has none."""
        found = self._snapshot()
        return None if found is None else found.progress(monotonic())

    @property
    def error(self) -> "RunError | None":
        """The exception that ended the run, or after which it is paused; None if there is none. Of several ranks, the
        one that failed first. Reads a file."""
        return self._error_of(self.status)

    def _error_of(self, status: SparkStatus) -> "RunError | None":
        if status not in _WITH_ERROR:
            return None  # the code runs again, so the error is over
        from spark_fast.runfiles import run_error  # it takes a millisecond, and most runs have no error

        return next(iter(run_error.read(self.folder)), None)

    @property
    def resumes(self) -> float | None:
        """When a timed pause ends by itself, in seconds since the epoch; None if it is in none."""
        found = self._snapshot()
        return None if found is None else found.resumes()

    @property
    def stop_by(self) -> float | None:
        """When the sender of the stop, a scheduler for instance, ends the processes itself, in seconds since the epoch.

        None if the run is not stopping, or the sender gave no time.
        """
        found = self._snapshot()
        return None if found is None else found.stop_by()

    @property
    def stop_step(self) -> int | None:
        """The step at which SparkStopError was raised; None if it was not. The code that handles it may pass
        checkpoints too, so `step` may be higher."""
        found = self._snapshot()
        return None if found is None else found.stop_step()

    @property
    def swallowed_stop(self) -> int | None:
        """`stop_step`, if the loop has swallowed the stop and come back to the checkpoint that raised it; else None."""
        found = self._snapshot()
        return None if found is None else found.swallowed_stop()

    @property
    def world_size(self) -> int:
        """The number of ranks of its job, on all hosts. Some may not have joined yet, or may have ended."""
        return self._connection.info.world_size

    @property
    def local_world_size(self) -> int:
        """The number of its job's ranks on this host. Some may not have joined yet, or may have ended."""
        return self._connection.local_world_size

    @property
    def requests(self) -> list[Request]:
        """The requests that the log still holds, oldest first: the last hundred or so, of all senders."""
        return requests_in_log(self._connection)

    @property
    def versions(self) -> "list[Version]":
        """The versions of its code, oldest first: each that a reload brought or was to bring. Empty if the run can't
        be reloaded.

        Raises StoreError if they can't be read.
        """
        from spark_fast.client import reloading  # it loads ast, which few controllers need

        return reloading.versions(self.folder)

    @property
    def version(self) -> int | None:
        """The number of the version that runs; None where there are no versions. Raises StoreError."""
        from spark_fast.client import reloading  # see versions

        return reloading.current(self.folder)

    # --- values and functions ---

    @property
    def values(self) -> dict[str, Value]:
        """The exposed values, by name, as they are now. Costs some 10 µs and never disturbs the worker.

        Raises StoreError, FolderRefusedError or SegmentError if the run's files can't be used.
        """
        return self._board.values()

    @property
    def functions(self) -> dict[str, Function]:
        """The functions that can be called, by name. As values."""
        return self._board.exposures().functions

    def history(self, name: str) -> History:
        """Return the history of a number over the whole run, in a thousand entries at most. Costs some 50 µs.

        Raises LookupError if no value has this name; as values.
        """
        return self._board.history(name)

    def watch(self, *, interval: Duration = 0.05) -> Iterator[Change]:
        """Yield the exposed values, and then each value that changes, until the run has ended.

        interval: seconds, or text such as "100ms". Of several assignments within it, only the last is seen.

        Raises as `values` does.
        """
        return exposures.watch(self._board, seconds_of(interval, "interval"))

    def board_version(self) -> int:
        """Return a number that grows with each assignment and each new name; 0 if nothing is exposed. Costs 5 µs."""
        return self._board.version()

    def touch(self) -> None:
        """Tell the worker that a controller reads the values for the next three seconds. watch() does so by itself.

        The worker copies tensors from an accelerator only during that time.
        """
        self._board.touch()

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes of the run and its ranks, for JSON."""
        return self._as_dict(self._snapshot(), monotonic())

    def _as_dict(self, snapshot: Snapshot | None, now: float) -> dict[str, Any]:
        ranks = self._connection.ranks_of(snapshot)
        error = self._error_of(status_of_ranks(ranks))
        return summarize(self._connection, snapshot, ranks, error, self._speed.update(snapshot, now), now)

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self.status} at step {self.step}>"

    # --- requests ---

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
        limit = seconds_of(timeout, "timeout")
        return steer(self._connection, Kind.PAUSE, wait, limit, arg=at_step or 0, duration=duration)

    def resume(self, *, wait: bool = True, timeout: Duration | None = None) -> Request:
        """Ask a paused run to go on, and call off a pause that was set for later. Nothing happens otherwise.

        As pause().
        """
        return steer(self._connection, Kind.RESUME, wait, seconds_of(timeout, "timeout"))

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
        limit = seconds_of(timeout, "timeout")
        if grace is None:
            return steer(self._connection, Kind.STOP, wait, limit)
        from spark_fast.client import ending  # it loads signal and select, which few controllers need

        seconds = seconds_of(grace, "grace")
        request = ending.ask_stop(self._connection, seconds, stays=wait, timeout=limit)
        if wait:
            request.raise_for_fate()
            ending.end_after(self._connection, seconds, timeout=limit)
        return request

    def advance(self, steps: int, *, wait: bool = True, timeout: Duration | None = None) -> Request:
        """Ask the run to run `steps` more steps and then to park. With `wait`, wait until it is parked again.

        As pause().
        """
        steps = _count(steps, "a number of steps to advance")
        return steer(self._connection, Kind.ADVANCE, wait, seconds_of(timeout, "timeout"), arg=steps)

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
        from spark_fast.client import reloading  # see versions

        request = reloading.reload(
            self._connection, code, to=to, restart=restart, wait=wait, timeout=seconds_of(timeout, "timeout")
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
        pairs, single = exposures.pairs_of(args, values)
        requests = exposures.set_values(self._board, pairs, wait=wait, timeout=seconds_of(timeout, "timeout"))
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
        return exposures.call(
            self._board, function, args, kwargs, seconds_of(spark_timeout, "spark_timeout"), spark_ranks
        )

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
        limit = seconds_of(timeout, "timeout")
        request = exposures.request_call(
            self._board, function, args, kwargs or {}, wait=wait, timeout=limit, ranks=ranks
        )
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

        def is_over() -> bool:
            nonlocal found
            found = self.status
            return found in wanted or found in ENDED

        names_wanted = " or ".join(sorted(wanted))
        if not self._connection.wait_until(is_over, limit):
            went_on = self.swallowed_stop
            why = "" if went_on is None else f", and its loop swallowed the stop that was raised at step {went_on}"
            raise SparkTimeoutError(f"run {self.id} is not {names_wanted} after {limit:g} s: it is {found}{why}")
        if found not in wanted:
            raise SparkError(f"run {self.id} will not be {names_wanted}: it is {found}")
        return found


def _found(run: str) -> Run:
    return Run(find(run))
