"""The targets, and which of them the figures of a run meet."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.assigning import ASSIGN, PLAIN_ASSIGN
from bench.idle import Idle
from bench.measure import median
from bench.parked import Parked
from bench.ranks import OURS, Ranks
from bench.reload import Saves
from bench.results import Results, duration, pages, seconds
from bench.start import List
from bench.web import Web

__all__ = ["Target", "targets"]


@dataclass(frozen=True)
class Target:
    """One figure, its twin's, and the limit.

    Attributes:
        what: the figure.
        beside: its twin.
        cost, twin_cost: both, with their units.
        ratio: the number that has the limit: a ratio, or the figure itself.
        limit: what it may be at most.
        shown: the ratio, or the figure, as text.
        reach: the limit as text.
    """

    what: str
    beside: str
    cost: str
    twin_cost: str
    ratio: float
    limit: float
    shown: str
    reach: str

    @property
    def reached(self) -> bool:
        """Whether the figure is within its limit."""
        return self.ratio <= self.limit


def targets(found: Results) -> list[Target]:
    """Return all targets, in the order of the page."""
    imports = found.imports
    assigned = found.values.assigning.rounds
    return [
        *_calls(found.idle),
        *(
            _times(
                f"resume to running again, {condition}",
                "the wake of a bare futex between the same two processes",
                *(median(wake.spark), median(wake.futex), wake.ratio, 3.0),
            )
            for condition, wake in found.wakes.items()
        ),
        *_parked(found.parked),
        _times(
            "`import spark_fast`",
            "`import " + ", ".join(imports.modules) + "`",
            *(median(imports.spark), median(imports.standard), imports.ratio, 1.3),
        ),
        *_listing(found.listing),
        *(target for saves in found.reload.saves for target in _saved(saves)),
        _at_most(
            f"`{ASSIGN}`, an exposed number",
            "the same of a plain object",
            *(assigned.cost(ASSIGN), assigned.cost(PLAIN_ASSIGN)),
            *(100.0, "100 ns"),
        ),
        *_ranks(found.ranks),
        *_web(found.web),
    ]


def _times(what: str, beside: str, cost: float, twin_cost: float, ratio: float, limit: float) -> Target:
    """A figure and its twin's, in ns, of which the ratio has a limit."""
    costs = duration(cost), duration(twin_cost)
    return Target(what, beside, *costs, ratio, limit, f"{ratio:.2f} times", f"{limit:.3g} times")


def _at_most(what: str, beside: str, cost: float, twin_cost: float, limit: float, reach: str) -> Target:
    """A figure and its twin's, in ns, of which the first has a limit."""
    return Target(what, beside, duration(cost), duration(twin_cost), cost, limit, duration(cost), reach)


def _calls(idle: Idle) -> Iterator[Target]:
    rounds = idle.rounds
    for name, twin, beside, limit in (
        ("checkpoint, yield 0", "empty method, GIL released", "empty method, GIL released", 1.10),
        ("checkpoint, yield 1e-3", "method", "empty method", 2.0),
        ("pending", "method", "empty method", 1.25),
    ):
        for where, condition in ((idle.alone, "one thread ever"), (rounds, "has had threads")):
            costs = where.cost(name), where.cost(twin)
            yield _times(f"`{_code(name)}` ({condition})", beside, *costs, where.ratio(name, twin), limit)
    for name in ("spark.checkpoint(), yield 1e-3", "spark.pending()"):
        for twin in ("threading.Event.is_set", "mmap[0]"):
            what = f"`{_code(name)}`, as its users call it"
            yield _times(what, f"`{twin}`", rounds.cost(name), rounds.cost(twin), rounds.ratio(name, twin), 1.0)
    bare = "a bare loop"
    costs = rounds.cost("track", bare), rounds.cost("tqdm", bare)
    yield _times(
        "`track()`, an item beyond a bare loop's", "tqdm's", *costs, rounds.ratio("track", "tqdm", bare), 1 / 3
    )


