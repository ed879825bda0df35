"""What a checkpoint does when something is asked: apply, park, raise."""

import gc
import threading
import time
from typing import Any

from spark_fast import _core
from spark_fast._core import TARGET_VOID, worker
from spark_fast.errors import SegmentError, SparkStopError, is_stop
from spark_fast.request import Kind, format_id, sender_name
from spark_fast.runfiles import run_folder
from spark_fast.worker import session, stderr
from spark_fast.worker.slow_path import dispatch
from spark_fast.worker.state import hooks, loops

__all__ = ["Hold", "arrive", "checkpoint", "note_stop", "take_turn"]

_GO, _HOLD, _RAISE_STOP, _RAISE_RELOAD, _DELIVER, _AWAIT = range(6)

_BESIDE = 0.001
"""Seconds between the looks of a thread that is parked beside one that is being reloaded."""

_RING = 1.0
"""Seconds to wait for other hosts before it is looked whether somebody carries their word here."""

_AGAIN = 30.0
"""Seconds after which hosts that did not end a timed pause are asked once more."""

_PATIENCE = 10.0
"""Seconds for which a reload that waits for the thread that runs the script may hold up, in others, what was asked
behind it."""
_MAIL = (Kind.SET, Kind.CALL)
_in_the_way: tuple[int, float] = 0, 0.0
"""The last reload that did, and since when."""

LOOK_AROUND = 1.0
"""Seconds after which a parked worker looks whether its control file is still there."""


def checkpoint(step: int, counted: bool, done: int | None) -> None:
    """The slow path of `checkpoint()`, called by the core.

    done: of the loop that passes it, GIVEN if it has handed out a new item since it began, and ROUND if the body of its
        last item has come round; None if it is no loop's.
    """
    try:
        hold = arrive(step, counted, done)
        if hold is None:
            return
        try:
            hold.begin()
            while hold.goes_on() and not hold.wait():
                pass
        finally:
            hold.end()
    except BaseException as error:
        note_stop(error)
        raise


def note_stop(error: BaseException) -> None:
    """An exception leaves a checkpoint: if it is a stop, this is a place that has raised it."""
    if is_stop(error):
        with session.turns:
            session.stop_raised()
            session.stop_rule.raised(called=dispatch.inside() or hooks.inside())


def arrive(step: int, counted: bool, done: int | None) -> "Hold | None":
    """take_turn() of a thread that comes to a checkpoint, and not of one that waits there and looks again."""
    if not session.begun():
        session.attach()  # not holding the turns, which it takes after another lock
        step = worker.step()
    if loops.waiting():
        loops.forget_unwound()
    session.passed = True
    with session.turns:
        if counted and dispatch.inside():
            step = dispatch.pass_inner()
    host = session.host
    if counted and host is not None and host.thread == threading.get_ident():
        # What a function that was called passes says nothing of the loop's code. The turns are not held: what the old
        # code made goes now, and may wait for threads that pass checkpoints.
        host.pass_checkpoint(0 if dispatch.inside() else done)
    return take_turn(step, counted)


def take_turn(step: int, counted: bool) -> "Hold | None":
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
        dispatch.deliver(entry, step)
    if action == _HOLD and not dispatch.stands_over(seq) and not hooks.inside():
        return Hold(step, counted, seq, park_for)
    if action == _RAISE_STOP and entry is not None:
        _stop(format_id(entry["id"]), step, entry["sender"])
    return None


def _stop(request_id: str, step: int, sender: str) -> None:
    """Raises the stop that is in force, where the rule of stopping.py has it raised."""
    with session.turns:
        applies = session.stop_rule.applies(called=dispatch.inside() or hooks.inside())
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
    with _Collector() as collector, session.turns:
        alone = session.stops_alone()
        if alone is not None:
            if not counted:
                return step, _GO, 0, 0.0, None  # on to one that counts
            _stop(alone[0], step, alone[1])
            return step, _GO, 0, 0.0, None
        if counted:
            left = dispatch.left_over()
            if left is not None:
                return step, _DELIVER, left["seq"], 0.0, left
            session.replay_due(step)
        host = session.host
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
            Hold.stands(seq)
    return step, action, seq, park_for, entry


def _turn(
    step: int, counted: bool, *, reload: bool, mail: bool, inner: int
) -> tuple[int, int, float, dict[str, Any] | None]:
    try:
        found = worker.turn(step, counted, reload=reload, mail=mail, inner=inner)
        session.follow()
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
            session.ring_hosts()
        return
    with session.turns:
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


