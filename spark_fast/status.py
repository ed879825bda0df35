"""The status, progress and ranks of a run, as its workers publish them."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

__all__ = ["Progress", "Rank", "SparkStatus"]


class SparkStatus(StrEnum):
    """The last action of a worker. A request alone makes it neither `paused` nor `stopped`."""

    # Text after a member is its documentation.
    IDLE = "idle"
    """The process lives, and has passed no checkpoint yet."""
    RUNNING = "running"
    """It passes checkpoints, or runs towards the next one."""
    PAUSING = "pausing"
    """A pause was requested, and the worker has not parked yet: it is still in its step, or in a pause hook."""
    PAUSED = "paused"
    """It is parked at a checkpoint and uses no CPU; its pause hooks have run."""
    STOPPING = "stopping"
    """A stop was requested, and the process still lives: it is in its step, or saves its work."""
    STOPPED = "stopped"
    """The process ended by itself after a checkpoint had raised SparkStopError."""
    RELOADING = "reloading"
    """A checkpoint raised SparkReloadError, and the worker has passed no checkpoint since."""
    FINISHED = "finished"
    """The process ended by itself, without a stop and without an uncaught exception."""
    FAILED = "failed"
    """The process ended with an uncaught exception."""
    LOST = "lost"
    """The process died without noting its end, or its control file was damaged."""
    UNHEARD = "unheard"
    """Only for a rank on another host: that host sends no news, so the rank may run, wait or have ended."""

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
    WorkerState.NONE: SparkStatus.IDLE,  # the worker is being made
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
        loops: (items done, items in all) of each running loop, outermost first; None for an unknown length.
        fraction: the completed fraction of the outermost loop, including its inner loops; None if unknown.
        seconds_left: the time left at the mean speed so far, without pauses; None if unknown.
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
            # An inner loop's length only refines the fraction; without the outermost loop's length there is none.
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
        rank: the rank's number in the job, from 0.
        status: the rank's last action; `unheard` if its host sends no news.
        step: the number of passed checkpoints; for an `unheard` rank, that of the last news.
        pid: the process id, as the process sees it; a container's processes have other ids outside.
        host: the rank's host.
        since: when the rank came to this status, in seconds since the epoch; for a `lost` rank, when a process first
            noticed; for an `unheard` one, the time of the last news. 0 if unknown.
        behind: the number of steps between the rank and the furthest living rank of all hosts. 0 for an ended or
            `unheard` rank.
        overdue: seconds for which the rank has not applied a request that another rank has applied, or any request if
            it is the only rank. They count from the oldest such request, or from the rank's joining if that was later.
            0 for a second or less. More means that the rank hangs, or that its step takes long.
        stride: the number of steps that each of the rank's checkpoints counts.
        told: whether this is a rank of another host. Its status and step come from that host's last news, and may be
            some seconds old.
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
"""The most checkpoints that a rank may be behind without a report. If all ranks do their steps together, a rank is
behind by 0 or 1, and by a few more if hosts run ahead of their accelerators. If each rank runs freely, it may be behind
by the checkpoints of a second."""
_TOLD = 3.0
"""The greatest age, in seconds, of the known step of another host's rank: each host sends and reads news once a
second."""


def trouble_of(rank: Rank, per_second: float | None) -> str:
    """Return the trouble of a rank: `lost`, `failed`, `unheard`, `overdue`, `behind`, or an empty text. See Rank.

    per_second: the run's steps per second; None if unknown.
    """
    if rank.status in (SparkStatus.LOST, SparkStatus.FAILED, SparkStatus.UNHEARD):
        return str(rank.status)
    if rank.overdue:
        return "overdue"
    free = (per_second or 0.0) * (_TOLD if rank.told else 1.0)
    return "behind" if rank.behind > max(_FAR * rank.stride, free) else ""


def slowest(ranks: Iterable[Rank]) -> str:
    """Return a sentence on the rank that is furthest behind, for a message about a request that takes long.

    The other ranks may be parked at the step of the request until this rank arrives there. The sentence is empty if no
    rank is behind by more than a few checkpoints.
    """
    last = max(ranks, key=lambda rank: rank.behind, default=None)
    if last is None or last.behind <= _FAR * last.stride:
        return ""
    return f"rank {last.rank} is {last.behind} steps behind"


_SHOWN = 12
"""The most ranges of ranks that a line names."""


def ranges(numbers: Iterable[int]) -> str:
    """Return the numbers of ranks for people: `0-3, 5, 7-63`. If there are too many ranges, count the rest."""
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
    """Return the time on the clock that workers use for their time stamps."""
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
