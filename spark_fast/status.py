"""The status, progress and ranks of a run, as its workers published them."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

__all__ = ["Progress", "Rank", "SparkStatus"]


class SparkStatus(StrEnum):
    """What the worker did last; never what a controller has only asked for."""

    # Text after a member is its documentation.
    IDLE = "idle"
    """The process is there, and has passed no checkpoint yet."""
    RUNNING = "running"
    """It passes checkpoints, or runs towards the next one."""
    PAUSING = "pausing"
    """A pause is asked for, and the worker has not parked yet: it is still in its step, or in a pause hook."""
    PAUSED = "paused"
    """It is parked at a checkpoint and uses no CPU; its pause hooks have run."""
    STOPPING = "stopping"
    """A stop is asked for, and the process still lives: in its step, or saving what it has."""
    STOPPED = "stopped"
    """The process ended by itself after a checkpoint had raised SparkStopError."""
    RELOADING = "reloading"
    """A checkpoint raised SparkReloadError, and none was passed since."""
    FINISHED = "finished"
    """The process ended by itself, without a stop and without an uncaught exception."""
    FAILED = "failed"
    """The process ended with an uncaught exception."""
    LOST = "lost"
    """The process died without noting its end, or its control file was damaged."""
    UNHEARD = "unheard"
    """Only of a rank on another host: that host sends no news, so the rank may run, wait or have ended."""

    @property
    def live(self) -> bool:
        """Whether a process is known to live, so that it can get requests."""
        return self not in ENDED and self is not SparkStatus.UNHEARD


ENDED = frozenset({SparkStatus.STOPPED, SparkStatus.FINISHED, SparkStatus.FAILED, SparkStatus.LOST})


class WorkerState(IntEnum):
    """enum sf_worker_state of csrc/sf_layout.h."""

    NONE = 0
    IDLE = 1
    RUNNING = 2
    PARKED = 3
    STOPPING = 4
    RELOADING = 5
    STOPPED = 6
    FINISHED = 7
    FAILED = 8


_SAID = {
    WorkerState.NONE: SparkStatus.IDLE,  # just being made
    WorkerState.IDLE: SparkStatus.IDLE,
    WorkerState.PARKED: SparkStatus.PAUSED,
    WorkerState.STOPPING: SparkStatus.STOPPING,
    WorkerState.RELOADING: SparkStatus.RELOADING,
    WorkerState.RUNNING: SparkStatus.RUNNING,
}
_ENDED = {
    WorkerState.STOPPED: SparkStatus.STOPPED,
    WorkerState.FINISHED: SparkStatus.FINISHED,
    WorkerState.FAILED: SparkStatus.FAILED,
}


def status_of(view: dict[str, Any], slot: dict[str, Any]) -> SparkStatus:
    """Return the status of one rank, from read_view() and read_slot()."""
    state = slot["state"]
    if state in _ENDED:
        return _ENDED[WorkerState(state)]
    if not slot["alive"] or state not in _SAID:
        return SparkStatus.LOST
    said = _SAID[WorkerState(state)]
    if said in (SparkStatus.RUNNING, SparkStatus.IDLE):
        if view["stop_seq"]:
            return SparkStatus.STOPPING
        if view["park_seq"] and view["park"] <= slot["step"] + slot["stride"]:
            return SparkStatus.PAUSING
    return said


@dataclass(frozen=True)
class Progress:
    """The progress of the `track()` loops of a worker.

    Attributes:
        loops: (items done, items in all) of each running loop, outermost first; None for a length that is not known.
        fraction: of the outermost loop, including its inner loops; None if a length is not known.
        seconds_left: at the mean speed so far, without pauses; None if it is not known.
    """

    loops: list[tuple[int, int | None]]
    fraction: float | None
    seconds_left: float | None


def progress_of(slot: dict[str, Any], now: float) -> Progress | None:
    """Return the progress in a slot; None if no loop is tracked.

    slot: from read_slot(); now: the time on CLOCK_MONOTONIC in seconds.
    """
    levels = slot["levels"]
    if not levels:
        return None
    fraction: float | None = 0.0
    for done, total, _began, _parked in reversed(levels):
        if not total:
            # The length of an inner loop only refines the fraction; without that of the outermost there is none.
            fraction = None if (done, total) == levels[0][:2] else 0.0
        elif fraction is not None:
            fraction = min(1.0, (done + fraction) / total)
    left = None
    if fraction:
        parked = slot["parked"] - levels[0][3]
        if slot["park_began"]:
            parked += now - slot["park_began"]
        elapsed = max(0.0, now - levels[0][2] - parked)
        left = elapsed / fraction * (1 - fraction)
    return Progress([(done, total or None) for done, total, *_ in levels], fraction, left)


def mean_speed(slot: dict[str, Any], now: float) -> float | None:
    """Return the steps per second since the worker last began to run; None if it does not run, or has just begun."""
    if slot["state"] != WorkerState.RUNNING or not slot["mark"]:
        return None
    elapsed = now - slot["mark"]
    steps = slot["step"] - slot["mark_step"]
    if elapsed <= 0 or steps <= 0:
        return None
    return float(steps / elapsed)


@dataclass(frozen=True)
class Rank:
    """One worker of a run.

    Attributes:
        rank: its number in the job, from 0.
        status: what it did last; `unheard` if its host sends no news.
        step: checkpoints passed; of a rank that is `unheard`, those in the last news.
        pid: its process id, as the process sees it; in a container that is another number than outside.
        host: the host that it runs on.
        since: when it came to this status, in seconds since the epoch; of a rank that is `lost`, when a process first
            saw that; of one that is `unheard`, the time of the last news. 0 if it is not known.
        behind: steps that it is behind the furthest living rank of all hosts. 0 for a rank that has ended or that is
            `unheard`.
        overdue: seconds for which it has not applied a request that another rank has applied, or any request if it is
            the only rank. They count from the oldest such request, or from its joining if that was later. 0 if it is
            no more than a second. The rank hangs, or its step takes long.
        stride: steps that each of its checkpoints counts.
        told: whether it is a rank of another host. Its status and step come from that host's last news, and may be some
            seconds old.
    """

    rank: int
    status: SparkStatus
    step: int
    pid: int
    host: str
    since: float = 0.0
    behind: int = 0
    overdue: float = 0.0
    stride: int = 1
    told: bool = False


_FAR = 10
"""Checkpoints that a rank may be behind without being reported. In a job that does its steps together it is 0 or 1, and
a few more if hosts run ahead of their accelerators. If each rank runs freely, it may be those of a second."""
_TOLD = 3.0
"""How old the step of another host's rank may be, in seconds: each host sends and reads news once a second."""


