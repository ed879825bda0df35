"""The state of this process as a worker. All modules of the worker may import it; it imports none of them."""

import copy
import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_fast import _core, stderr
from spark_fast._core import NEVER, worker
from spark_fast.errors import SegmentError
from spark_fast.launchers import RankInfo
from spark_fast.status import WorkerState

if TYPE_CHECKING:
    from spark_fast.worker.reload.reloader import Reloader
    from spark_fast.worker.slow_path.replay_driver import ReplayDriver

__all__ = [
    "Life",
    "Parent",
    "Reason",
    "Session",
    "Watch",
    "begun",
    "current",
    "entries",
    "first_here",
    "folder",
    "forked",
    "has_local_peers",
    "has_remote_peers",
    "is_distributed",
    "is_in_the_log",
    "lose_control",
    "rank",
    "run_id",
    "slot",
]


class Life(Enum):
    """Whether this process is a worker: not yet, yes, or not any more."""

    NEW = 0
    ATTACHED = 1
    OFF = 2


@dataclass(frozen=True)
class Parent:
    """The worker that a process was forked from.

    Attributes:
        run: the worker's run.
        pid: the worker's process.
        trains: whether the worker had passed a checkpoint.
        control: the worker's control file.
    """

    run: str
    pid: int
    trains: bool
    control: Path


class Reason(Enum):
    """Why every checkpoint takes the slow path for now."""

    RELOAD_ON_TRIAL = 0
    """New code is on probation: the reloader checks each checkpoint."""
    DELIVERY = 1
    """A request is being delivered: its checkpoints must be told from the loop's."""
    LOOPS_UNWOUND = 2
    """An exception has unwound loops that may still go on: the next checkpoint decides that."""
    HOOK = 4
    """Functions of on_pause() or on_resume() run: their checkpoints are no steps of the loop."""
    LOCAL_STOP = 3
    """This process stops alone, or waits for the other hosts' answer to a stop."""


class Watch:
    """Decides which checkpoints take the slow path although no request is due.

    The methods take no lock: finalizers and signal handlers may call one while another is running.
    """

    def __init__(self) -> None:
        self._reasons: set[Reason] = set()
        self._step: int | None = None

    def every(self, reason: Reason, whether: bool) -> None:
        """Have every checkpoint take the slow path for this reason, or let that end."""
        if whether == (reason in self._reasons):
            return
        if whether:
            self._reasons.add(reason)
        else:
            self._reasons.discard(reason)
        self.publish()

    def at(self, step: int | None) -> None:
        """Have the checkpoint of this step take the slow path; None for no step."""
        self._step = step
        self.publish()

    def publish(self) -> None:
        """Hand the next step to watch to the core."""
        while True:
            step = self._next()
            worker.watch(step)
            if step == self._next():  # else a finalizer has published another step, which this has overwritten
                return

    def after_fork(self) -> "Watch":
        """Return the watch for a child that was forked just now: its loops stand where the parent's stood."""
        child = Watch()
        child._reasons = self._reasons & {Reason.LOOPS_UNWOUND}
        return child

    def _next(self) -> int:
        return 0 if self._reasons else NEVER if self._step is None else self._step


