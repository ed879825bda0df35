"""From a resume to the loop running again, in two processes, beside the wake of a bare futex between the same two."""

import mmap
import os
import tempfile
import time
from dataclasses import dataclass

from bench.homes import home_to_control
from bench.measure import median
from bench.processes import child
from bench.twins import twin
from bench.worker import FUTEX, STAMP, STATE, WORDS
from spark_fast import client

__all__ = ["Wake", "measure"]

SETTLED = 0.003
"""Seconds that the other process has slept before it is woken."""


@dataclass
class Wake:
    """ns from just before the wake to the woken process running again, in each round."""

    futex: list[int]
    spark: list[int]

    @property
    def ratio(self) -> float:
        """The ratio of the medians: the rounds of the two are not paired."""
        return median(self.spark) / median(self.futex)


def measure(rounds: int, cpus: tuple[int, int] | None = None) -> Wake:
    """Measure the wakes. cpus: those of this process and of the other; None for those that the system chooses."""
    mine = os.sched_getaffinity(0)
    wake = Wake([], [])
    with home_to_control() as folder, tempfile.NamedTemporaryFile() as file:
        os.truncate(file.name, WORDS)
        words = mmap.mmap(file.fileno(), WORDS)
        shared = memoryview(words)
        futex, state = twin.Futex(shared[FUTEX : FUTEX + 4]), twin.Futex(shared[STATE : STATE + 4])
        stamp = shared[STAMP : STAMP + 8].cast("q")
        try:
            with child(folder, "wake", file.name, str(rounds)) as other:
                if cpus is not None:
                    os.sched_setaffinity(0, {cpus[0]})
                    os.sched_setaffinity(other.pid, {cpus[1]})
                run = client.attach()
                for number in range(1, rounds + 1):
                    _until(state, 4 * number)
                    _asleep(other.pid)
                    began = futex.wake(2 * number - 1)
                    _until(state, 4 * number + 1)
                    wake.futex.append(stamp[0] - began)

                    pause = run.pause(wait=False)
                    futex.wake(2 * number)
                    assert pause.wait(10.0).state == "applied" and run.status == "paused"
                    _asleep(other.pid)
                    began = time.monotonic_ns()
                    resume = run.resume(wait=False)
                    _until(state, 4 * number + 2)
                    wake.spark.append(stamp[0] - began)
                    assert resume.fate.state == "applied"
                state.wake(4 * rounds + 3)
        finally:
            os.sched_setaffinity(0, mine)
    assert len(wake.futex) == len(wake.spark) == rounds and min(wake.futex + wake.spark) > 0
    return wake


def _until(state: twin.Futex, value: int) -> None:
    while (now := state.value) < value:
        state.wait(now, 30.0)


def _asleep(pid: int) -> None:
    """Waits until the process sleeps, and then for as long as it takes to settle."""
    end = time.monotonic() + 30.0
    while True:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            if file.read().rpartition(")")[2].split()[0] == "S":
                break
        assert time.monotonic() < end, "the other process goes to sleep"
        time.sleep(0.0001)
    time.sleep(SETTLED)