def trouble_of(rank: Rank, per_second: float | None) -> str:
    """Return the trouble of a rank: `lost`, `failed`, `unheard`, `overdue`, `behind`, or nothing. See Rank.

    per_second: the steps per second of the run; None if they are not known.
    """
    if rank.status in (SparkStatus.LOST, SparkStatus.FAILED, SparkStatus.UNHEARD):
        return str(rank.status)
    if rank.overdue:
        return "overdue"
    free = (per_second or 0.0) * (_TOLD if rank.told else 1.0)
    return "behind" if rank.behind > max(_FAR * rank.stride, free) else ""


def slowest(ranks: Iterable[Rank]) -> str:
    """Say which rank is furthest behind and by how many steps, for a message about a request that takes long.

    The other ranks may be parked at the step of the request, and wait there until this rank comes to it. Empty if no
    rank is behind by more than a few checkpoints.
    """
    last = max(ranks, key=lambda rank: rank.behind, default=None)
    if last is None or last.behind <= _FAR * last.stride:
        return ""
    return f"rank {last.rank} is {last.behind} steps behind"


_SHOWN = 12
"""How many ranges of ranks a line names."""


def ranges(numbers: Iterable[int]) -> str:
    """Numbers of ranks for people: `0-3, 5, 7-63`. Some of them where they are all over the place."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    words = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found[:_SHOWN])
    more = sum(last - first + 1 for first, last in found[_SHOWN:])
    return f"{words} and {more} more" if more else words


def monotonic() -> float:
    """The clock that workers stamp their marks with."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


__all__ += [
    "ENDED",
    "WorkerState",
    "mean_speed",
    "monotonic",
    "progress_of",
    "ranges",
    "slowest",
    "status_of",
    "trouble_of",
]
