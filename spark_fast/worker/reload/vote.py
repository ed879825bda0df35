"""The ranks' votes on a reload: a rank goes on to the next phase once all ranks have voted yes.

A rank that waits for the others uses no CPU. It does not wait for a rank that has died. If a rank does not vote within
PATIENCE seconds, that counts as a no. Relays bring the votes of the ranks on other hosts.
"""

import time

from spark_fast._core import worker
from spark_fast.worker.lifecycle.hosts import ring_hosts

__all__ = ["EXECUTED", "PATIENCE", "PROVED", "READY", "ElsewhereError", "agree", "vote"]

READY, EXECUTED, PROVED = range(3)
"""The phases of a reload (enum sf_phase of csrc/sf_layout.h): the new code was found and can be compiled, was executed,
and has proved itself, as its loop has come round (probation.py)."""

PATIENCE = 600.0
"""Seconds to wait for the other ranks. Each first finishes its step, which may begin with minutes of compilation."""

_LOOK = 0.1
"""Seconds between two checks that the ranks that have not voted live. A vote wakes the waiting rank at once."""
_RING = 1.0
"""Seconds between two checks that this host's relay runs."""
_YES = 1


class ElsewhereError(Exception):
    """Another rank could not do its part of a reload, so this rank gives the reload up."""


def vote(seq: int, phase: int, yes: bool) -> None:
    """Vote on a phase of entry `seq` for this rank, without waiting for other ranks."""
    worker.vote(seq, phase, yes)


def agree(seq: int, phase: int) -> bool:
    """Vote yes on a phase of entry `seq` for this rank, and wait for the others. Return whether all voted yes."""
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
