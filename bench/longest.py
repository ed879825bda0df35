"""The longest of many idle calls, while the machine is quiet and while it is not."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.homes import SHARED_MEMORY, home
from bench.idle import INTERVALS
from bench.processes import Child, child, result

__all__ = ["Longest", "measure"]


@dataclass(frozen=True)
class Longest:
    """One row.

    Attributes:
        machine: `quiet`, `busy disk` or `busy thread`.
        where: the control file's file system: `disk` or `memory`.
        call: what was called; the twins have no control file.
        interval: the yield interval, as in INTERVALS.
        found: calls, percentiles in ns, the longest, page faults, and how often the thread was blocked.
    """

    machine: str
    where: str
    call: str
    interval: str
    found: dict[str, Any]


@contextmanager
def _busy_disk(folder: Path, busy: bool) -> Iterator[None]:
    if not busy:
        yield
        return
    with child(folder, "write", str(folder)) as writer:
        yield
        flushed = _end(writer)
    assert flushed > 0, "the disk was busy"


def _end(writer: Child) -> int:
    writer.process.send_signal(signal.SIGTERM)
    return int(writer.hear()["flushed"])


def measure(*, calls: int, seconds: float) -> list[Longest]:
    """Measure each row in a process of its own, which makes so many calls, or as many as fit into `seconds`."""
    rows = []
    places: list[tuple[str, Path | None]] = [("disk", None)]
    if SHARED_MEMORY.is_dir():
        places.append(("memory", SHARED_MEMORY))
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for machine in ("quiet", "busy disk", "busy thread"):
            with _busy_disk(Path(scratch), machine == "busy disk"):
                for interval in INTERVALS:
                    for where, parent in places:
                        if where == "memory" and machine == "busy thread":
                            continue
                        rows.append(_row(machine, where, "checkpoint", interval, parent, calls, seconds))
                for twin in ("empty", "empty_nogil"):
                    rows.append(_row(machine, "", twin, "", None, calls, seconds))
    return rows


def _row(
    machine: str, where: str, call: str, interval: str, parent: Path | None, calls: int, seconds: float
) -> Longest:
    thread = "busy" if machine == "busy thread" else "none"
    with home(parent) as folder:
        found = result(folder, "longest", call, interval, thread, str(calls), str(seconds))
    return Longest(machine, where, call, interval, found)
