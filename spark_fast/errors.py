"""The exceptions of the worker and of its controllers."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

__all__ = [
    "AmbiguousRunError",
    "CodeRefusedError",
    "FolderRefusedError",
    "JobEndingError",
    "JournalError",
    "LayoutError",
    "LogFullError",
    "NoSuchRunError",
    "ReloadRefusedError",
    "ReplayRefusedError",
    "ResetError",
    "RunNameTakenError",
    "SegmentError",
    "SparkCallError",
    "SparkError",
    "SparkInterrupt",
    "SparkReloadError",
    "SparkReloadWarning",
    "SparkRequestError",
    "SparkSetError",
    "SparkStopError",
    "SparkStopGroupError",
    "SparkTimeoutError",
    "StoreError",
    "first_stop",
    "is_reload",
    "is_stop",
]


class SparkInterrupt(BaseException):
    """Raised by `checkpoint()` to leave the loop.

    It derives from BaseException, like `KeyboardInterrupt` and `asyncio.CancelledError`, so that a loop that skips bad
    batches with `except Exception` does not swallow it.

    Attributes:
        request_id: the id of the request.
        step: the step at which the worker applied the request.
        sender: the user, host and process that sent the request, for people.
    """

    verb = "interrupted"

    def __init__(self, request_id: str, step: int, sender: str) -> None:
        super().__init__(request_id, step, sender)
        self.request_id = request_id
        self.step = step
        self.sender = sender

    def __str__(self) -> str:
        return f"{self.verb} at step {self.step}, asked by {self.sender or 'an unnamed sender'} ({self.request_id})"


class SparkStopError(SparkInterrupt):
    """Raised to stop the run. Save what you need, and don't swallow it.

    Each thread and each asyncio task gets it once, at its next checkpoint. Only code that comes back to that checkpoint
    gets it again, so a validation loop before the save passes its checkpoints. Once code has come back, every
    checkpoint of its thread raises, except within the `except` and `finally` blocks that handle the stop.

    If the tasks of an asyncio or anyio task group raise nothing else, the group raises a `SparkStopGroupError`, which
    is a SparkStopError too. Any other group, such as trio's, raises a BaseExceptionGroup: catch it with
    `except* SparkStopError`.
    """

    verb = "stopped"


class SparkStopGroupError(BaseExceptionGroup[BaseException], SparkStopError):
    """The SparkStopErrors of a task group's tasks, if the tasks raised nothing else.

    Both `except SparkStopError` and `except* SparkStopError` catch it.

    Attributes:
        request_id, step, sender: those of the first SparkStopError.
    """

    def __new__(cls, message: str, errors: Sequence[BaseException]) -> Self:
        return super().__new__(cls, message, errors)

    def __init__(self, message: str, errors: Sequence[BaseException]) -> None:
        BaseException.__init__(self, message, errors)
        first = first_stop(self)
        self.request_id, self.step, self.sender = first.request_id, first.step, first.sender

    def derive(self, errors: Sequence[BaseException]) -> BaseExceptionGroup[Any]:  # type: ignore[override]
        """Return a group of some of the errors, for `split()` and `except*`."""
        return type(self)(self.message, errors)

    def __str__(self) -> str:
        return SparkStopError.__str__(self)


def is_stop(error: BaseException | None) -> bool:
    """Return whether an exception is a SparkStopError, or a group, maybe a nested one, of nothing else."""
    return _consists_of(error, SparkStopError)


def is_reload(error: BaseException | None) -> bool:
    """Return whether an exception is a SparkReloadError, or a group of nothing else."""
    return _consists_of(error, SparkReloadError)


def _consists_of(error: BaseException | None, kind: type[SparkInterrupt]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(isinstance(each, kind) for each in _leaves(error))
    return isinstance(error, kind)


def first_stop(error: BaseException) -> SparkStopError:
    """Return the first stop in an exception for which is_stop() is true."""
    found = next(_leaves(error)) if isinstance(error, BaseExceptionGroup) else error
    assert isinstance(found, SparkStopError)
    return found


def error_behind(error: BaseException) -> BaseException | None:
    """Return the exception after which the run was paused when the stop came; None if there is none.

    error: an exception for which is_stop() is true.
    """
    return first_stop(error).__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class SparkReloadError(SparkInterrupt):
    """Raised to replace the run's code. The runner catches it and runs the loop again with the new code."""

    verb = "left for a reload"


