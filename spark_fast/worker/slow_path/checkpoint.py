"""What a checkpoint does when a request is due: apply it, park, raise.

Mail: the content of a request, in the log's entry or in a file (runfiles/mailbox.py).
"""

import gc
import threading
import time
from typing import Any

from spark_fast import stderr
from spark_fast._core import TARGET_VOID, worker
from spark_fast.errors import SegmentError, SparkStopError, is_stop
from spark_fast.request import Kind, format_id
from spark_fast.worker import process, session
from spark_fast.worker.journal import writer
from spark_fast.worker.lifecycle.hosts import ring_hosts
from spark_fast.worker.reload import vote
from spark_fast.worker.reload.answers import answer
from spark_fast.worker.slow_path.dispatch import dispatcher
from spark_fast.worker.slow_path.parking import Hold
from spark_fast.worker.state import hooks, loops

__all__ = ["apply_due", "checkpoint", "enter_checkpoint", "note_stop"]

_GO, _HOLD, _RAISE_STOP, _RAISE_RELOAD, _DELIVER, _AWAIT = range(6)

_RING = 1.0
"""Seconds between two checks that this host's relay lives, while the worker waits for other hosts."""

_PATIENCE = 10.0
"""Seconds for which a pending reload may block later requests in other threads."""
_MAIL = (Kind.SET, Kind.CALL)
"""The kinds of requests that carry mail."""


def checkpoint(step: int, counted: bool, done: int | None) -> None:
    """Run the slow path of `checkpoint()`. The core calls this.

    done: flags of the loop that passes the checkpoint: ITEM_YIELDED if the loop has yielded a new item since it began,
        BODY_DONE if the body of its last item is completed; None if the checkpoint belongs to no loop.
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
    """Record that an exception leaves a checkpoint: if it is a stop, the stop rule remembers the place."""
    if is_stop(error):
        with session.current.lock:
            session.current.stop_raised = True
            process.current.stop_rule.raised(called=dispatcher.inside())


def enter_checkpoint(step: int, counted: bool, done: int | None) -> Hold | None:
    """Do what is due when a thread arrives at a checkpoint.

    Returns and raises as apply_due(), which alone is called when a waiting thread checks again.
    """
    if not session.begun():
        process.attach()  # without the session's lock, which it takes after another lock
        step = worker.step()
    if hooks.current.inside():
        # A hook's checkpoint is no step of the loop, which stands still. Requests are applied when the hook has ended.
        if counted:
            worker.uncount()
        return None
    if loops.waiting():
        loops.forget_unwound()
    session.current.passed = True
    with session.current.lock:
        if counted and dispatcher.inside():
            step = dispatcher.pass_inner()
    reloader = session.current.reloader
    if counted and reloader is not None and reloader.thread == threading.get_ident():
        # A checkpoint that a called function passes proves nothing about the loop's code. This runs without the lock,
        # since finalizers of the old code's objects run now and may wait for threads that pass checkpoints.
        reloader.pass_checkpoint(0 if dispatcher.inside() else done)
    return apply_due(step, counted)


def apply_due(step: int, counted: bool) -> Hold | None:
    """Apply the requests that are due; return the park, if they ask for one.

    Raises SparkStopError or SparkReloadError.
    """
    while True:
        changes = worker.changes()
        step, action, seq, park_for, entry = _act(step, counted)
        if action == _AWAIT:
            _hosts_wait.wait(seq, changes)
            continue
        if action != _DELIVER or entry is None:
            break
        # Without the lock: a called function may take long, and other threads go on during it.
        try:
            dispatcher.deliver(entry, step)
        finally:
            with session.current.lock:
                if session.current.replay is not None:
                    session.current.replay.delivered(entry["id"])
    if action == _HOLD and not dispatcher.stands_over(seq):
        return Hold(step, counted, seq, park_for, apply_due)
    if action == _RAISE_STOP and entry is not None:
        _stop(format_id(entry["id"]), step, entry["sender"])
    return None


def _stop(request_id: str, step: int, sender: str) -> None:
    """Raise the stop in force if the rule of stopping.py has this checkpoint raise it."""
    with session.current.lock:
        applies = process.current.stop_rule.applies(called=dispatcher.inside())
    if applies:
        raise SparkStopError(request_id, step, sender)


class _Collector:
    """Switches the garbage collector off, on demand, until the block ends.

    The collector runs the user's finalizers, which may wait for threads that pass checkpoints. So it must not run in a
    thread that holds the session's lock. A reload makes enough objects to trigger it.
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
    """Apply the log once, and begin or refuse reloads; return the step, and what to do once the lock is released."""
    with _Collector() as collector, session.current.lock:
        alone = process.current.local_stop.pending()
        if alone is not None:
            if not counted:
                return step, _GO, 0, 0.0, None  # the next counted checkpoint raises the stop
            _stop(alone[0], step, alone[1])
            return step, _GO, 0, 0.0, None
        if counted:
            left = dispatcher.left_over()
            if left is not None:
                return step, _DELIVER, left["seq"], 0.0, left
            replay = session.current.replay
            if replay is not None:
                replay.append_due(step, within=dispatcher.running_call(), inner=dispatcher.inner())
        reloader = session.current.reloader
        mine = reloader is not None and reloader.thread == threading.get_ident()
        # mine: this thread is the one that can leave its loop for a reload.
        # refused: a reload was refused in this call.
        # gives_way: this thread takes the blocking reload from the log, to refuse it.
        # beside: this thread takes mail although another thread delivers, since other requests wait behind that mail.
        refused = gives_way = beside = False
        while True:
            # Only the reloader's thread can run new code: other threads leave a reload to it.
            action, seq, park_for, entry = _apply_log(
                step,
                counted,
                reload=mine or reloader is None or gives_way,
                mail=beside or dispatcher.mine() or not dispatcher.busy(),
                inner=dispatcher.inner(),
            )
            if action == _RAISE_RELOAD and entry is not None:
                collector.switch_off()
                if mine and reloader is not None:
                    leaving = reloader.begin_reload(entry, step)
                    if leaving is not None:
                        raise leaving
                else:
                    _refuse_reload(entry, step, reloader is not None)
                refused, gives_way = True, False
            elif not counted or action not in (_GO, _HOLD):
                break
            elif not mine and not gives_way and _blocking_reload.is_to_be_refused():
                gives_way = True
            elif not beside and _mail_is_blocking():
                beside = True
            else:
                break
        if mine and reloader is not None and action in (_HOLD, _RAISE_STOP):
            collector.switch_off()
            reloader.publish_applied()
        if action == _HOLD and refused:
            Hold.publish_again(seq)
    return step, action, seq, park_for, entry


