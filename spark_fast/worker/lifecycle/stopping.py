"""The rule that decides which checkpoints raise a stop's SparkStopError.

A stop must leave the loops of a process, but let the code run that validates and saves. Both pass checkpoints. The rule
tells them apart by the place of a checkpoint: the lines of the frames that lead to it.

1. At a place where the stop was raised before, it is raised again: the code swallowed it and came back.
2. The stop is not raised in code that handles it (an `except` or `finally` block and all that the block calls), nor in
   the functions of `on_stop()`.
3. Each thread, and each task of an event loop, gets the stop once. After that, its checkpoints at other places pass,
   until it comes back to a place of rule 1. From then on all of its checkpoints raise, since it swallows the stop.
4. If a thread or a task waited for others to end when the stop was first raised, its checkpoints after that wait pass,
   until it goes back to where it waited, or starts code again that got the stop. Then rule 3 applies to it.
5. A thread that was started after the stop was first raised belongs to the code that saves, and so does a task that
   was started by code that had got the stop. Only rules 1 and 2 apply to them.
"""

import sys
import threading
from contextvars import ContextVar
from types import CodeType, FrameType
from weakref import WeakSet

from spark_fast._core import worker
from spark_fast.errors import SparkStopGroupError, is_stop
from spark_fast.worker.lifecycle.stop_waiters import Waiters
from spark_fast.worker.state import hooks
from spark_fast.worker.state.loops import whole_chain

__all__ = ["StopRule"]

_HERE = "spark_fast.worker."
_PASSED_OVER = frozenset(
    f"{_HERE}{name}"
    for name in (
        "controller",
        "lifecycle.stopping",
        "slow_path.async_checkpoint",
        "slow_path.checkpoint",
        "slow_path.parking",
    )
)
"""Modules of this package with frames between the user's frame and the rule."""
_EVENT_LOOPS = ("asyncio", "anyio", "trio")
"""Packages whose frames are no part of a place, since a task begins in other frames of theirs than it goes on in."""

Place = tuple[tuple[int, int | None], ...]
"""The lines that lead to a checkpoint, the innermost first: the code object's id, and the line."""

_raised_in: ContextVar[object] = ContextVar("spark_fast_stop_raised_in", default=None)
"""The rule that has raised the stop in this context, or in the context that this one was copied from."""


class StopRule:
    """The rule for the only stop in the life of a process. Callers of its methods hold the session's lock."""

    def __init__(self) -> None:
        self._places: set[Place] = set()
        self._codes: dict[int, CodeType] = {}
        """The code objects of these places, kept so that their ids are not used again."""
        self._threads_before: WeakSet[threading.Thread] | None = None
        """The threads that lived when the stop was first raised. None before that."""
        self._raised_in: WeakSet[threading.Thread] = WeakSet()
        self._swallowing: WeakSet[threading.Thread] = WeakSet()
        self._waiters = Waiters()

    def applies(self, *, called: bool) -> bool:
        """Return whether this checkpoint of this thread must raise the stop. The caller raises it, and calls raised().

        called: whether a hook, or a function that a controller has called, passes the checkpoint: if so, the loop has
            yet to get the stop.

        Costs about a tenth of a microsecond for each frame on the stack.
        """
        frames = _frames_of_the_user()
        thread = threading.current_thread()
        if not frames:
            self._note(thread)
            return True  # a worker that is paused after an error, say
        if hooks.current.inside_on_stop():
            return False
        received = self._received(thread)
        if _place(frames) in self._places:
            if received or self._is_new(thread) or self._waiters.is_new_task():
                self._waiters.forget()
            if received:
                self._swallowing.add(thread)
                worker.stop_swallowed()
            return True
        if is_handled(sys.exception()):
            if not called:
                self._note(thread)
            return False
        return thread in self._swallowing or not (received or self._is_new(thread) or self._waiters.let_pass())

    def raised(self, *, called: bool) -> None:
        """Record that a checkpoint of this thread raises the stop, or lets a stop of a hook or a function through.

        called: as in applies().
        """
        frames = _frames_of_the_user()
        self._places.add(_place(frames))
        self._codes.update((id(each.f_code), each.f_code) for each in frames)
        if not called:
            self._note(threading.current_thread())
        _tell_task_groups()

    def _received(self, thread: threading.Thread) -> bool:
        """Return whether this thread, or the task that it runs, has got the stop."""
        if _raised_in.get() is self:
            return True
        # The code that runs an event loop gets its tasks' exceptions; a task does not get those of another task.
        return thread in self._raised_in and not _runs_task()

    def _is_new(self, thread: threading.Thread) -> bool:
        if self._threads_before is None or isinstance(thread, threading._DummyThread):
            return False  # it is unknown when another library's thread began
        return thread not in self._threads_before

    def _note(self, thread: threading.Thread) -> None:
        if self._threads_before is None:
            self._threads_before = WeakSet(threading.enumerate())
            self._waiters.note()
        self._raised_in.add(thread)
        _raised_in.set(self)


def is_handled(error: BaseException | None) -> bool:
    """Return whether code that handles this error handles a stop: it is one, or was raised from or during one."""
    return any(is_stop(each) for each in whole_chain(error))


def _frames_of_the_user() -> list[FrameType]:
    """Return the user's frames that lead to this checkpoint, the innermost first; none if this package itself passes
    it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _module(frame) in _PASSED_OVER:
        frame = frame.f_back
    if frame is None or _module(frame).startswith(_HERE):
        return []
    found = []
    while frame is not None:
        if _module(frame).partition(".")[0] not in _EVENT_LOOPS:
            found.append(frame)
        frame = frame.f_back
    return found


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _place(frames: list[FrameType]) -> Place:
    return tuple((id(frame.f_code), frame.f_lineno) for frame in frames)


def _runs_task() -> bool:
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


class _LikeTheBuiltIn(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, BaseExceptionGroup)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, BaseExceptionGroup)


class _TaskGroupError(BaseExceptionGroup[BaseException], metaclass=_LikeTheBuiltIn):
    """Replaces BaseExceptionGroup in task groups: makes a SparkStopGroupError if all errors are stops."""

    def __new__(cls, message: str, errors: list[BaseException]) -> BaseExceptionGroup[BaseException]:  # type: ignore[misc]
        if all(is_stop(error) for error in errors):
            return SparkStopGroupError(message, errors)
        return BaseExceptionGroup(message, errors)


def _tell_task_groups() -> None:
    """Have the task groups of asyncio and of anyio raise a group that `except SparkStopError` catches.

    These groups put the exceptions of tasks into a BaseExceptionGroup. An `except SparkStopError` around them, which
    saves the model, would not catch that. Only a process that raises a stop changes their modules.
    """
    for name in ("asyncio.taskgroups", "anyio._backends._asyncio"):
        module = sys.modules.get(name)
        if module is not None:
            module.__dict__["BaseExceptionGroup"] = _TaskGroupError