def _code(name: str) -> str:
    call, _, interval = name.partition(", yield ")
    shown = call if call.endswith(")") else f"{call}()"
    return f"{shown}` at `yield_interval={interval}" if interval else shown


def _parked(parked: Parked) -> list[Target]:
    what = f"parked for {parked.seconds:.0f} s"
    rate = parked.wakes / parked.seconds
    return [
        Target(
            f"{what}: CPU time",
            "a process that waits for a signal",
            f"{parked.ticks} ticks ({duration(parked.run_ns)})",
            f"{parked.twin_ticks} ticks ({duration(parked.twin_run_ns)})",
            *(parked.ticks, 0),
            *(f"{parked.ticks} ticks", "0 ticks"),
        ),
        Target(
            f"{what}: wakes",
            "the same",
            f"{parked.wakes} wakes, {parked.switches} switches",
            f"{parked.twin_switches} switches",
            *(rate, 1.0),
            *(f"{rate:.2f} a second", "1 a second"),
        ),
    ]


def _listing(listing: List) -> Iterator[Target]:
    none = median(listing.none)
    for what, figures in (("all ended", listing.ended), (f"{listing.live} of them live", listing.mixed)):
        name = f"`spark-fast ps --json` of {listing.runs:,} runs, {what}"
        more = median(figures) - none
        costs = seconds(median(figures)), seconds(none)
        yield Target(name, "of none", *costs, more, 1.0, f"{more:+.2f} s", "+1 s")


def _saved(saves: Saves) -> Iterator[Target]:
    ours, jurigged = median(saves.ours.took), saves.peers[0].took
    what = f"from a file's save ({saves.way}) to the first step of the new code, steps of 1 ms"
    theirs = duration(median(jurigged)) if jurigged else "never"
    yield Target(what, "jurigged", duration(ours), theirs, ours / 1e6, 25.0, f"{ours / 1e6:.1f} ms", "25 ms")
    if jurigged:
        yield _times(what, "jurigged", ours, median(jurigged), ours / median(jurigged), 1.0)


def _ranks(ranks: Ranks) -> list[Target]:
    one, most = ranks.idle[0], ranks.idle[-1]
    first, agreed = ranks.agreed[0], next(each for each in ranks.agreed if each.ranks == 64)
    least = ranks.least_times()
    return [
        _times(
            f"`{OURS}` on each of {most.ranks} ranks that share a run",
            "on an only one; both measured by an empty method in the same batches",
            *(most.cost(OURS), one.cost(OURS), ranks.more, 1.15),
        ),
        Target(
            f"`{OURS}` on 2 and {most.ranks} ranks",
            "the peer with the same promise that is nearest",
            *(duration(most.cost(OURS)), f"{least:.3g} times as much"),
            *(1 / least, 1 / 3),
            *(f"{1 / least:.2g} times", "0.333 times"),
        ),
        _at_most(
            f"{agreed.ranks} ranks agree on a step, simulated",
            f"{first.ranks} ranks",
            *(agreed.took, first.took),
            *(100_000, "100 µs"),
        ),
    ]


def _web(web: Web) -> Iterator[Target]:
    twin, *looked = web.looked
    for row in looked:
        limit = 0.1 if row.pages == 1 else 0.5
        what = f"`spark-fast ui`, {web.runs:,} live runs, {pages(row)}"
        cores, least = f"{row.cores:.3f} cores", f"{twin.cores:.3f} cores"
        yield Target(what, "the same, no page", cores, least, row.cores, limit, cores, f"{limit:.1f} cores")
    yield _at_most(
        f"opening a run with {web.values} values, each assigned {web.steps:,} times: the API's answers",
        "of a run that has assigned each once",
        *(median(web.opened) * 1e9, median(web.fresh) * 1e9),
        *(1e9, "1 s"),
    )
