"""What a control file says of its run, read at one moment."""

from typing import Any

from spark_fast import _core, run_folder
from spark_fast.status import (
    Progress,
    Rank,
    SparkStatus,
    WorkerState,
    mean_speed,
    progress_of,
    status_of,
)

__all__ = ["Look", "status_of_ranks"]


class Look:
    """One look at a control file. Costs some 5 µs for a run of one rank. Two that are equal saw the same.

    Raises SegmentError if the file can't be used.
    """

    def __init__(self, control: int) -> None:
        self.view = _core.read_view(control)
        self.slots = [_core.read_slot(control, rank) for rank in range(self.view["slot_count"])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Look) and self.slots == other.slots and self.view == other.view

    __hash__ = None  # type: ignore[assignment] # it holds dicts

    def ranks(self, about: run_folder.About) -> list[Rank]:
        """The workers that have ever been there."""
        return [
            Rank(number, status_of(self.view, slot), slot["step"], slot["pid"], about.host)
            for number, slot in enumerate(self.slots)
            if slot["state"] != WorkerState.NONE or slot["alive"]
        ]

    def ended(self) -> float | None:
        """When the last rank ended; None while one lives, or where none said so."""
        if any(slot["alive"] for slot in self.slots):
            return None
        return max((slot["state_since"] for slot in self.slots if slot["state"] >= WorkerState.STOPPED), default=None)

    def mean_speed(self, now: float) -> float | None:
        """Of rank 0 since it last began to run."""
        slot = self.slots[0]
        return mean_speed(slot, now) if slot["alive"] else None

    def progress(self, now: float) -> Progress | None:
        """Of rank 0."""
        slot = self.slots[0]
        return progress_of(slot, now) if slot["alive"] else None

    def resumes(self) -> float | None:
        """When a timed pause ends by itself."""
        found: Any = self.slots[0]["deadline"]
        return found or None


def status_of_ranks(ranks: list[Rank]) -> SparkStatus:
    """What the run is doing: see Run.status."""
    found = [rank.status for rank in ranks] or [SparkStatus.LOST]
    for status in (SparkStatus.LOST, SparkStatus.FAILED):
        if status in found:
            return status
    if SparkStatus.PAUSED in found and SparkStatus.RUNNING in found:
        return SparkStatus.PAUSING
    return found[0]
