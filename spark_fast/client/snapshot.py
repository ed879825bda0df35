"""The content of a control file at one moment, and what it says of the run."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spark_fast import _core
from spark_fast.runfiles import run_folder
from spark_fast.status import (
    Progress,
    Rank,
    SparkStatus,
    WorkerState,
    mean_speed,
    progress_of,
    status_of,
)

__all__ = ["Snapshot", "SpeedMeter", "status_of_ranks", "step_of_ranks"]


_APPLIED = 1
"""SF_OUTCOME_APPLIED of csrc/sf_layout.h."""
_WITHIN = 1.0
"""Seconds in which a rank that has not applied a request yet is not reported as late."""


class Snapshot:
    """The content of a control file at one moment. Costs some 5 µs for a run of one rank.

    Two snapshots are equal if they have the same content.
    """

    def __init__(self, control: int, peers: Callable[[], list[Rank]] | None = None) -> None:
        """Read the control file. Raises SegmentError if it can't be used.

        Args:
            control: a descriptor of the file.
            peers: returns the ranks of the other hosts; called if the job has any.
        """
        self._control = control
        self.view = _core.read_view(control)
        self.slots = [_core.read_slot(control, rank) for rank in range(self.view["slot_count"])]
        elsewhere = self.view["world_size"] > self.view["slot_count"]
        self.peers = peers() if peers is not None and elsewhere else []

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return False
        return self.slots == other.slots and self.view == other.view and self.peers == other.peers

    __hash__ = None  # type: ignore[assignment] # it holds dicts

    def ranks(self, info: run_folder.RunInfo) -> list[Rank]:
        """Return the workers that have ever joined, on all hosts of the job, by rank."""
        there = [slot for slot in self.slots if slot["state"] != WorkerState.NONE or slot["alive"]]
        here = {slot["rank"] for slot in there}
        found = [peer for peer in self.peers if peer.rank not in here]
        # A host that has told nothing yet of a rank shows it without a process, at step 0.
        heard = {peer.rank for peer in found if peer.pid and peer.status.live}
        steps = [slot["step"] for slot in there if slot["alive"]] + [peer.step for peer in found if peer.rank in heard]
        furthest = max(steps, default=0)
        stride = self.first()["stride"] or 1  # every rank of a job has the same
        found = [
            replace(peer, behind=furthest - peer.step if peer.rank in heard else 0, stride=stride) for peer in found
        ]
        applied = self._applied()
        for slot in there:
            status = status_of(self.view, slot)
            lost = status is SparkStatus.LOST
            found.append(
                Rank(
                    slot["rank"],
                    status,
                    slot["step"],
                    slot["pid"],
                    info.host,
                    since=slot["lost"] if lost else slot["state_since"],
                    behind=max(0, furthest - slot["step"]) if slot["alive"] else 0,
                    overdue=self._overdue(slot) if slot["alive"] and slot["applied"] < applied else 0.0,
                    stride=slot["stride"],
                )
            )
        return sorted(found, key=lambda rank: rank.rank)

    def _applied(self) -> int:
        """Return the number of the newest request that each living rank should have applied.

        An only rank should have applied all requests; of several, each those that another has applied.
        """
        if self.view["world_size"] == 1 and len(self.slots) == 1:
            return int(self.view["tail"])
        return max((slot["applied"] for slot in self.slots if slot["alive"]), default=0)

    def waits(self) -> bool:
        """Return whether a rank has not applied what it should have. For how long, only a later snapshot can tell."""
        applied = self._applied()
        return any(slot["alive"] and slot["applied"] < applied for slot in self.slots)

    def _overdue(self, slot: dict[str, Any]) -> float:
        """Return for how many seconds the oldest request that this rank could have applied has waited."""
        entry = _core.read_entry(self._control, slot["applied"] + 1)
        if entry is None or entry["target"] in (_core.TARGET_NONE, _core.TARGET_VOID):
            return 0.0  # its sender may have died before the rank could see it
        # A rank that has joined since, or was started again, could not apply it before.
        since: float = time.time() - max(entry["asked"], slot["state_since"])
        return since if since >= _WITHIN else 0.0

    def in_first_step(self, now: float) -> float:
        """Return the seconds that an only rank has spent in its first step since it began to run; 0 in a later step.

        The start of a later step is not known: the worker would have to read a clock in each step.
        """
        slot = self.slots[0]
        if self.view["world_size"] > 1 or len(self.slots) > 1 or not slot["alive"]:
            return 0.0
        if slot["state"] != WorkerState.RUNNING or not slot["mark"] or slot["step"] != slot["mark_step"]:
            return 0.0
        return max(0.0, now - float(slot["mark"]))

    def unseen_deaths(self) -> list[int]:
        """Return the slots of processes that have died, if the time of the death is not noted yet."""
        return [
            number
            for number, slot in enumerate(self.slots)
            if WorkerState.NONE < slot["state"] < WorkerState.STOPPED and not slot["alive"] and not slot["lost"]
        ]

    def first(self) -> dict[str, Any]:
        """Return the slot of the first living rank; that of rank 0 if none lives."""
        return next((slot for slot in self.slots if slot["alive"]), self.slots[0])

    def stop_by(self) -> float | None:
        """Return when the sender of the stop ends the processes itself; None if it gave no time."""
        seq = self.view["stop_seq"]
        entry = _core.read_entry(self._control, seq) if seq else None
        return entry["asked"] + entry["duration"] if entry is not None and entry["duration"] else None

    def swallowed_stop(self) -> int | None:
        """Return the step at which the stop was raised, if a living rank has swallowed it and goes on; else None."""
        seq = self.view["stop_seq"]
        for slot in self.slots:
            if seq and slot["alive"] and slot["state"] == WorkerState.RUNNING and slot["applied"] >= seq:
                return self.stop_step()
        return None

    def stop_step(self) -> int | None:
        """Return the step at which the stop was raised; None before that."""
        seq = self.view["stop_seq"]
        if not seq or not any(slot["applied"] >= seq for slot in self.slots):
            return None
        entry = _core.read_entry(self._control, seq)
        # Of several ranks each applies it at the step that was decided, and the last one publishes the outcome.
        return None if entry is None else int(entry["value"] if entry["outcome"] == _APPLIED else entry["target"])

    def ended(self) -> float | None:
        """Return when the last rank ended; None while one lives, or if none has noted its end."""
        if any(slot["alive"] for slot in self.slots):
            return None
        return max((slot["state_since"] for slot in self.slots if slot["state"] >= WorkerState.STOPPED), default=None)

    def mean_speed(self, now: float) -> float | None:
        """Return the steps per second of the first living rank since it last began to run."""
        slot = self.first()
        return mean_speed(slot, now) if slot["alive"] else None

    def progress(self, now: float) -> Progress | None:
        """Return the progress of the first living rank."""
        slot = self.first()
        return progress_of(slot, now) if slot["alive"] else None

    def resumes(self) -> float | None:
        """Return when a timed pause ends by itself; None if there is none."""
        found: Any = self.first()["deadline"]
        return found or None


class SpeedMeter:
    """The speed of a run, from one snapshot to the next. Any thread may use it."""

    _AGE = 0.5
    """Seconds between two readings that a mean is taken of."""

    def __init__(self) -> None:
        self._sample: tuple[float, int] | None = None
        self._speed: float | None = None

    def update(self, snapshot: Snapshot | None, now: float) -> float | None:
        """Return the steps per second; None if the run does not run.

        The first reading is the mean since the worker began to run, each later one that since the reading before.
        """
        mean = None if snapshot is None else snapshot.mean_speed(now)
        if snapshot is None or mean is None:
            self._sample = self._speed = None
            return None
        slot = snapshot.first()
        sample, speed = self._sample, self._speed  # another thread may change them
        if sample is None or slot["step"] < sample[1] or slot["mark"] > sample[0]:
            sample, speed = (now, slot["step"]), None
        elif now - sample[0] >= self._AGE and slot["step"] > sample[1]:
            speed = (slot["step"] - sample[1]) / (now - sample[0])
            sample = now, slot["step"]
        self._sample, self._speed = sample, speed
        return speed if speed is not None else mean


def _representative(ranks: list[Rank]) -> list[Rank]:
    """Return the ranks that stand for the run: the living; else those that are known to have ended; else all."""
    heard = [rank for rank in ranks if rank.status is not SparkStatus.UNHEARD]
    return [rank for rank in heard if rank.status.live] or heard or ranks


def step_of_ranks(ranks: list[Rank]) -> int:
    """Return the step of the run: see Run.step."""
    return min((rank.step for rank in _representative(ranks)), default=0)


def status_of_ranks(ranks: list[Rank]) -> SparkStatus:
    """Return the status of the run: see Run.status."""
    found = [rank.status for rank in _representative(ranks)]
    if not found:
        return SparkStatus.LOST
    for status in (SparkStatus.LOST, SparkStatus.FAILED):
        if status in found:
            return status
    if len(set(found)) == 1:
        return found[0]
    for status in (SparkStatus.STOPPING, SparkStatus.RELOADING):
        if status in found:
            return status
    # Some ranks are parked or about to park, and others are not: the run is paused when all of them are.
    return SparkStatus.PAUSING if {SparkStatus.PAUSED, SparkStatus.PAUSING} & set(found) else found[0]