def _apply_log(
    step: int, counted: bool, *, reload: bool, mail: bool, inner: int
) -> tuple[int, int, float, dict[str, Any] | None]:
    try:
        found = worker.apply_due(step, counted, reload=reload, mail=mail, inner=inner)
        reloader = session.current.reloader
        writer.current.follow(reloader.project if reloader is not None else None)
        return found
    except (SegmentError, OSError) as error:
        session.lose_control(error)
        return _GO, 0, 0.0, None


class _HostsWait:
    """The wait for other hosts to say when a request is due.

    This host has told the others the first step at which it can apply the request. If it went on, it might pass the
    step that the hosts agree on.
    """

    def __init__(self) -> None:
        self._state: tuple[int, float, float] = 0, 0.0, 0.0
        """The entry that is waited for, the end of the wait, and when to check the relay next. One tuple, since threads
        and signal handlers call wait() at any time."""

    def wait(self, seq: int, changes: int) -> None:
        """Wait a while for the hosts' decision on entry `seq`; give it up when their patience ends."""
        from spark_fast import hosts  # only a job of several hosts needs it

        now = time.monotonic()
        folder = session.folder()
        if self._state[0] != seq and folder is not None:
            # The hosts decide, or give up, before this time is over.
            self._state = seq, now + hosts.patience(folder), now + _RING
        if now < self._state[1]:
            worker.wait_for_change(changes, min(_RING, self._state[1] - now))
            if time.monotonic() >= self._state[2]:
                self._state = seq, self._state[1], time.monotonic() + _RING
                ring_hosts()
            return
        with session.current.lock:
            if worker.give_up(seq) == TARGET_VOID:
                stderr.warn(
                    "no other host has said in time when a request is due that all were to follow together: this host "
                    "goes on without it"
                )


class _BlockingReload:
    """A reload that waits for the reloader's thread, and behind which later requests wait."""

    def __init__(self) -> None:
        self._state: tuple[int, float] = 0, 0.0
        """Its number in the log, and since when it blocks. One tuple, since a signal handler may run this code, too."""

    def is_to_be_refused(self) -> bool:
        """Return whether this thread, which is not the reloader's, must refuse a pending reload.

        It must if a stop is behind the reload in the log, or if other requests have waited there for too long.
        """
        applied, tail = worker.in_the_log()
        if tail - applied < 2:
            return False
        first, *behind = session.entries(applied + 1, tail) or [None]
        if first is None or first["kind"] != Kind.RELOAD:
            return False
        now = time.monotonic()
        if self._state[0] != first["seq"]:
            self._state = first["seq"], now
        stops = any(entry is not None and entry["kind"] == Kind.STOP for entry in behind)
        return stops or now - self._state[1] >= _PATIENCE


_hosts_wait = _HostsWait()
_blocking_reload = _BlockingReload()


def _mail_is_blocking() -> bool:
    """Return whether mail waits for a function that runs in another thread, and other requests wait behind the mail.

    A pause, say, has no reason to wait for that function.
    """
    if not dispatcher.busy() or dispatcher.mine():
        return False
    applied, tail = worker.in_the_log()
    if tail - applied < 2:
        return False
    waiting = session.entries(applied + 1, tail)
    kinds = [entry["kind"] for entry in waiting if entry is not None]
    return kinds[:1] != [] and kinds[0] in _MAIL and any(kind not in _MAIL for kind in kinds)


def _refuse_reload(entry: dict[str, Any], step: int, hosted: bool) -> None:
    vote.vote(entry["seq"], vote.READY, False)
    reason = (
        "the thread that runs the script passed no checkpoint, and later requests were waiting"
        if hosted
        else "this process can't leave its loop and run new code: start it with 'spark-fast run' or spark.run()"
    )
    answer(entry, step, "refused", reason)
