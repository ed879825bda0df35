"""Keeps the places of loops with a key, at which the loops go on after a reload.

A place is a loop's iterator and its position. A loop has a place until it ends: by its last item, a `break` or an
exception. Only a reload keeps the place: the new code's loop with the same key goes on with the same iterator, and
yields once more an item whose body was not completed. Loops may be nested. If an outer loop yields an item once more,
inner loops that had ended within that item are passed over, and begin anew with the outer loop's next item.

An exception that unwinds a loop may go on to end the script; the process is then parked and gets new code. While the
exception travels, nobody knows whether a handler will catch it. So the places of the loops that it unwound wait, marked
with the exception, until the unwound code, in this thread or this task of an event loop, does anything but handle the
exception. Meanwhile other tasks and threads may pass checkpoints, since the exception may reach the script through a
task group or a thread's future.
"""

import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from spark_fast._core import Place
from spark_fast.errors import SparkInterrupt
from spark_fast.worker.state.ended_loops import EndedLoops

__all__ = [
    "abandon",
    "advance",
    "begin_anew",
    "bring_back",
    "chain",
    "ended_loops",
    "enter",
    "forget_unwound",
    "keep_after_errors",
    "kept",
    "leave",
    "living",
    "set_aside",
    "settle",
    "unwind",
    "waiting",
]

ended_loops = EndedLoops()
"""The outermost loops that have ended."""
_places: dict[str, Place] = {}
_lock = threading.RLock()
_loops: dict[tuple[int, int], list[Place]] = {}
"""The living loops of each thread and of each task of an event loop, outermost first. The keys are of _frames()."""
_around: ContextVar[tuple[Place, ...]] = ContextVar("spark_fast_loops_around", default=())
"""The loops around the running code. A task inherits them from the code that starts it."""

_unwinding: int | None = None
"""The thread whose loops are being left for a reload, or which runs new code on probation; None otherwise."""


@dataclass(frozen=True, slots=True)
class _Unwound:
    """A loop that an exception has unwound.

    number: the exception's mark.
    frames: the thread and the task whose frames the exception has left.
    cancelled: whether the exception is a task's CancelledError.
    """

    number: int
    frames: tuple[int, int]
    cancelled: bool


_unwound: dict[str, _Unwound] = {}
"""The loops that exceptions have unwound, by key."""
_on_unwound: Callable[[bool], object] | None = None
"""Called with whether such loops exist; None while an exception simply ends a loop."""
_numbers = itertools.count(1)
_MARK = "_spark_fast_unwound"
_UNMARKED = 0
_CHAIN_MAX = 1000
"""The most exceptions of one chain that are searched for marks."""


def enter(key: str, iterable: Iterable[object], owner: int) -> Place:
    """Return the place of the loop `owner`, which begins now or goes on.

    Raises RuntimeError if another living loop has this key.
    """
    thread = threading.get_ident()
    if waiting():
        forget_unwound()
    with _lock:
        gone_place: object = None
        place = _places.get(key)
        if place is not None and _unwound.pop(key, None) is not None:
            gone_place, place = _drop(place), None  # a handler of that exception begins the loop anew
        # After an unwinding, a traceback, say, may still hold the object of a loop that is gone.
        gone = _unwinding == thread and place is not None and not place.claimed
        if place is not None and place.owner is not None and not gone:
            raise RuntimeError(
                f"two loops that live at the same time have the key {key!r}: a place can be kept for one of them only. "
                "Give each track() its own key"
            )
        frames = _frames()
        loops = _loops.setdefault(frames, [])
        parent = (
            loops[-1] if loops else next((each for each in reversed(_around.get()) if each.owner is not None), None)
        )
        showed = _ended_before(key, parent) if place is None else None
        if showed is not None:
            place = Place(key)  # not kept
            place.pass_over(*showed)
            return place
        if place is None:
            place = _places[key] = Place(key)
        if parent is None:
            ended_loops.begun(key)
        place.owner, place.thread, place.frames, place.parent = owner, thread, frames, parent
        place.claimed = True
        place.go_on()
        if parent is not None:
            parent.inner = True
        loops.append(place)
        _around.set((*(each for each in _around.get() if each.owner is not None and each is not place), place))
    del gone_place
    try:
        if place.iterator is None:
            place.iterator = iter(iterable)
    except BaseException:
        leave(place, None)
        raise
    return place


def _ended_before(key: str, parent: Place | None) -> tuple[int, dict[str, Any]] | None:
    """Return the number of items and the `kept` of a loop that had ended within this item of the outer loop, or,
    without an outer loop, before this line of the script; None if it had not ended."""
    if parent is None:
        return ended_loops.passes(key)
    ends = parent.passed.get(key)
    return ends.pop(0) if ends else None