class SparkError(Exception):
    """The base of the errors that a controller gets."""


class NoSuchRunError(SparkError, LookupError):
    """No run has this id, or no run is live.

    Attributes:
        run: the id that the caller gave; None if it gave none.
        candidates: ids of the live runs.
        ended: if the caller gave no id and no run is live, ids of the runs that ended last, the latest first.
    """

    def __init__(self, run: str | None, candidates: list[str], ended: Sequence[str] = ()) -> None:
        super().__init__(run, candidates, ended)
        self.run = run
        self.candidates = candidates
        self.ended = ended

    def __str__(self) -> str:
        if self.ended:
            live = f"no run is live; to see one that has ended, name it: {', '.join(self.ended)}"
        elif not self.candidates:
            live = "no run is live; a run begins with the first spark.checkpoint() of a script"
        else:
            live = "live: " + ", ".join(self.candidates)
        return f"no run {self.run!r}; {live}" if self.run is not None else live


class AmbiguousRunError(NoSuchRunError):
    """The name is ambiguous: several runs are live, or the ids of several begin with the name.

    Attributes:
        run: the beginning of the ids; None if the caller gave none.
        candidates: ids of the matching runs.
    """

    def __str__(self) -> str:
        which = "are live" if self.run is None else f"begin with {self.run!r}"
        return f"{len(self.candidates)} runs {which}, name one of them: {', '.join(self.candidates)}"


class JobEndingError(SparkError):
    """The job was started again, and the processes of its former run have not ended yet.

    Attributes:
        run: the former run's id.
    """

    def __init__(self, run: str) -> None:
        super().__init__(f"run {run} of this job has not ended since the job was started again")
        self.run = run


class RunNameTakenError(SparkError):
    """A living worker has this run id.

    Attributes:
        run: the id.
    """

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.run = run

    def __str__(self) -> str:
        return f"a living run is called {self.run!r}"


class FolderRefusedError(SparkError):
    """A folder or file has the wrong owner, mode or type, so another user may have put it there.

    Attributes:
        path: the folder or file.
        found: its owner, mode and type.
        expected: the expected ones, and the remedy.
    """

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(path, found, expected)
        self.path = path
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return f"refused {self.path}: {self.found}; {self.expected}"


class SparkTimeoutError(SparkError, TimeoutError):
    """A wait took longer than the caller allowed. The run may still apply the request.

    If the caller waited for its turn to send a request, none was sent.

    Attributes:
        message: the awaited event, and what the run did during the wait.
        request: the awaited `Request`; None if the caller waited for a status or a turn.
    """

    def __init__(self, message: str, request: object = None) -> None:
        super().__init__(message, request)
        self.message = message
        self.request = request

    def __str__(self) -> str:
        return self.message


class SparkRequestError(SparkError):
    """A request to a run did not take effect.

    The base of `SparkSetError`, `SparkCallError` and `ResetError`. Pickling drops `request`, because the run may be
    gone where the error is unpickled.

    Attributes:
        kind: `pause`, `resume`, `stop`, `advance`, `reload`, `set`, `call` or `reset`.
        run: the id of the run.
        state: the request's final state: `refused`, `failed`, `void` or `lost`.
        reason: why, in one line.
        traceback: the traceback of the code that raised, as Python prints it; empty if there is none.
        request: the `Request`; None if none was sent.
    """

    def __init__(
        self, kind: str, run: str, state: str, reason: str, traceback: str = "", *, request: object = None
    ) -> None:
        super().__init__(kind, run, state, reason, traceback)
        self.kind = kind
        self.run = run
        self.state = state
        self.reason = reason
        self.traceback = traceback
        self.request = request

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args

    def __str__(self) -> str:
        did = {"failed": "failed", "refused": "was refused"}.get(self.state, f"is {self.state}")
        text = f"the {self.kind} of run {self.run} {did}{f': {self.reason}' if self.reason else ''}"
        return f"{text}\n{self.traceback}" if self.traceback else text


