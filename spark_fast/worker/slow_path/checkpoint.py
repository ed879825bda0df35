"""What a checkpoint does when something is asked: apply, park, raise."""

import gc
import threading
import time
from typing import Any

from spark_fast._core import TARGET_VOID, worker
from spark_fast.errors import SegmentError, SparkStopError, is_stop
from spark_fast.request import Kind, format_id
from spark_fast.worker import process, session, stderr
from spark_fast.worker.journal import writer
from spark_fast.worker.lifecycle.hosts import ring_hosts
from spark_fast.worker.slow_path import dispatch
from spark_fast.worker.slow_path.parking import Hold
from spark_fast.worker.state import hooks, loops

__all__ = ["apply_due", "checkpoint", "enter_checkpoint", "note_stop"]

_GO, _HOLD, _RAISE_STOP, _RAISE_RELOAD, _DELIVER, _AWAIT = range(6)

_RING = 1.0
"""Seconds to wait for other hosts between two looks whether this host's relay lives."""

_PATIENCE = 10.0
"""Seconds for which a pending reload may block later requests in other threads."""
_MAIL = (Kind.SET, Kind.CALL)
_in_the_way: tuple[int, float] = 0, 0.0
"""The blocking reload: its number in the log, and since when it blocks."""


def checkpoint(step: int, counted: bool, done: int | None) -> None:
    """The slow path of `checkpoint()`, called by the core.

    done: of the loop that passes it, GIVEN if it has handed out a new item since it began, and ROUND if the body of its
        last item has come round; None if it is no loop's.
    """
    try:
        hold = enter_checkpoint(step, counted, done)
        if hold is None:
            return
        try:
            hold.begin()
            while hold.should_wait() and not hold.wait():
                pass
        finally:
            hold.end()
    except BaseException as error:
        note_stop(error)
        raise


def note_stop(error: BaseException) -> None:
    """An exception leaves a checkpoint: if it is a stop, this is a place that has raised it."""
    if is_stop(error):
        with session.current.lock:
            session.current.stop_raised = True
            process.current.stop_rule.raised(called=dispatch.inside() or hooks.inside())


def enter_checkpoint(step: int, counted: bool, done: int | None) -> Hold | None:
    """apply_due() of a thread that comes to a checkpoint, and not of one that waits there and looks again."""
    if not session.begun():
        process.attach()  # not holding the turns, which it takes after another lock
        step = worker.step()
    if loops.waiting():
        loops.forget_unwound()
    session.current.passed = True
    with session.current.lock:
        if counted and dispatch.inside():
            step = dispatch.pass_inner()
    host = session.current.host
    if counted and host is not None and host.thread == threading.get_ident():
        # What a function that was called passes says nothing of the loop's code. The turns are not held: what the old
        # code made goes now, and may wait for threads that pass checkpoints.
        host.pass_checkpoint(0 if dispatch.inside() else done)
    return apply_due(step, counted)


def apply_due(step: int, counted: bool) -> Hold | None:
    """Applies what is due. Raises for a stop or a reload; returns what is to be waited for, if anything is."""
    while True:
        changes = worker.changes()
        step, action, seq, park_for, entry = _act(step, counted)
        if action == _AWAIT:
            _await(seq, changes)
            continue
        if action != _DELIVER or entry is None:
            break
        # Not holding the turns: a function that is called may take its time, and other threads go on meanwhile.
        try:
            dispatch.deliver(entry, step)
        finally:
            with session.current.lock:
                if session.current.replay is not None:
                    session.current.replay.delivered(entry["id"])
    if action == _HOLD and not dispatch.stands_over(seq) and not hooks.inside():
        return Hold(step, counted, seq, park_for, apply_due)
    if action == _RAISE_STOP and entry is not None:
        _stop(format_id(entry["id"]), step, entry["sender"])
    return None


def _stop(request_id: str, step: int, sender: str) -> None:
    """Raises the stop that is in force, where the rule of stopping.py has it raised."""
    with session.current.lock:
        applies = process.current.stop_rule.applies(called=dispatch.inside() or hooks.inside())
    if applies:
        raise SparkStopError(request_id, step, sender)


class _Collector:
    """The garbage collector, which can be switched off until the block ends.

    It runs finalizers of the user's, which may wait for threads that pass checkpoints. So it must not run in a thread
    that has the turns, and a reload makes enough objects to have it run.
    """

    __slots__ = ("_is_off",)

    def __enter__(self) -> "_Collector":
        self._is_off = False
        return self

    def switch_off(self) -> None:
        if gc.isenabled():
            gc.disable()
            self._is_off = True

    def __exit__(self, *_: object) -> None:
        if self._is_off:
            gc.enable()


