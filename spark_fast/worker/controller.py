"""Control from inside the training process."""

from spark_fast import _core
from spark_fast._core import worker
from spark_fast.errors import SegmentError
from spark_fast.request import Fate, FateState, Kind, Verdict, format_id, sender_name
from spark_fast.runfiles import run_folder
from spark_fast.status import SparkStatus, status_of
from spark_fast.worker import process, session
from spark_fast.worker.lifecycle.hosts import ask_hosts

__all__ = ["SparkController", "controller", "create_controller"]


class SparkController:
    """Controls the run whose worker this process is. Get it with `create_controller()`.

    Requests go into the run's log like those from outside, and take effect at the next checkpoint. The methods don't
    wait for it, since the calling thread may be the one that must pass the checkpoint. They return the request's state
    so far: `asked`, or `refused` with the reason. Any thread may call them, and so may Python's signal handlers.
    """

    @property
    def status(self) -> SparkStatus:
        """The last action of this worker; `idle` before the first checkpoint, and if nothing controls this process."""
        fd = worker.fileno()
        if fd < 0:
            return SparkStatus.IDLE
        try:
            return status_of(_core.read_view(fd), _core.read_slot(fd, session.slot()))
        except (OSError, SegmentError):  # the control file is gone: the next checkpoint warns of that
            return SparkStatus.IDLE

    @property
    def run(self) -> str | None:
        """The id of this process's run; None before the first checkpoint, and if nothing controls this process."""
        return session.run_id()

    def pause(self) -> Fate:
        """Ask the run to park at its next checkpoint, until it is resumed from outside or by another thread."""
        return self._ask(Kind.PAUSE)

    def resume(self) -> Fate:
        """Ask the run to go on. This does nothing if the run is not paused."""
        return self._ask(Kind.RESUME)

    def stop(self) -> Fate:
        """Ask the run to stop: its next checkpoint raises SparkStopError, by the rule that `checkpoint()` states."""
        return self._ask(Kind.STOP)

    def checkpoint(self) -> None:
        """Pass a checkpoint, as `spark_fast.checkpoint()` does."""
        worker.checkpoint()

    def _ask(self, kind: Kind) -> Fate:
        # A process that was forked from a worker may not be one that trains. It becomes a worker at its first
        # checkpoint.
        if session.forked() or not process.attach():
            return Fate(FateState.REFUSED, reason="nothing controls this process")
        try:
            if session.has_remote_peers():
                _, why = ask_hosts(kind, sender=sender_name())
                return Fate(FateState.ASKED) if why is None else Fate(FateState.REFUSED, reason=why)
            verdict, seq, _target = worker.append(kind, run_folder.new_id(), sender=sender_name())
        except Exception as error:  # a log that is full or gone, no descriptor left, what the hosts' store raises
            return Fate(FateState.REFUSED, reason=str(error))
        if verdict == Verdict.APPENDED:
            return Fate(FateState.ASKED)
        if verdict == Verdict.NOTHING_TO_DO:
            entry = _core.read_entry(worker.fileno(), seq) if seq else None
            by = format_id(entry["id"]) if entry is not None else None
            return Fate(FateState.APPLIED, step=worker.step(), by=by, reason="nothing to do")
        return Fate(FateState.REFUSED, reason="the run is stopping")


_controller = SparkController()


def create_controller() -> SparkController:
    """Return the controller of this process, always the same object. This makes no run."""
    return _controller


controller = create_controller