class SparkCallError(SparkRequestError):
    """The call of an exposed function failed, or its result can't be sent.

    Attributes:
        function: the function's name.
        state: as in SparkRequestError; also `superseded`, since such a call has no result.
        reason: why, in one line; the exception, if the function raised one.
        output: the text that the function printed.
    """

    def __init__(
        self,
        function: str,
        run: str,
        state: str,
        reason: str,
        traceback: str = "",
        output: str = "",
        *,
        request: object = None,
    ) -> None:
        super().__init__("call", run, state, reason, traceback, request=request)
        self.args = (function, run, state, reason, traceback, output)
        self.function = function
        self.output = output

    def __str__(self) -> str:
        text = (
            f"the call of {self.function}() was {self.state}: {self.reason}" if self.state != "failed" else self.reason
        )
        return f"{text}\n{self.traceback}" if self.traceback else text


class SparkSetError(SparkRequestError, ValueError):
    """An exposed value was not set, nor was any other value of the same request.

    Attributes:
        name: the name of the value; if the worker did not set several, all names.
        traceback: the traceback of its on_set, as Python prints it; empty if there is none.
    """

    def __init__(
        self, name: str, run: str, state: str, reason: str, traceback: str = "", *, request: object = None
    ) -> None:
        super().__init__("set", run, state, reason, traceback, request=request)
        self.args = (name, run, state, reason, traceback)
        self.name = name

    def __str__(self) -> str:
        if self.state not in ("refused", "failed"):
            return super().__str__()
        return f"{self.reason}\n{self.traceback}" if self.traceback else self.reason


class ResetError(SparkRequestError):
    """A reset is not possible.

    Attributes:
        run: the run's id.
        reason: why.
    """

    def __init__(self, run: str, reason: str) -> None:
        super().__init__("reset", run, "refused", reason)
        self.args = (run, reason)

    def __str__(self) -> str:
        return f"run {self.run!r} can't be reset: {self.reason}"


class SparkReloadWarning(UserWarning):
    """The run refused new code and goes on with the old. `Run.reload(check=True)` raises SparkRequestError instead."""


class ReloadRefusedError(SparkError):
    """New code can't replace the old while objects of the old code live. Nothing is changed.

    Attributes:
        what: the file, line and definition, for people, as in `train.py:12: class Model`.
        reason: why it can't.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}; undo that edit, or reset the run to start it with the new code"


class SegmentError(SparkError):
    """A control file can't be used.

    Attributes:
        reason: what is wrong with it.
        path: the file; None if it is the worker's own.
    """

    def __init__(self, reason: str, path: str | None = None) -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"{self.path or 'the control file'}: {self.reason}"


class LayoutError(SegmentError):
    """The control file was made by another version of spark_fast, or the compiled core is of another version."""


class LogFullError(SegmentError):
    """The run's log is full: a rank has passed no checkpoint since the oldest request in it.

    Attributes:
        rank: the rank that has applied the fewest requests; -1 if unknown.
        step: the last checkpoint that this rank passed.
        since: when the oldest request that this rank has not applied was sent, in seconds since the epoch.
    """

    def __init__(self, reason: str, path: str | None = None, rank: int = -1, step: int = 0, since: float = 0.0) -> None:
        super().__init__(reason, path)
        self.args = (reason, path, rank, step, since)
        self.rank = rank
        self.step = step
        self.since = since

    def __str__(self) -> str:
        if self.rank < 0:
            return super().__str__()
        ago = max(0.0, time.time() - self.since)
        return (
            f"{self.path}: its log is full: rank {self.rank} has applied nothing for {ago:.0f} s; "
            f"it passed its last checkpoint at step {self.step}"
        )


class StoreError(SparkError):
    """A file of a run, other than its control file, can't be used.

    Attributes:
        path: the file or folder.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class CodeRefusedError(SparkError):
    """New code was not sent to any worker, because it can't be read or does not compile.

    Attributes:
        reason: why, for people. For a syntax error, Python's own message follows the first line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class JournalError(StoreError):
    """A journal can't be read."""

    def __str__(self) -> str:
        return f"the journal {self.path}: {self.reason}"


class ReplayRefusedError(JournalError):
    """A journal does not fit this script. `reason` is the first difference."""

    def __str__(self) -> str:
        return f"the journal {self.path} can't be replayed: {self.reason}"
