"""The park of a thread: its wait at a checkpoint, which the worker publishes as a pause."""

import threading
import time
from collections.abc import Callable
from typing import Optional

from spark_fast import _core, stderr
from spark_fast._core import worker
from spark_fast.request import Kind, format_id, sender_name
from spark_fast.runfiles import run_folder
from spark_fast.worker import session
from spark_fast.worker.lifecycle.hosts import ask_hosts
from spark_fast.worker.session import Reason
from spark_fast.worker.slow_path.dispatch import dispatcher
from spark_fast.worker.state import hooks

__all__ = ["Hold"]

_LOOK_AROUND = 1.0
"""Seconds between two checks of a parked worker for its control file, which may have been deleted."""
_BESIDE = 0.001
"""Seconds between two checks of a parked thread while another thread reloads or delivers."""
_AGAIN = 30.0
"""Seconds after which the hosts are asked once more to end a timed pause."""

ApplyDue = Callable[[int, bool], Optional["Hold"]]
"""Applies the requests that are due at a step; returns the park, if they ask for one."""


class Hold:
    """One park of one thread, from its pause hooks in begin() to its resume hooks in end().

    A signal handler may raise an exception at any line, so end() undoes as much as begin() has done.

    If several threads of the process pass checkpoints, each of them parks. The first one to park, the leader, runs the
    hooks and publishes the worker's state. A function that a controller calls while the leader is parked may park, too:
    then this inner park publishes, since the pause of the outer park may be over long ago. The inner park runs no
    hooks: those of the outer park are still in effect.
    """

    _leader: "Hold | None" = None
    _timed: tuple[int, float] = 0, 0.0
    """The last published timed pause, and when it ends. A reload during the pause does not restart its time."""

    def __init__(self, step: int, counted: bool, seq: int, park_for: float, apply_due: ApplyDue) -> None:
        self._apply_due = apply_due
        self._thread = threading.get_ident()
        self._depth = dispatcher.depth()
        self._outer: Hold | None = None
        self._step = step
        self._counted = counted
        self._seq = seq
        self._park_for = park_for
        self._published = 0
        self._ends: float | None = None
        self._resumed = False
        self._warned_of = 0
        """The timed pause that could not be ended in time and that the user was warned of."""

    @classmethod
    def publish_again(cls, seq: int) -> None:
        """Publish the park for pause `seq` again: the core ended the park for a reload, but the reload was refused."""
        if cls._leader is not None and cls._leader._published == seq:
            cls._leader._publish()

    def begin(self) -> None:
        """Run the pause hooks and publish that the worker is parked."""
        with session.current.lock:
            outer = Hold._leader
            if outer is None or (outer._thread == self._thread and outer._depth < self._depth):
                self._outer = outer
                Hold._leader = self
        if Hold._leader is self:
            if self._outer is None:
                self._run_hooks(resume=False)
            self._publish()

    def end(self) -> None:
        """Publish that the worker is no longer parked, and run the resume hooks."""
        if Hold._leader is self:
            Hold._leader = self._outer
            if not self._resumed:
                with session.current.lock:
                    worker.unparked(self._step)
            if self._outer is None:
                self._run_hooks(resume=True)

    @staticmethod
    def _run_hooks(*, resume: bool) -> None:
        if not hooks.current.any(resume=resume):
            return
        watch = session.current.watch
        watch.every(Reason.HOOK, True)  # the hooks' checkpoints do not count as the loop's
        try:
            hooks.current.run(resume=resume)
        finally:
            watch.every(Reason.HOOK, False)

    def should_wait(self) -> bool:
        """Apply the requests that are due; return whether the thread must wait (again).

        Raises SparkStopError or SparkReloadError.
        """
        if self._ends is not None and time.monotonic() >= self._ends:
            self._resume()
        hold = self._apply_due(self._step, self._counted)
        if hold is None:
            return False
        self._seq, self._park_for = hold._seq, hold._park_for
        if Hold._leader is self and self._seq != self._published:
            self._publish()
        return True

    def wait(self) -> bool:
        """Wait for a request, or until the next check is due. Return True if a resume came: the thread goes on."""
        began = time.monotonic()
        if self._counted:
            self._resumed = worker.wait_for_resume(self._step, self.timeout(), session.current.lock)
            if self._resumed:
                return True
        else:
            worker.wait(self.timeout())
        reloader = session.current.reloader
        beside = (dispatcher.busy() and not dispatcher.mine()) or (
            reloader is not None and reloader.thread != threading.get_ident()
        )
        if beside and time.monotonic() - began < _BESIDE:
            # Without this sleep the thread would spin: a request for another thread, or for a later step, leaves the
            # word set until it is applied.
            time.sleep(_BESIDE)
        return False

    def timeout(self) -> float:
        """Return the seconds until the next check, which comes even if nothing wakes the thread."""
        if self._ends is None:
            return _LOOK_AROUND
        return min(_LOOK_AROUND, max(0.0, self._ends - time.monotonic()))

    def _publish(self) -> None:
        self._published = self._seq
        now = time.monotonic()
        if self._park_for and Hold._timed[0] != self._seq:
            Hold._timed = self._seq, now + self._park_for
        self._ends = Hold._timed[1] if self._park_for else None
        deadline = 0.0 if self._ends is None else time.time() + max(0.0, self._ends - now)
        with session.current.lock:
            worker.parked(self._seq, self._step, deadline)

    def _resume(self) -> None:
        """End a timed pause whose time is over. All ranks apply this, since it is a request like any other."""
        try:
            sender = f"the pause's own timer in {sender_name()}"
            if session.has_remote_peers():
                pause = _core.read_entry(worker.fileno(), self._published)
                if pause is not None:
                    ask_hosts(Kind.RESUME, sender=sender, only_if=format_id(pause["id"]))
                self._ends = time.monotonic() + _AGAIN  # no answer comes here: if the hosts failed to agree, ask again
                return
            worker.append(
                Kind.RESUME,
                run_folder.new_id(),
                sender=sender,
                only_if_park_seq=self._published,
                timeout=_LOOK_AROUND / 2,
            )
            self._ends = None
        except Exception as error:
            # Another process holds the log, the log is gone, or no file can be opened. The next apply_due() handles a
            # log that is gone; otherwise this is tried again.
            self._ends = time.monotonic() + _LOOK_AROUND
            if self._warned_of != self._published:
                self._warned_of = self._published
                stderr.warn(f"the timed pause can't be ended yet, and is tried again each second: {error}")