def _act(step: int, counted: bool) -> tuple[int, int, int, float, dict[str, Any] | None]:
    """One turn, in which reloads are met or refused: the step, and what the core wants done beyond that."""
    with _Collector() as collector, session.current.lock:
        alone = process.current.local_stop.pending()
        if alone is not None:
            if not counted:
                return step, _GO, 0, 0.0, None  # on to one that counts
            _stop(alone[0], step, alone[1])
            return step, _GO, 0, 0.0, None
        if counted:
            left = dispatch.left_over()
            if left is not None:
                return step, _DELIVER, left["seq"], 0.0, left
            replay = session.current.replay
            if replay is not None:
                replay.append_due(step, within=dispatch.running_call(), inner=dispatch.inner())
        host = session.current.host
        mine = host is not None and host.thread == threading.get_ident()
        refused = gives_way = beside = False
        while True:
            # Only the thread under the host can be run again: to others a reload does not matter.
            action, seq, park_for, entry = _turn(
                step,
                counted,
                reload=mine or host is None or gives_way,
                mail=beside or dispatch.mine() or not dispatch.busy(),
                inner=dispatch.inner(),
            )
            if action == _RAISE_RELOAD and entry is not None:
                collector.switch_off()
                if mine and host is not None:
                    leaving = host.begin_reload(entry, step)
                    if leaving is not None:
                        raise leaving
                else:
                    _refuse_reload(entry, step, host is not None)
                refused, gives_way = True, False
            elif counted and not mine and not gives_way and action in (_GO, _HOLD) and _is_in_the_way():
                gives_way = True
            elif counted and not beside and action in (_GO, _HOLD) and _mail_is_in_the_way():
                beside = True
            else:
                break
        if mine and host is not None and action in (_HOLD, _RAISE_STOP):
            collector.switch_off()
            host.publish_applied()
        if action == _HOLD and refused:
            Hold.publish_again(seq)
    return step, action, seq, park_for, entry


def _turn(
    step: int, counted: bool, *, reload: bool, mail: bool, inner: int
) -> tuple[int, int, float, dict[str, Any] | None]:
    try:
        found = worker.turn(step, counted, reload=reload, mail=mail, inner=inner)
        host = session.current.host
        writer.follow(host.project if host is not None else None)
        return found
    except (SegmentError, OSError) as error:
        session.lose_control(error)
        return _GO, 0, 0.0, None


_awaited: tuple[int, float, float] = 0, 0.0, 0.0
"""What other hosts were last waited for with, until when, and when it is looked next whether their word is carried."""


def _await(seq: int, changes: int) -> None:
    """Waits a while for other hosts to say when entry `seq` is due. This host has said that from here on it can be, so
    to go on might be to pass it."""
    global _awaited
    from spark_fast import hosts

    now = time.monotonic()
    folder = session.folder()
    if _awaited[0] != seq and folder is not None:
        # They say so, or that it is off, in less.
        _awaited = seq, now + hosts.patience(folder), now + _RING
    if now < _awaited[1]:
        worker.wait_for_change(changes, min(_RING, _awaited[1] - now))
        if time.monotonic() >= _awaited[2]:
            _awaited = seq, _awaited[1], time.monotonic() + _RING
            ring_hosts()
        return
    with session.current.lock:
        if worker.give_up(seq) == TARGET_VOID:
            stderr.warn(
                "no other host has said in time when a request is due that all were to follow together: this host goes "
                "on without it"
            )


def _is_in_the_way() -> bool:
    """Whether a reload that the host's thread does not come for is to be refused: because a stop stands behind it in
    the log, or something else has for a while."""
    global _in_the_way
    applied, tail = worker.in_the_log()
    if tail - applied < 2:
        return False
    first, *behind = session.entries(applied + 1, tail) or [None]
    if first is None or first["kind"] != Kind.RELOAD:
        return False
    now = time.monotonic()
    if _in_the_way[0] != first["seq"]:
        _in_the_way = first["seq"], now
    stops = any(entry is not None and entry["kind"] == Kind.STOP for entry in behind)
    return stops or now - _in_the_way[1] >= _PATIENCE


def _mail_is_in_the_way() -> bool:
    """Whether a value or a call waits for a function that runs in another thread, and anything but values and calls
    stands behind it in the log: a pause has no reason to wait for that function."""
    if not dispatch.busy() or dispatch.mine():
        return False
    applied, tail = worker.in_the_log()
    if tail - applied < 2:
        return False
    waiting = session.entries(applied + 1, tail)
    kinds = [entry["kind"] for entry in waiting if entry is not None]
    return kinds[:1] != [] and kinds[0] in _MAIL and any(kind not in _MAIL for kind in kinds)


def _refuse_reload(entry: dict[str, Any], step: int, hosted: bool) -> None:
    from spark_fast.worker.reload import vote
    from spark_fast.worker.reload.answers import answer

    vote.vote(entry["seq"], vote.READY, False)
    reason = (
        "the thread that runs the script passed no checkpoint, and later requests were waiting"
        if hosted
        else "this process can't leave its loop and run new code: start it with 'spark-fast run' or spark.run()"
    )
    answer(entry, step, "refused", reason)
