"""Where the loops with a key are, so that they go on there after a reload.

A place belongs to a loop from its beginning to its end, however it ends: the last item, a `break`, an exception. Only a
reload leaves it standing: the loop of the new code that has the same key goes on with the same iterator, and an item
whose body had not come round is handed out once more. Loops stand in each other: a loop that had ended within the item
that its outer loop hands out once more is passed over there, and begins afresh with the outer loop's next item.
"""

import os
import threading
from collections.abc import Iterable

from spark_fast._core import Place
from spark_fast.errors import SparkInterrupt

__all__ = ["abandon", "advance", "enter", "kept", "leave", "settle", "unwind"]

_places: dict[str, Place] = {}
_lock = threading.RLock()
_loops: dict[int, list[Place]] = {}
"""The living loops of each thread, outermost first."""

_unwinding: int | None = None
"""The thread whose loops are being left for a reload, or run new code that has not proved itself yet."""


def enter(key: str, iterable: Iterable[object], owner: int) -> Place:
    """The place of the loop `owner` that begins now, or goes on.

    Raises RuntimeError if another living loop has this key.
    """
    thread = threading.get_ident()
    with _lock:
        place = _places.get(key)
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
            parent.passed[key] -= 1
            place = Place(key)  # not kept: it had ended within this item of the outer loop
            place.iterator = iter(())
            return place
        if place is None:
            place = _places[key] = Place(key)
        place.owner, place.thread, place.parent = owner, thread, parent
        place.claimed = True
        place.go_on()
        if parent is not None:
            parent.inner = True
        loops.append(place)
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


def leave(place: Place, error: BaseException | None) -> None:
    """The loop was left. error: what its iterator raised; None if it was left otherwise."""
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
            parent.ended[place.key] = parent.ended.get(place.key, 0) + 1
            gone = _drop(place)
        elif unwinding and (error is None or ended):
            # Kept: the loop may go on, or be gone through once more by the old code, if the new one fails.
            place.owner = None
            place.over = ended
        elif isinstance(error, SparkInterrupt) and unwinding:
            # It came through a generator, which can't be gone on with. What stands in it keeps its own place.
            gone, place.owner, place.iterator = place.iterator, None, None
        else:
            gone = _drop(place)
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


def _forget_after_fork() -> None:
    # Another thread of the parent may have held the lock; and no reload ever comes to a child.
    global _lock, _unwinding
    _lock = threading.RLock()
    _unwinding = None


os.register_at_fork(after_in_child=_forget_after_fork)
