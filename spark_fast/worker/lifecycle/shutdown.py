"""The end of a rank that a stop's exception ends, while others may still save."""

from pathlib import Path

from spark_fast import _core
from spark_fast.errors import SegmentError
from spark_fast.runfiles import run_folder
from spark_fast.status import WorkerState, monotonic, ranges
from spark_fast.worker import stderr

__all__ = ["wait_for_others"]

_PATIENCE = 60.0
"""Seconds that the others have to end, where nobody has said how long the launcher waits."""
_COMING = 5.0
"""Seconds in which those that have not met the stop yet may come to it."""
_LOOK = 1.0
"""Seconds between two looks whether the others live."""


def wait_for_others(folder: Path, patience: float | None) -> None:
    """Waits until no other rank of this host is between the stop and its end.

    A process that ends with an exception has failed to its launcher, torchrun say, which then ends the others at once.
    This one has published its end already, so ranks that all let the exception through wait for the slowest and then
    end together.

    patience: seconds to wait at most; None for a minute.
    """
    began = monotonic()
    most = _PATIENCE if patience is None else patience
    told = False
    try:
        segment = _core.Segment(folder / run_folder.CONTROL)
        slots = _core.read_view(segment.fileno())["slot_count"]
        while True:
            seen, waited = segment.changes(), monotonic() - began
            left = [rank for rank in range(slots) if _is_to_end(_core.read_slot(segment.fileno(), rank), waited)]
            if not left or waited >= most:
                return
            if not told and waited > _LOOK:
                told = True
                stderr.say(f"waits for {'ranks' if len(left) > 1 else 'rank'} {ranges(left)}, at most {most:g} s")
            segment.wait(seen, min(_LOOK, most - waited))
    except (SegmentError, OSError, KeyboardInterrupt):  # nothing is known of them any more; or somebody is in a hurry
        return


def _is_to_end(slot: dict[str, object], waited: float) -> bool:
    state = slot["state"]
    stopping = state == WorkerState.STOPPING
    return bool(slot["alive"]) and (
        stopping or (waited < _COMING and state in (WorkerState.RUNNING, WorkerState.PARKED))
    )
