"""What a run is doing, read from what its workers published."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

__all__ = ["Progress", "Rank", "SparkStatus"]


class SparkStatus(StrEnum):
    """What the worker did last; never only what somebody asked for."""

    # Text after a member is its documentation.
    IDLE = "idle"
    """The process is there, and has passed no checkpoint yet."""
    RUNNING = "running"
    """It passes checkpoints, or is on its way to the next one."""
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
    """The process ended by itself, not asked to, with no uncaught exception."""
    FAILED = "failed"
    """The process ended with an uncaught exception."""
    LOST = "lost"
    """The process died without a word, or its control file was damaged."""
    UNHEARD = "unheard"
    """Only of a rank on another host: nothing is heard of that host, so the rank may run, wait or have ended."""

    @property
    def live(self) -> bool:
        """Whether a process is known to be there that could be asked something."""
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
    """The status of one rank, from read_view() and read_slot()."""
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
    """How far the `track()` loops of a worker are.

    Attributes:
        loops: (items done, items in all) of each running loop, outermost first; None where a length is not known.
        fraction: of the outermost loop, its inner loops counted in; None if a length is not known.
        seconds_left: at the mean speed so far, pauses left out; None if that can't be told.
    """

    loops: list[tuple[int, int | None]]
    fraction: float | None
    seconds_left: float | None


def progress_of(slot: dict[str, Any], now: float) -> Progress | None:
    """From read_slot(); now: the time on CLOCK_MONOTONIC in seconds. None if no loop is tracked."""
    levels = slot["levels"]
    if not levels:
        return None
    fraction: float | None = 0.0
    for done, total, _began, _parked in reversed(levels):
        if not total:
            # The length of an inner loop is only a refinement; without that of an outer one nothing is known.
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
    """Steps per second since the worker last began to run; None while it does not run, or for the first moment."""
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
        status: what it did last; `unheard` where its host is not heard.
        step: checkpoints passed; of a rank that is `unheard`, by then.
        pid: its process, as it sees itself: another number in a container.
        host: where it runs.
        since: when it came to this status, in seconds since the epoch; of a rank that is `lost`, when somebody first
            saw it; of one that is `unheard`, when its host was last heard. 0 where nobody knows.
        behind: steps that it is behind the furthest of the living ranks, those of other hosts among them. 0 of a rank
            that has ended or that is not heard.
        overdue: seconds for which it has not come to a request, though others have, or though it is the only rank:
            since the oldest was asked for, or since it joined, if that was later. 0 if it is no more than a second. It
            hangs, or its step takes long.
        stride: steps that each of its checkpoints counts.
        told: whether it is a rank of another host. Its status and step are what that host has told last, and may be
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
"""Checkpoints that a rank may be behind, and nobody needs to know: in a job that does its steps together they are 0 or
1, and a few where hosts run ahead of their accelerators. Where each runs freely, it may be a second's worth of them."""
_TOLD = 3.0
"""Seconds for which the step of another host's rank may be old: each host tells and reads once a second."""


def trouble_of(rank: Rank, per_second: float | None) -> str:
    """What is not as it should be with a rank, as far as others of its run are better off: `lost`, `failed`,
    `unheard`, `overdue`, `behind`, or nothing. See Rank for what these mean.

    per_second: the steps per second of the run; None where that can't be told.
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
"""Ranges of ranks in a line at the most."""


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
