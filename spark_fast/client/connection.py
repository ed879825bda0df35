"""A controller's connection to a run: its control file, read, waited for and found by the run's id."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from spark_fast import _core
from spark_fast._core import Segment
from spark_fast.client.deadline import Deadline, wait_until
from spark_fast.client.snapshot import Snapshot, status_of_ranks, step_of_ranks
from spark_fast.errors import LogFullError, NoSuchRunError, SegmentError, SparkError
from spark_fast.request import UNDECIDED, Fate, FateState, fate_of
from spark_fast.runfiles import names, run_folder
from spark_fast.runfiles.descriptors import is_short
from spark_fast.runfiles.homes import Home, opened_homes
from spark_fast.status import Rank, SparkStatus, WorkerState

__all__ = ["REMOTE", "Connection", "connections", "find", "find_or_none", "open_in"]

REMOTE = -1
"""The sequence number of a request to a job of several hosts: each host's log has the request under another number."""

_INTERVAL = 0.1
"""Seconds after which a wait looks whether the worker still lives. Each change that a worker publishes ends the sleep
at once."""


class Connection:
    """The control file of a run, open to be read, and mapped once a request is sent or waited for.

    The modules of this package take a connection, and `Run` is the public object around it. Any thread may use it. Each
    method reads the file anew. Once the run's folder is gone, they read what was last written there.

    Attributes:
        folder: the run folder.
        info: the content of `run.json`.
        control: a descriptor of the control file, which this object closes.
        idle_parent: the connection to the run whose worker forked this run's process and passes no checkpoints itself,
            if the user named that run. A stop goes to both.
    """

    def __init__(self, folder: Path, info: run_folder.RunInfo, control: int) -> None:
        self.folder = folder
        self.info = info
        self.control = control
        self.idle_parent: Connection | None = None
        self._segment: Segment | None = None

    def __reduce__(self) -> tuple[object, ...]:
        # A copy, or one in another process, needs a descriptor of its own.
        return find, (self.id,)

    def __del__(self) -> None:
        control = getattr(self, "control", -1)
        if control >= 0:
            os.close(control)

    @property
    def id(self) -> str:
        """The run id."""
        return self.info.id

    # --- reading ---

    def view(self) -> dict[str, Any]:
        """Return the header. Raises SegmentError."""
        return _core.read_view(self.control)

    def slots(self) -> list[dict[str, Any]]:
        """Return the slots of this host's ranks. Raises SegmentError."""
        return [_core.read_slot(self.control, rank) for rank in range(self.view()["slot_count"])]

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries that the log still holds, oldest first. Raises SegmentError."""
        tail = self.view()["tail"]
        first = max(1, tail - _core.LOG_CAPACITY + 1)
        found = (_core.read_entry(self.control, seq) for seq in range(first, tail + 1))
        return [entry for entry in found if entry is not None]

    def snapshot(self) -> Snapshot | None:
        """Return what the control file says now; None if it is damaged or gone.

        Notes the time at which ranks died, if no process has noted it.
        """
        try:
            found = Snapshot(self.control, self._peers)
            if len(found.slots) > 1 and (dead := found.unseen_deaths()):
                for slot in dead:
                    with suppress(SegmentError, OSError):  # the rank is dead without the note, too
                        self.segment().note_lost(slot)
                found = Snapshot(self.control, self._peers)
            return found
        except SegmentError:
            return None

    def _peers(self) -> list[Rank]:
        from spark_fast.client import multihost  # only a job of several hosts loads it, which takes some time

        return multihost.peers(self.folder)

    @property
    def ranks(self) -> list[Rank]:
        """The ranks that have ever joined, on all hosts."""
        return self.ranks_of(self.snapshot())

    def ranks_of(self, snapshot: Snapshot | None) -> list[Rank]:
        """Return the ranks in a snapshot; one lost rank if there is no snapshot."""
        if snapshot is None:
            return [Rank(0, SparkStatus.LOST, 0, self.info.pid, self.info.host)]
        return snapshot.ranks(self.info)

    @property
    def status(self) -> SparkStatus:
        """See `Run.status`."""
        return status_of_ranks(self.ranks)

    @property
    def step(self) -> int:
        """See `Run.step`."""
        return step_of_ranks(self.ranks)

    @property
    def local_world_size(self) -> int:
        """See `Run.local_world_size`."""
        found = self.snapshot()
        return 1 if found is None else len(found.slots)

    def is_idle(self) -> bool:
        """Return whether the only rank lives and has passed no checkpoint."""
        return self.info.world_size == 1 and self.step == 0 and self.status.live

    def is_same_worker(self, other: "Connection") -> bool:
        """Return whether both lead to the same worker process, not to its successor under the same run id."""
        return (self.info.pid, self.info.started) == (other.info.pid, other.info.started)

    def has_remote_ranks(self) -> bool:
        """Return whether the job has ranks on other hosts, which take part in the decision of each request."""
        if self.info.world_size == 1:
            return False
        try:
            return bool(self.info.world_size > self.view()["slot_count"])
        except SegmentError:
            return False

    def remote_ranks_may_live(self) -> bool:
        """Return whether ranks of other hosts live, or may live."""
        found = self.snapshot()
        if found is None:
            return False
        from spark_fast.client import multihost  # see _peers()

        return not multihost.have_ended(found.peers, self.info.world_size - len(found.slots))

    def why_ended(self) -> str:
        """Return the reason for which a run that is not live refuses a request."""
        found = self.snapshot()
        status = status_of_ranks(self.ranks_of(found))
        if found is None or not self.has_remote_ranks():
            return f"the run has ended: it is {status}"
        from spark_fast.client import multihost  # see _peers()

        return multihost.why_not_here(status, found.peers, self.info.world_size - len(found.slots))

    # --- the mapped control file ---

    def segment(self) -> Segment:
        """Return the mapped control file; map it if it is not. Raises SegmentError, OSError."""
        found = self._segment  # another thread may release it
        if found is None:
            found = self._segment = Segment(self.folder / run_folder.CONTROL)
        return found

    def release(self) -> None:
        """Unmap the control file, until it is needed again."""
        self._segment = None

    def with_stuck_rank(self, error: LogFullError) -> LogFullError:
        """Return the error that also names the rank that has applied the fewest requests. Raises SegmentError."""
        alive = [(slot["applied"], slot["rank"], slot["step"]) for slot in self.slots() if slot["alive"]]
        if not alive:
            return error
        applied, rank, step = min(alive)
        oldest = _core.read_entry(self.control, applied + 1)
        since = time.time() if oldest is None else oldest["asked"]
        return LogFullError(error.reason, error.path, rank, step, since)

    def fate(self, seq: int, ident: int) -> Fate:
        """Return the fate of a request.

        seq: its number in the log; REMOTE for a request to several hosts.
        ident: its id.
        """
        if seq == REMOTE:
            from spark_fast.client import multihost  # see _peers()

            return multihost.fate(self.folder, ident, self.step)
        try:
            # Life first: what a worker published before it died is then read after its death was seen.
            slots = self.slots()
            alive = any(slot["alive"] and slot["state"] < WorkerState.STOPPED for slot in slots)
            ended = str(self.status)
            fate = fate_of(self.control, seq, ident, folder=self.folder, alive=alive, ended=ended)
            if fate.reason == UNDECIDED:
                self.segment().void_orphan(seq)
                fate = fate_of(self.control, seq, ident, folder=self.folder, alive=alive, ended=ended)
            if not fate.final and len(slots) > 1:
                concluded = self.segment().conclude(seq)
                if concluded is None:
                    return Fate(FateState.LOST, reason="the ranks that were to do it have died")
                if concluded:
                    fate = fate_of(self.control, seq, ident, folder=self.folder, alive=alive, ended=ended)
            if fate == Fate(FateState.ASKED) and all(slot["state"] <= WorkerState.IDLE for slot in slots):
                return Fate(FateState.ASKED, reason="the run has passed no checkpoint yet")
            return fate
        except SegmentError as error:
            return Fate(FateState.LOST, reason=str(error))

    def wait_until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `done()` is true. Return whether it was in time.

        done: called after each change that a worker publishes, and each tenth of a second.
        timeout: seconds to wait at most; None for no limit.
        """
        return wait_until(done, Deadline(timeout), interval=_INTERVAL, arm=self._arm)

    def _arm(self) -> Callable[[float], object]:
        try:
            segment = self.segment()
            seen = segment.changes()
        except (SegmentError, OSError):  # no control file any more, so no change will wake us
            return time.sleep

        def sleep(seconds: float) -> None:
            try:
                segment.wait(seen, seconds)
            except SegmentError:
                self.release()

        return sleep


