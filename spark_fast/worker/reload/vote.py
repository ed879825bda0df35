"""What the ranks of a run can only do together: each says whether it can, and does it once all have said so.

A rank that waits for the others uses no CPU. One that has died is not waited for, and one that says nothing for
PATIENCE seconds has said no. What the ranks of other hosts say their relays bring.
"""

import time

from spark_fast._core import worker
from spark_fast.worker.lifecycle.hosts import ring_hosts

__all__ = ["EXECUTED", "PATIENCE", "PROVED", "READY", "ElsewhereError", "agree", "vote"]

READY, EXECUTED, PROVED = range(3)
"""enum sf_phase of csrc/sf_layout.h: the new code was found and can be compiled; it was executed; its loop has come
round."""

PATIENCE = 600.0
"""Seconds to wait for the other ranks. Each is within one step, which may begin with a compilation of minutes."""

_LOOK = 0.1
"""Seconds between looks whether those who have not voted still live. A vote wakes at once."""
_RING = 1.0
"""Seconds between looks whether what other hosts say is carried."""
_YES = 1


class ElsewhereError(Exception):
    """What the ranks were to do together, another one could not."""


def vote(seq: int, phase: int, yes: bool) -> None:
    """Says what came of a phase of entry `seq` in this rank, and waits for nobody."""
    worker.vote(seq, phase, yes)


def agree(seq: int, phase: int) -> bool:
    """Says that this rank has come so far with entry `seq`, waits for what the others say, and returns whether all
    have."""
    verdict = worker.vote(seq, phase, True)
    ring = time.monotonic() + _RING
    end = time.monotonic() + PATIENCE
    while verdict == 0:
        seen = worker.changes()
        now = time.monotonic()
        verdict = worker.agreed(seq, phase, give_up=now > end)
        if verdict == 0:
            if now > ring:
                ring = now + _RING
                ring_hosts()
            worker.wait_for_change(seen, _LOOK)
    return verdict == _YES
