"""The cost of a parked worker, beside a process that waits for a signal."""

import os
import time
from dataclasses import dataclass

from bench.homes import home_to_control
from bench.processes import child
from spark_fast import _core, client
from spark_fast.runfiles import run_folder

__all__ = ["Parked", "measure"]


@dataclass(frozen=True)
class Parked:
    """Of the worker, and of the twin, over `seconds`.

    Attributes:
        seconds: how long it was watched.
        ticks: clock ticks of CPU time, user and system, as `ps` and `top` count it.
        run_ns: time on a CPU, to the nanosecond.
        switches: times that it was switched to.
        wakes: times that it looked around, by its own count.
        twin_ticks, twin_run_ns, twin_switches: of a process that waits for a signal.
    """

    seconds: float
    ticks: int
    run_ns: int
    switches: int
    wakes: int
    twin_ticks: int
    twin_run_ns: int
    twin_switches: int


def _used(pid: int) -> tuple[int, int, int]:
    """Return the clock ticks, the ns on a CPU and the context switches of a process of one thread."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        run_ns = int(file.read().split()[0])
    switches = 0
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.endswith("ctxt_switches"):
                switches += int(value)
    return int(fields[11]) + int(fields[12]), run_ns, switches


def measure(seconds: float) -> Parked:
    """Park a worker, and watch it."""
    with home_to_control() as folder, child(folder, "park", "run") as worker, child(folder, "park", "twin") as twin:
        run = client.attach()
        assert run.pause(timeout=10.0).fate.state == "applied"
        control = os.open(folder / run.id / run_folder.CONTROL, os.O_RDONLY)
        time.sleep(0.1)
        first = _used(worker.pid), _used(twin.pid), _core.read_slot(control, 0)
        time.sleep(seconds)
        last = _used(worker.pid), _used(twin.pid), _core.read_slot(control, 0)
        os.close(control)
        assert run.status == "paused" and first[2]["step"] == last[2]["step"], "it was parked all the time"
        run.stop(timeout=10.0)
        twin.process.kill()
    spent = [after - start for start, after in zip(first[0], last[0], strict=True)]
    twin_spent = [after - start for start, after in zip(first[1], last[1], strict=True)]
    return Parked(
        seconds=seconds,
        ticks=spent[0],
        run_ns=spent[1],
        switches=spent[2],
        wakes=last[2]["wakes"] - first[2]["wakes"],
        twin_ticks=twin_spent[0],
        twin_run_ns=twin_spent[1],
        twin_switches=twin_spent[2],
    )