def open_in(home: Home, run: str) -> Connection:
    """Connect to the run of this name in a folder of runs.

    Raises FileNotFoundError if there is none; FolderRefusedError, LayoutError, SegmentError or another OSError if it
    can't be used.
    """
    folder = run_folder.open_run(home, run)
    path = home.path / run
    try:
        control = run_folder.open_control(folder, path)
        try:
            info = run_folder.read_info(folder)
            if os.fstat(control).st_nlink == 0:
                raise FileNotFoundError(f"run {run} is being removed or replaced")
            if info is None:
                raise SegmentError("no readable run.json beside it", str(path / run_folder.CONTROL))
            if run_folder.elsewhere(info):
                raise SegmentError(
                    f"a run of the machine {info.host}: control it there", str(path / run_folder.CONTROL)
                )
            try:
                _core.read_view(control)
            except SegmentError as error:
                raise run_folder.name_path(error, path / run_folder.CONTROL) from None
            return Connection(path, info, control)
        except BaseException:
            os.close(control)
            raise
    finally:
        os.close(folder)


def connections(*, ended: bool = True) -> list[Connection]:
    """Connect to all runs of this user on this host, the one that began first in front. See `client.runs()`."""
    found: dict[str, Connection] = {}
    with opened_homes() as homes:
        for home in homes:
            for name in run_folder.run_names(home):
                try:
                    run = open_in(home, name)
                except (OSError, SparkError) as error:
                    if is_short(error):
                        raise  # the folders that follow can't be read either, and may be those of the live runs
                    continue
                known = found.get(name)
                if (ended or run.status.live) and (known is None or known.info.started < run.info.started):
                    found[name] = run
    return sorted(found.values(), key=lambda run: run.info.started)


def find(run: str) -> Connection:
    """Connect to the run of exactly this id. Raises NoSuchRunError, and what `open_in()` raises."""
    found = find_or_none(run)
    if found is None:
        raise NoSuchRunError(run, [each.id for each in connections(ended=False)])
    return found


def find_or_none(run: str) -> Connection | None:
    """Connect to the run of exactly this id; None if there is no such run. Raises what `open_in()` raises."""
    found: Connection | None = None
    if not names.valid(run):
        return None
    with opened_homes() as homes:
        for home in homes:
            with suppress(FileNotFoundError):
                other = open_in(home, run)
                # Two of one name: one has ended, and its folder could not be used for a while.
                if found is None or found.info.started < other.info.started:
                    found = other
    return found
