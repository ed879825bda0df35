"""Where the loops with a key are, so that they go on there after a reload.

A place belongs to a loop from its beginning to its end, however it ends: the last item, a `break`, an exception. Only a
reload leaves it standing: the loop of the new code that has the same key goes on with the same iterator, and an item
whose body had not come round is handed out once more. Loops stand in each other: a loop that had ended within the item
that its outer loop hands out once more is passed over there, and begins afresh with the outer loop's next item.

An exception that unwinds a loop may be one that would end the script, after which the process is parked and its code
mended. While it travels, it can't be told from one that a handler catches. So the places of the loops that it unwound
wait, marked with the exception, until this thread does something else than to handle it.
"""

import gc
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable

from spark_fast._core import Place
from spark_fast.errors import SparkInterrupt

__all__ = [
    "abandon",
    "advance",
    "begin_anew",
    "bring_back",
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

_places: dict[str, Place] = {}
_lock = threading.RLock()
_loops: dict[int, list[Place]] = {}
"""The living loops of each thread, outermost first."""

_unwinding: int | None = None
"""The thread whose loops are being left for a reload, or run new code that has not proved itself yet."""

_unwound: dict[str, int] = {}
"""The keys of loops that an exception has unwound, with the number that the exception is marked with."""
_on_unwound: Callable[[bool], object] | None = None
"""Is told whether there are such loops; None while exceptions simply end loops."""
_script: int | None = None
"""The thread whose loops wait so: no other thread's exception parks the process."""
_numbers = itertools.count(1)
_MARK = "_spark_fast_unwound"
_UNMARKED = 0
_CHAIN_MAX = 1000
"""Exceptions of one chain that are looked at."""


def enter(key: str, iterable: Iterable[object], owner: int) -> Place:
    """The place of the loop `owner` that begins now, or goes on.

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
        # After an unwinding somebody may still hold the object of a loop that is gone: a traceback, say.
        gone = _unwinding == thread and place is not None and not place.claimed
        if place is not None and place.owner is not None and not gone:
            raise RuntimeError(
                f"two loops that live at the same time have the key {key!r}: a place can be kept for one of them only. "
                "Give each track() its own key"
            )
        loops = _loops.setdefault(thread, [])
        parent = loops[-1] if loops else None
        if place is None and parent is not None and parent.passed.get(key):
            place = Place(key)  # not kept: it had ended within this item of the outer loop
            place.pass_over(parent.passed[key].pop(0))
            return place
        if place is None:
            place = _places[key] = Place(key)
        place.owner, place.thread, place.parent = owner, thread, parent
        place.claimed = True
        place.go_on()
        if parent is not None:
            parent.inner = True
        loops.append(place)
    del gone_place
    try:
        if place.iterator is None:
            place.iterator = iter(iterable)
    except BaseException:
        leave(place, None)
        raise
    return place


def advance(place: Place) -> None:
    """The loop goes on to its next item: what is known of the loops within the last one is over."""
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
            else:
                # It runs beside this loop, in a zip() say: its item was this body's, too.
                gone.append(inner.item())
                inner.come_round()
                place.inner = True


def leave(place: Place, error: BaseException | None, raised: BaseException | None = None) -> None:
    """The loop was left.

    error: what its iterator raised; None if it was left otherwise.
    raised: the exception that unwinds the loop's frame; None if it was left by `break`, say.
    """
    gone: object = None
    with _lock:
        loops = _loops.get(place.thread or 0, [])
        # By identity, and not only the last: generators can be left in any order.
        loops[:] = [each for each in loops if each is not place]
        if not loops:
            _loops.pop(place.thread or 0, None)
        unwinding = _unwinding is not None and _unwinding == place.thread
        parent = place.parent
        ended = isinstance(error, StopIteration)
        if ended and parent is not None and parent.owner is not None:
            parent.ended.setdefault(place.key, []).append(place)
            gone = _drop(place)
        elif unwinding and (error is None or ended):
            # Kept: the loop may go on, or be gone through once more by the old code, if the new one fails.
            place.owner = None
            place.over = ended
        elif isinstance(error, SparkInterrupt) and unwinding:
            # It came through a generator, which can't be gone on with. What stands in it keeps its own place.
            gone, place.owner, place.iterator = place.iterator, None, None
        elif _on_unwound is not None and _may_go_on(place, error or raised):
            place.owner = None
            place.over = False
            place.raised = error is not None
            _unwound[place.key] = _mark(error or raised)
            _on_unwound(True)
        else:
            gone = _drop(place)
    del gone


def _may_go_on(place: Place, error: BaseException | None) -> bool:
    """Whether the loop may be gone on with after this exception, if that ends the script."""
    if error is None or place.thread != _script:
        return False
    return not isinstance(error, (StopIteration, SparkInterrupt, KeyboardInterrupt, SystemExit))


def _mark(error: BaseException | None) -> int:
    """The number that the exception has, or gets. What closes a generator is no part of the exception's chain."""
    if isinstance(error, GeneratorExit):
        return _UNMARKED
    number: int = getattr(error, _MARK, _UNMARKED)
    if number == _UNMARKED:
        number = next(_numbers)
        try:
            setattr(error, _MARK, number)
        except (AttributeError, TypeError):  # of a class that takes no attributes
            return _UNMARKED
    return number


def _marks(error: BaseException | None) -> set[int]:
    """The numbers of an exception, of those that it was raised from or during, and of the members of groups."""
    found: set[int] = set()
    seen: set[int] = set()
    left = [error]
    while left and len(seen) < _CHAIN_MAX:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        found.add(getattr(each, _MARK, _UNMARKED))
        left += [each.__context__, each.__cause__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
    return found


def forget_unwound() -> None:
    """Forgets the loops that were unwound by an exception that this thread no longer handles."""
    handled = sys.exception()
    marks = _marks(handled)
    gone: list[object] = []
    with _lock:
        for key, number in list(_unwound.items()):
            place = _places.get(key)
            if handled is None or number not in {*marks, _UNMARKED}:
                del _unwound[key]
                if place is not None:
                    gone.append(_drop(place))
        if not _unwound and _on_unwound is not None:
            _on_unwound(False)
    del gone


def waiting() -> bool:
    """Whether loops of this thread wait for what an exception comes to."""
    return bool(_unwound) and threading.get_ident() == _script


def keep_after_errors(on_unwound: Callable[[bool], object] | None, thread: int) -> None:
    """Has the places of the thread's loops wait that an exception unwinds; None: from here on it ends them.

    on_unwound: called with whether any wait: then this thread's next checkpoint is to call forget_unwound(). Called
        within a finalizer, holding a lock: it must be quick and take no other.
    """
    global _on_unwound, _script
    _on_unwound, _script = on_unwound, thread


def set_aside(thread: int, error: BaseException | None = None) -> list[Place]:
    """Takes places out of the way of code that has loops of its own, until bring_back().

    error: the exception that has ended the script: of the loops that exceptions have unwound, only its own count.
    """
    global _unwinding
    marks = _marks(error) | {_UNMARKED}
    gone: list[object] = []
    with _lock:
        if _unwinding == thread:
            _unwinding = None
        aside = [
            place
            for key, place in list(_places.items())
            if (place.thread == thread or place.owner is None) and _unwound.get(key, _UNMARKED) in marks
        ]
        gone += [_drop(_places[key]) for key, number in _unwound.items() if key in _places and number not in marks]
        for place in aside:
            _places.pop(place.key, None)
        _unwound.clear()
        if _on_unwound is not None:
            _on_unwound(False)
        _loops.pop(thread, None)
    del gone
    return aside


def begin_anew(aside: Iterable[Place], *, new_code: bool) -> list[str]:
    """Has the loops begin at their first items whose iterators have raised and can't go on. Returns their keys.

    new_code: whether the code is another than that which made the iterators.
    """
    gone = []
    keys = []
    for place in aside:
        if place.raised and (_is_over(place.iterator) or (new_code and _has_workers(place.iterator))):
            keys.append(place.key)
            gone.append(place.begin_anew())
    return keys


def _is_over(iterator: object) -> bool:
    """Whether it is a generator that its own exception has ended: it would hand out nothing more."""
    return getattr(iterator, "gi_frame", iterator) is None


_DEPTH = 3
"""Objects within objects that are looked at: an iterator may stand in an enumerate() that stands in a zip()."""


def _has_workers(iterator: object) -> bool:
    """Whether it is the iterator of a DataLoader whose worker processes run the code that they began with."""
    found = [iterator]
    for _ in range(_DEPTH):
        for each in found:
            if type(each).__module__.startswith("torch.utils.data") and getattr(each, "_workers", None):
                return True
        found = [each for one in found for each in gc.get_referents(one) if hasattr(each, "__next__")]
    return False


def bring_back(aside: Iterable[Place]) -> None:
    """Puts places back that set_aside() took: the script is about to run again."""
    gone: list[object] = []
    with _lock:
        for place in aside:
            if place.key in _places:
                gone.append(_drop(_places[place.key]))
            place.owner = None
            _places[place.key] = place
    del gone


def _drop(place: Place) -> object:
    """Forgets it. Its iterator and item: they may run code of the user's as they go, where no lock is held then."""
    if _places.get(place.key) is place:
        del _places[place.key]
    gone = place.iterator, place.item()
    place.forget()
    return gone


# --- reloads ---


def unwind(thread: int) -> None:
    """From here on the loops of this thread that are left keep their places, until settle()."""
    global _unwinding
    with _lock:
        _unwinding = thread


def abandon(thread: int) -> None:
    """The frames of this thread's loops are gone. A loop in a generator that an outer loop goes on with lives on."""
    with _lock:
        for place in list(_places.values()):
            if place.thread == thread or place.owner is None:
                place.claimed = False
        _loops.pop(thread, None)


def settle() -> None:
    """The new code runs: loops that it has left since it began are left for good."""
    global _unwinding
    with _lock:
        _unwinding = None
        gone = [_drop(each) for each in list(_places.values()) if each.owner is None and each.claimed]
    del gone


def kept() -> list[str]:
    """The keys of all places, for tests and messages."""
    with _lock:
        return sorted(_places)


def living(thread: int) -> list[str]:
    """The keys of the loops that this thread is in, and of those that wait to go on, for messages."""
    with _lock:
        return sorted(key for key, place in _places.items() if place.thread == thread or place.owner is None)


def _forget_after_fork() -> None:
    # Another thread of the parent may have held the lock; and no reload ever comes to a child.
    global _lock, _unwinding, _on_unwound
    _lock = threading.RLock()
    _unwinding = _on_unwound = None
    _unwound.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
