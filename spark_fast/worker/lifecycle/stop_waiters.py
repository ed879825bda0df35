"""Finds code that waits for the threads and tasks that train, and in which a stop must not be raised.

A main thread that starts the threads that train, and joins them, passes no checkpoint before they have ended. Then it
validates and saves. So if code waits for others when the stop is first raised, its later checkpoints raise nothing, as
long as it goes on from there: it must be at a later line of the function in which it waited.
"""

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

__all__ = ["Waiters", "current"]

_THREADS = {
    "threading": {"join", "_wait_for_tstate_lock"},
    "concurrent.futures._base": {"result", "exception", "wait", "as_completed", "result_iterator", "_result_or_cancel"},
    "multiprocessing.pool": {"get", "wait", "next", "join"},
}
"""Functions in which a thread waits for others to end, by their modules."""
_TASKS = frozenset({"asyncio.taskgroups", "asyncio.threads"})
"""Modules whose coroutines wait for tasks and threads to end."""
_WAITS_OF_TASKS = frozenset({"wait", "_wait", "wait_for", "as_completed", "_wait_for_one", "_cancel_and_wait"})
"""Coroutines of `asyncio.tasks` that wait for tasks to end."""


@dataclass
class _Wait:
    """The frames of code that waits, the innermost first, each with its current line."""

    frames: list[tuple[FrameType, int]]

    def is_behind(self) -> bool:
        """Return whether the calling code goes on after the wait. Drops frames that the code has left."""
        stack = {id(frame) for frame in _stack(sys._getframe())}
        while self.frames and id(self.frames[0][0]) not in stack:
            del self.frames[0]
        return bool(self.frames) and self.frames[0][0].f_lineno > self.frames[0][1]


class Waiters:
    """The threads and tasks that waited for others when a stop was first raised."""

    def __init__(self) -> None:
        self._waits: WeakKeyDictionary[object, _Wait] = WeakKeyDictionary()
        self._tasks_before: WeakSet[Any] = WeakSet()

    def note(self) -> None:
        """Record where each other thread, and each task of an event loop, waits now."""
        stacks = sys._current_frames()
        for thread in threading.enumerate():
            frame = stacks.get(thread.ident or 0)
            if frame is None:
                continue
            stack = list(_stack(frame))
            if thread is not threading.current_thread() and _waits_for_threads(stack):
                self._waits[thread] = _Wait([(each, each.f_lineno) for each in stack])
            for task in _tasks(stack):
                self._tasks_before.add(task)
                frames = list(_frames_of(task))
                if _waits_for_tasks(task, frames):
                    self._waits[task] = _Wait([(each, each.f_lineno) for each in frames])

    def let_pass(self) -> bool:
        """Return whether the calling code waited for others at the time of note(), and goes on after that wait."""
        wait = self._waits.get(current())
        return wait is not None and wait.is_behind()

    def is_new_task(self) -> bool:
        """Return whether the calling code runs in a task that was made after note()."""
        running = current()
        return not isinstance(running, threading.Thread) and running not in self._tasks_before

    def forget(self) -> None:
        """Let no code pass any more, as the code that waited has started the training again."""
        self._waits.clear()


def current() -> object:
    """Return the running task; the thread if no task runs."""
    tasks = sys.modules.get("asyncio.tasks")
    events = sys.modules.get("asyncio.events")
    if tasks is not None and events is not None and events._get_running_loop() is not None:
        task: object = tasks.current_task()
        if task is not None:
            return task
    return threading.current_thread()


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and those that called it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _waits_for_threads(stack: list[FrameType]) -> bool:
    """Return whether the innermost frames, those of the standard library, wait for others to end."""
    for frame in stack:
        module = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name in _THREADS.get(module, ()):
            return True
        if module not in _THREADS:
            return False
    return False


def _tasks(stack: list[FrameType]) -> set[Any]:
    """Return the tasks of the event loop that a thread runs."""
    for frame in stack:
        if frame.f_code.co_name == "run_forever" and frame.f_globals.get("__name__") == "asyncio.base_events":
            found: set[Any] = sys.modules["asyncio.tasks"].all_tasks(frame.f_locals["self"])
            return found
    return set()


def _frames_of(task: Any) -> Iterator[FrameType]:
    """Yield the frames of the coroutines that a task is in, the innermost first."""
    frames: list[FrameType] = []
    coroutine = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None)
    return reversed(frames)


def _waits_for_tasks(task: Any, frames: list[FrameType]) -> bool:
    tasks = sys.modules["asyncio.tasks"]
    if isinstance(getattr(task, "_fut_waiter", None), (tasks.Task, tasks._GatheringFuture)):
        return True
    for frame in frames:
        module = str(frame.f_globals.get("__name__"))
        if module in _TASKS or (module == tasks.__name__ and frame.f_code.co_name in _WAITS_OF_TASKS):
            return True
        if not module.startswith("asyncio"):
            return False
    return False