class Hold:
    """One park of one thread, from its pause hooks in begin() to its resume hooks in end().

    An exception, of a signal handler say, may arrive at any line: end() puts right whatever begin() came to.

    Where several threads of the process pass checkpoints, each parks; the first to come runs the hooks and speaks for
    the worker. While it runs a function that was called there, a park within that function speaks for the worker: what
    the one around it waited for may be long over. The hooks of that one still stand.
    """

    _leader: "Hold | None" = None
    _timed: tuple[int, float] = 0, 0.0
    """The timed pause that was last published, and when it ends. A reload meanwhile does not begin it anew."""

    def __init__(self, step: int, counted: bool, seq: int, park_for: float) -> None:
        self._thread = threading.get_ident()
        self._depth = dispatch.depth()
        self._outer: Hold | None = None
        self._step = step
        self._counted = counted
        self._seq = seq
        self._park_for = park_for
        self._published = 0
        self._ends: float | None = None
        self._resumed = False
        self._told_late = 0
        """The timed pause that could not be ended in time, and of which a warning has told."""

    @classmethod
    def stands(cls, seq: int) -> None:
        """The core took a reload for the end of the park for pause `seq`, and it was refused: publishes it again."""
        if cls._leader is not None and cls._leader._published == seq:
            cls._leader._publish()

    def begin(self) -> None:
        """Runs the pause hooks and publishes that the worker is parked."""
        with session.turns:
            outer = Hold._leader
            if outer is None or (outer._thread == self._thread and outer._depth < self._depth):
                self._outer = outer
                Hold._leader = self
        if Hold._leader is self:
            if self._outer is None:
                hooks.run(resume=False)
            self._publish()

    def end(self) -> None:
        """Publishes that the worker is parked no more, and runs the resume hooks."""
        if Hold._leader is self:
            Hold._leader = self._outer
            if not self._resumed:
                with session.turns:
                    worker.unparked(self._step)
            if self._outer is None:
                hooks.run(resume=True)

    def goes_on(self) -> bool:
        """Applies what has come; whether the thread is to wait (again). Raises SparkStopError or SparkReloadError."""
        if self._ends is not None and time.monotonic() >= self._ends:
            self._resume()
        hold = take_turn(self._step, self._counted)
        if hold is None:
            return False
        self._seq, self._park_for = hold._seq, hold._park_for
        if Hold._leader is self and self._seq != self._published:
            self._publish()
        return True

    def wait(self) -> bool:
        """Waits until something has come, or it is time to look around. True if it was a resume: the thread goes on."""
        began = time.monotonic()
        if self._counted:
            self._resumed = worker.wait_for_resume(self._step, self.timeout(), session.turns)
            if self._resumed:
                return True
        else:
            worker.wait(self.timeout())
        host = session.host
        beside = (dispatch.busy() and not dispatch.mine()) or (
            host is not None and host.thread != threading.get_ident()
        )
        if beside and time.monotonic() - began < _BESIDE:
            # What has come may be for another thread, or for later: the word tells of it until it was taken.
            time.sleep(_BESIDE)
        return False

    def timeout(self) -> float:
        """Seconds to wait before the next look, woken or not."""
        if self._ends is None:
            return LOOK_AROUND
        return min(LOOK_AROUND, max(0.0, self._ends - time.monotonic()))

    def _publish(self) -> None:
        self._published = self._seq
        now = time.monotonic()
        if self._park_for and Hold._timed[0] != self._seq:
            Hold._timed = self._seq, now + self._park_for
        self._ends = Hold._timed[1] if self._park_for else None
        deadline = 0.0 if self._ends is None else time.time() + max(0.0, self._ends - now)
        with session.turns:
            worker.parked(self._seq, self._step, deadline)

    def _resume(self) -> None:
        """The time of a timed pause is over. The resume is a request like any other, so that all ranks apply it."""
        try:
            sender = f"the pause's own timer in {sender_name()}"
            if session.elsewhere():
                pause = _core.read_entry(worker.fileno(), self._published)
                if pause is not None:
                    session.ask_hosts(Kind.RESUME, sender=sender, only_if=format_id(pause["id"]))
                self._ends = time.monotonic() + _AGAIN  # nobody answers here; if they could not meet, once more
                return
            worker.append(
                Kind.RESUME,
                run_folder.new_id(),
                sender=sender,
                only_if_park_seq=self._published,
                timeout=LOOK_AROUND / 2,
            )
            self._ends = None
        except Exception as error:
            # Another process holds the log, the log is gone, or no file can be opened. The turn that follows tells
            # which. Tried again after it.
            self._ends = time.monotonic() + LOOK_AROUND
            if self._told_late != self._published:
                self._told_late = self._published
                stderr.warn(f"the timed pause can't be ended yet, and is tried again each second: {error}")
