"""The rule that decides which checkpoints raise a stop's SparkStopError.

The loops of a process are to be left, and the code that validates and saves is to run. Both pass checkpoints. The rule
tells them apart by the place of a checkpoint, which is the lines of the frames that lead to it:

1. At a place where the stop was raised before, it is raised again: the code swallowed it and came back.
2. It is not raised in code that handles the stop, which is an `except` or `finally` block and all that this calls, nor
   in the functions of `on_stop()`.
3. Each thread, and each task of an event loop, gets the stop once. After that, its checkpoints at other places pass,
   until it comes back to a place of rule 1. From then on all of its checkpoints raise: it is a loop that swallows.
4. A thread or a task that waited for others to end when the stop was first raised passes the checkpoints after that
   wait, until it goes back to where it waited, or starts code again that got the stop. Then rule 3 holds for it.
5. A thread that was started after the stop had first been raised belongs to the code that saves, and so does a task
   that was started by code that had got the stop: only rules 1 and 2 hold for it.
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
"""Modules of this package whose frames are between the user's frame and the rule."""
_EVENT_LOOPS = ("asyncio", "anyio", "trio")
"""Packages whose frames are no part of a place: a task begins, and goes on, through different ones."""

Place = tuple[tuple[int, int | None], ...]
"""The lines that lead to a checkpoint, the innermost first: the code object's id, and the line."""

_raised_in: ContextVar[object] = ContextVar("spark_fast_stop_raised_in", default=None)
"""The rule that has raised the stop in this context, or in the one that it was copied from."""


class StopRule:
    """The rule for the one stop in the life of a process. Its methods are called with the session's lock held."""

    def __init__(self) -> None:
        self._places: set[Place] = set()
        self._codes: dict[int, CodeType] = {}
        """The code objects of these places, which keep their ids from being used again."""
        self._threads_before: WeakSet[threading.Thread] | None = None
        """The threads that lived when the stop was first raised. None before that."""
        self._raised_in: WeakSet[threading.Thread] = WeakSet()
        self._swallowing: WeakSet[threading.Thread] = WeakSet()
        self._waiters = Waiters()

    def applies(self, *, called: bool) -> bool:
        """Return whether this checkpoint of this thread is to raise the stop. The caller raises it, and calls raised().

        called: whether a hook passes it, or a function that a controller has called: the loop is yet to get the stop.

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
        """Note that a checkpoint of this thread raises the stop, or that a stop of a hook or a function leaves it.

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
        # Code around an event loop gets the exceptions of its tasks; a task does not get those of another task.
        return thread in self._raised_in and not _runs_task()

    def _is_new(self, thread: threading.Thread) -> bool:
        if self._threads_before is None or isinstance(thread, threading._DummyThread):
            return False  # it is unknown when a thread of another library began
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
    """Return the frames that lead to this checkpoint, the innermost first; an empty list if this package itself passes
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

    They put the exceptions of tasks into a BaseExceptionGroup. A handler around them, which saves the model, does not
    catch that. Only a process that raises a stop comes here: the modules of others are not changed.
    """
    for name in ("asyncio.taskgroups", "anyio._backends._asyncio"):
        module = sys.modules.get(name)
        if module is not None:
            module.__dict__["BaseExceptionGroup"] = _TaskGroupError
