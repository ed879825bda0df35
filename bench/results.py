"""The figures of one run of the benchmarks, and how they are written."""

from dataclasses import dataclass
from importlib.metadata import version

from bench.hosts import Hosts
from bench.idle import INTERVALS, Idle
from bench.longest import Longest
from bench.parked import Parked
from bench.ranks import Ranks
from bench.reload import Reload
from bench.start import Import, List
from bench.values import Values
from bench.wake import Wake
from bench.web import Looked, Web

__all__ = ["Results", "Step", "duration", "each_step", "pages", "seconds"]


@dataclass
class Results:
    """All figures of one run."""

    quick: bool
    took: float
    idle: Idle
    wakes: dict[str, Wake]
    parked: Parked
    imports: Import
    listing: List
    longest: list[Longest]
    reload: Reload
    values: Values
    ranks: Ranks
    hosts: Hosts
    web: Web


@dataclass(frozen=True)
class Step:
    """What one thing costs at each step, in ns; `ours` tells whether it belongs to the library."""

    name: str
    version: str
    cost: float
    note: str
    ours: bool


def each_step(found: Results) -> list[Step]:
    """Return the library's calls and what people use instead, the cheapest first."""
    rounds, own = found.idle.rounds, f"spark_fast {version('spark-fast')}"
    calls = {f"spark.checkpoint(), yield_interval={label}": f"spark.checkpoint(), yield {label}" for label in INTERVALS}
    calls["spark.pending()"] = "spark.pending()"
    steps = [Step(name, own, rounds.cost(case), "", True) for name, case in calls.items()]
    steps.append(Step("spark.track()'s loop", own, rounds.cost("track", "a bare loop"), "beyond a bare loop", True))
    steps.extend(
        Step(peer.name, peer.version, rounds.cost(peer.case.name, peer.twin.name), peer.note, False)
        for peer in found.idle.peers
    )
    return sorted(steps, key=lambda step: step.cost)


def duration(ns: float) -> str:
    """Return a time with its unit, to three figures."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.1f} ns"


def seconds(number: float) -> str:
    """Return a time that is given in seconds, as duration() does."""
    return duration(number * 1e9)


def pages(row: Looked) -> str:
    """Return how many pages look, in words."""
    words = f"{row.pages} page{'' if row.pages == 1 else 's'}" if row.pages else "no page"
    return f"{words}, each at a run of its own" if row.each else words