class Session:
    """The state of this process as a worker, and its run.

    Attributes:
        lock: Held by every thread that reads or changes the worker's place in the log. Reentrant: a signal handler may
            run at any bytecode of the slow path and pass a checkpoint itself.
        attaching: Whether the thread that holds the locks is making the run. A signal handler of that thread may need
            the run, too.
        parent: The worker that this process was forked from; None if it was not.
        pid: The id of this process, once it is a worker.
        passed: Whether a checkpoint was passed.
        place: The rank of this process in its job; None if it is alone.
        run, folder: The run's id and its folder. They stay when control is lost; see run_id() and folder().
        folder_lock: A descriptor of the run's folder with a lock on it; -1 for none.
        reloader: The reloader, which runs the loop again after a reload; None if there is none.
        replay: The journal that is replayed; None if none is.
        command: The command to list the run with; None for the interpreter's own.
        stop_raised: Whether a checkpoint has raised SparkStopError.
        outcome: How the run ended. The runner sets it; it overrides the interpreter's last error.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.life = Life.NEW
        self.attaching = False
        self.parent: Parent | None = None
        self.pid = 0
        self.passed = False
        self.place: RankInfo | None = None
        self.run: str | None = None
        self.folder: Path | None = None
        self.folder_lock = -1
        self.reloader: Reloader | None = None
        self.replay: ReplayDriver | None = None
        self.command: list[str] | None = None
        self.stop_raised = False
        self.outcome: WorkerState | None = None
        self.watch = Watch()

    def after_fork(self) -> "Session":
        """Return the session of a child that was forked just now.

        Another thread of the parent may have held the lock, so the child gets a new one. The caller sets `parent` and
        calls `become_new()` if this was a worker's session.
        """
        child = copy.copy(self)
        child.lock = threading.RLock()
        child.attaching = False
        child.reloader = child.replay = None
        child.watch = self.watch.after_fork()
        return child

    def become_new(self, parent: Parent) -> None:
        """Forget the run of the worker that this process was forked from."""
        self.life = Life.NEW
        self.parent = parent
        self.run = self.folder = self.place = self.outcome = None
        self.passed = self.stop_raised = False


current = Session()
"""The session of this process. A forked child gets a new one: don't keep it across code that may fork."""


def begun() -> bool:
    """Return whether it is decided that this process is the worker of a run, or that it is none."""
    return current.life is not Life.NEW


def forked() -> bool:
    """Return whether this process was forked from a worker and has passed no checkpoint yet."""
    return current.life is Life.NEW and current.parent is not None


def run_id() -> str | None:
    """Return the id of the run whose worker this process is, else None."""
    return current.run if worker.attached() else None


def folder() -> Path | None:
    """Return the folder of this process's run; None if nothing controls this process."""
    return current.folder if worker.attached() else None


def has_local_peers() -> bool:
    """Return whether other ranks share this process's run."""
    place = current.place
    return place is not None and place.local_world_size > 1


def is_distributed() -> bool:
    """Return whether other ranks, on this host or others, act at the same steps as this process."""
    place = current.place
    return place is not None and place.world_size > 1


def has_remote_peers() -> bool:
    """Return whether the job has ranks on other hosts, which take part in each decision."""
    place = current.place
    return place is not None and place.world_size > place.local_world_size


def rank() -> int | None:
    """Return this process's rank in its job; None if no other rank shares its run."""
    place = current.place
    return place.rank if place is not None and place.local_world_size > 1 else None


def slot() -> int:
    """Return the number of this process's slot in its run."""
    place = current.place
    return 0 if place is None else place.local_rank


def first_here() -> bool:
    """Return whether this process is the first rank of its host, which keeps the run's only board and journal."""
    return slot() == 0


def lose_control(error: Exception) -> None:
    """Give up control: the control file can't be used any more. The loop goes on."""
    with current.lock:
        if current.life is not Life.ATTACHED:
            return
        current.life = Life.OFF
        worker.detach()
        stderr.warn(f"control of run {current.run} is lost: {error}. The training goes on without.")


def entries(first: int, last: int) -> list[dict[str, Any] | None]:
    """Return these entries of the log: None for one that the log has dropped, an empty list if the log is gone."""
    try:
        return [_core.read_entry(worker.fileno(), seq) for seq in range(first, last + 1)]
    except (OSError, SegmentError):
        return []


def is_in_the_log(ident: int) -> bool:
    """Return whether the log still holds the request with this id."""
    _, tail = worker.in_the_log()
    kept = entries(max(1, tail - _core.LOG_CAPACITY + 1), tail)
    return any(entry is not None and entry["id"] == ident for entry in kept)