def advance(place: Place) -> None:
    """Note that the loop goes on to its next item, and forget the loops within the item before."""
    gone: list[object] = []
    if waiting():
        forget_unwound()
    with _lock:
        place.inner = False
        place.ended.clear()
        place.passed.clear()
        for inner in [each for each in list(_places.values()) if each.parent is place]:
            if inner.owner is None:
                gone.append(_drop(inner))
            elif inner.frames != place.frames:
                inner.parent = None  # its task was started in this loop's body, and goes on in parallel
            else:
                # It runs alongside this loop, in a zip() say: the body of this loop has used its item, too.
                gone.append(inner.item())
                inner.come_round()
                place.inner = True


def leave(place: Place, error: BaseException | None, raised: BaseException | None = None) -> None:
    """Note that the loop was left.

    error: the exception that the loop's iterator raised; None if it raised none.
    raised: the exception that unwinds the loop's frame; None if a `break`, say, left the loop.
    """
    gone: object = None
    with _lock:
        loops = _loops.get(place.frames or (0, 0), [])
        # Found by identity, and not always the last: generators can be left in any order.
        loops[:] = [each for each in loops if each is not place]
        if not loops:
            _loops.pop(place.frames or (0, 0), None)
        unwinding = _unwinding is not None and _unwinding == place.thread
        parent = place.parent
        ended = isinstance(error, StopIteration)
        if parent is None and (ended or (error is None and raised is None and not unwinding)):
            ended_loops.ended(place.key, (place.handed, place.kept))
        elif parent is None and not unwinding:
            ended_loops.left(place.key)
        if ended and parent is not None and parent.owner is not None:
            parent.ended.setdefault(place.key, []).append((place.handed, place.kept))
            gone = _drop(place)
        elif unwinding and (error is None or ended):
            # Kept: the loop may go on, or the old code may run it again if the new code fails.
            place.owner = None
            place.over = ended
        elif isinstance(error, SparkInterrupt) and unwinding:
            # The exception came through a generator, which can't go on. Loops in the generator keep their own places.
            gone, place.owner, place.iterator = place.iterator, None, None
        elif _on_unwound is not None and not ended and _may_go_on(error or raised):
            place.owner = None
            place.over = False
            place.raised = error is not None
            left_by = error or raised
            _unwound[place.key] = _Unwound(_mark(left_by), _frames(), _is_cancellation(left_by))
            _on_unwound(True)
        else:
            gone = _drop(place)
    del gone


def _may_go_on(error: BaseException | None) -> bool:
    """Return whether the loop may go on after this exception, should it end the script."""
    return error is not None and not isinstance(error, (SparkInterrupt, KeyboardInterrupt, SystemExit))


def _is_cancellation(error: BaseException | None) -> bool:
    asyncio = sys.modules.get("asyncio.exceptions")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _frames() -> tuple[int, int]:
    """Return this thread and the task that it runs, zero for none. This must be quick, since finalizers call it."""
    tasks = sys.modules.get("asyncio.tasks")
    events = sys.modules.get("asyncio.events")
    loop = events._get_running_loop() if tasks is not None and events is not None else None
    task = tasks.current_task(loop) if tasks is not None and loop is not None else None
    return threading.get_ident(), 0 if task is None else id(task)


def _mark(error: BaseException | None) -> int:
    """Mark the exception, if it has no mark; return the mark. A GeneratorExit gets none, since no chain contains it."""
    if isinstance(error, GeneratorExit):
        return _UNMARKED
    if error is None:
        return _UNMARKED
    number = _mark_of(error)
    if number == _UNMARKED:
        number = next(_numbers)
        BaseException.__setattr__(error, _MARK, number)
    return number


def _mark_of(error: BaseException) -> int:
    """Return the mark of this exception alone. Calls no attribute methods of its class."""
    try:
        number: int = BaseException.__getattribute__(error, _MARK)
    except AttributeError:
        return _UNMARKED
    return number


def _marks(error: BaseException | None) -> set[int]:
    """Return the marks of all exceptions in a chain()."""
    return {_mark_of(each) for each in chain(error)}


def chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception, those that it was raised from or during, and the members of groups: a thousand at most."""
    return list(itertools.islice(whole_chain(error), _CHAIN_MAX))


def whole_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield all exceptions of a chain(), without its limit."""
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [each.__context__, each.__cause__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def forget_unwound() -> None:
    """Forget loops that an exception has unwound, if this is the unwound code and it handles the exception no more."""
    handled = sys.exception()
    marks = _marks(handled)
    frames = _frames()
    gone: list[object] = []
    with _lock:
        for key, unwound in list(_unwound.items()):
            place = _places.get(key)
            if unwound.frames == frames and (handled is None or unwound.number not in {*marks, _UNMARKED}):
                del _unwound[key]
                if place is not None:
                    gone.append(_drop(place))
        # The loops of an ended task or thread wait for the next loop with their key, or for the script's end.
        if not any(unwound.frames == frames for unwound in _unwound.values()) and _on_unwound is not None:
            _on_unwound(False)
    del gone


def waiting() -> bool:
    """Return whether loops that an exception has unwound may still go on."""
    return bool(_unwound)


def keep_after_errors(on_unwound: Callable[[bool], object] | None) -> None:
    """Keep the places of loops that an exception unwinds; with None, let exceptions end loops from now on.

    on_unwound: called with True when a place begins to wait, so that the next checkpoints call forget_unwound(), and
        with False when none waits any more. It must be quick and take no lock, since a finalizer may call it while a
        lock is held.
    """
    global _on_unwound
    _on_unwound = on_unwound


def set_aside(thread: int, error: BaseException | None = None) -> list[Place]:
    """Remove the places of this thread's loops; return them for bring_back(), before code with other loops runs.

    error: the exception that has ended the script. The places of loops that other exceptions have unwound are dropped.
    """
    global _unwinding
    marks = _marks(error) | {_UNMARKED}
    gone: list[object] = []
    with _lock:
        if _unwinding == thread:
            _unwinding = None
        first = min((each.number for each in _unwound.values() if each.number in marks - {_UNMARKED}), default=None)
        for key, unwound in _unwound.items():
            # Cancelled later: a task group cancels its other tasks when one has failed.
            after = unwound.cancelled and first is not None and unwound.number > first
            if key in _places and unwound.number not in marks and not after:
                gone.append(_drop(_places[key]))
        aside = [place for place in _places.values() if place.thread == thread or place.owner is None]
        for place in aside:
            _places.pop(place.key, None)
        _unwound.clear()
        if _on_unwound is not None:
            _on_unwound(False)
        _forget_frames(thread)
    del gone
    return aside


def begin_anew(aside: Iterable[Place], *, new_code: bool) -> list[str]:
    """Have loops whose iterators have raised and can't go on begin at their first items; return their keys.

    new_code: whether the code that runs next differs from the code that made the iterators.
    """
    gone = []
    keys = []
    for place in aside:
        if place.raised and (_is_over(place.iterator) or (new_code and _has_workers(place.iterator))):
            keys.append(place.key)
            gone.append(place.begin_anew())
    return keys


def _is_over(iterator: object) -> bool:
    """Return whether this is a generator that its own exception has ended, and that would yield nothing more."""
    return getattr(iterator, "gi_frame", iterator) is None


_DEPTH = 3
"""How deep to search nested iterators: a zip() may contain an enumerate() that contains one."""


def _has_workers(iterator: object) -> bool:
    """Return whether this is, or contains, a DataLoader's iterator with worker processes, which still run the old
    code."""
    found = [iterator]
    for _ in range(_DEPTH):
        for each in found:
            if type(each).__module__.startswith("torch.utils.data") and getattr(each, "_workers", None):
                return True
        found = [each for one in found for each in gc.get_referents(one) if hasattr(each, "__next__")]
    return False


def bring_back(aside: Iterable[Place]) -> None:
    """Put back the places that set_aside() removed, before the script runs again."""
    gone: list[object] = []
    with _lock:
        for place in aside:
            if place.key in _places:
                gone.append(_drop(_places[place.key]))
            place.owner = None
            _places[place.key] = place
    del gone


def _drop(place: Place) -> object:
    """Forget a place; return its iterator and item. The caller drops them without the lock, since that may run code of
    the user."""
    if _places.get(place.key) is place:
        del _places[place.key]
    gone = place.iterator, place.item()
    place.forget()
    return gone


# --- reloads ---


def unwind(thread: int) -> None:
    """Let this thread's loops keep their places when they are left, until settle()."""
    global _unwinding
    with _lock:
        _unwinding = thread


def abandon(thread: int) -> None:
    """Note that the frames of this thread's loops no longer exist.

    A loop in a generator lives on if an outer loop goes on with that generator.
    """
    with _lock:
        for place in list(_places.values()):
            if place.thread == thread or place.owner is None:
                place.claimed = False
        _forget_frames(thread)


def _forget_frames(thread: int) -> None:
    for frames in [each for each in _loops if each[0] == thread]:
        del _loops[frames]


def settle() -> None:
    """Drop the places of loops that the new code has left since it began: it has proved itself."""
    global _unwinding
    with _lock:
        _unwinding = None
        gone = [_drop(each) for each in list(_places.values()) if each.owner is None and each.claimed]
    del gone


def kept() -> list[str]:
    """Return the keys of all places, for tests and messages."""
    with _lock:
        return sorted(_places)


def living(thread: int) -> list[str]:
    """Return the keys of this thread's living loops, and of those that wait to go on, for messages."""
    with _lock:
        return sorted(key for key, place in _places.items() if place.thread == thread or place.owner is None)


def forget_after_fork() -> None:
    """Make a new lock in a forked child, since another thread of the parent may hold the old one. Keep no places for
    reloads or errors: a child is never reloaded."""
    global _lock, _unwinding, _on_unwound
    _lock = threading.RLock()
    _unwinding = _on_unwound = None
    _unwound.clear()
