"""docs/benchmarks.md, its plot, and the summary: made from one run's figures, and from nothing else."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.assigning import ASSIGN, ASSIGN_JSON, ASSIGN_TENSOR, PLAIN_ASSIGN, PLAIN_READ, READ
from bench.hosts import Hosts
from bench.idle import INTERVALS, Idle, how_it_is_called, kinds_of_call
from bench.longest import Longest
from bench.measure import median, ratio
from bench.parked import Parked
from bench.ranks import EMPTY as NO_CALL
from bench.ranks import OURS, Ranks
from bench.reload import Reload, Saved
from bench.start import Import, List
from bench.values import SHORT_STEP, STEP, Assigning, Flood, Steering, Values
from bench.wake import Wake
from bench.web import Looked, Web
from spark_fast.client.rate_limit import BURST, RATE

__all__ = ["Results", "Target", "duration", "each_step", "plot", "summary", "table", "targets", "text"]


@dataclass
class Results:
    """All that one run found."""

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
class Target:
    """One figure, its twin's, and what was to be reached.

    Attributes:
        what: the figure.
        beside: its twin.
        cost, twin_cost: both, with their units.
        ratio: what is compared.
        limit: what it may be at most.
        shown: the ratio, or the difference, as text.
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


def duration(ns: float) -> str:
    """A time with its unit."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.1f} ns"


def targets(found: Results) -> list[Target]:
    """What was to be reached, and whether it was."""
    idle, alone, rounds = found.idle, found.idle.alone, found.idle.rounds
    rows: list[Target] = []

    def times(what: str, beside: str, cost: float, twin_cost: float, ratio: float, limit: float) -> None:
        rows.append(
            Target(
                what,
                beside,
                duration(cost),
                duration(twin_cost),
                ratio,
                limit,
                f"{ratio:.2f} times",
                f"{limit:.3g} times",
            )
        )

    def call(name: str, twin: str, limit: float) -> None:
        for where, condition in ((alone, "one thread ever"), (rounds, "has had threads")):
            ratio = where.ratio(name, twin)
            times(
                f"`{_code(name)}` ({condition})",
                _EMPTY.get(twin, twin),
                where.cost(name),
                where.cost(twin),
                ratio,
                limit,
            )

    call("checkpoint, yield 0", "empty method, GIL released", 1.10)
    call("checkpoint, yield 1e-3", "method", 2.0)
    call("pending", "method", 1.25)
    for name in ("spark.checkpoint(), yield 1e-3", "spark.pending()"):
        for twin in ("threading.Event.is_set", "mmap[0]"):
            ratio = rounds.ratio(name, twin)
            times(
                f"`{_code(name)}`, as its users call it", f"`{twin}`", rounds.cost(name), rounds.cost(twin), ratio, 1.0
            )
    bare = "a bare loop"
    track, tqdm = rounds.cost("track", bare), rounds.cost("tqdm", bare)
    times("`track()`, an item beyond a bare loop's", "tqdm's", track, tqdm, rounds.ratio("track", "tqdm", bare), 1 / 3)
    for condition, wake in found.wakes.items():
        times(
            f"resume to running again, {condition}",
            "the wake of a bare futex between the same two processes",
            median(wake.spark),
            median(wake.futex),
            wake.ratio,
            3.0,
        )
    parked = found.parked
    rows.append(
        Target(
            f"parked for {parked.seconds:.0f} s: CPU time",
            "a process that waits for a signal",
            f"{parked.ticks} ticks ({duration(parked.run_ns)})",
            f"{parked.twin_ticks} ticks ({duration(parked.twin_run_ns)})",
            parked.ticks,
            0,
            f"{parked.ticks} ticks",
            "0 ticks",
        )
    )
    rate = parked.wakes / parked.seconds
    rows.append(
        Target(
            f"parked for {parked.seconds:.0f} s: wakes",
            "the same",
            f"{parked.wakes} wakes, {parked.switches} switches",
            f"{parked.twin_switches} switches",
            rate,
            1.0,
            f"{rate:.2f} a second",
            "1 a second",
        )
    )
    imports = found.imports
    times(
        "`import spark_fast`",
        "`import " + ", ".join(imports.modules) + "`",
        median(imports.spark),
        median(imports.standard),
        imports.ratio,
        1.3,
    )
    listing = found.listing
    for what, figures in (("all ended", listing.ended), (f"{listing.live} of them live", listing.mixed)):
        none = median(listing.none)
        more = median(figures) - none
        rows.append(
            Target(
                f"`spark-fast ps --json` of {listing.runs:,} runs, {what}",
                "of none",
                duration(median(figures) * 1e9),
                duration(none * 1e9),
                more,
                1.0,
                f"{more:+.2f} s",
                "+1 s",
            )
        )
    assert idle.rounds is rounds
    for saves in found.reload.saves:
        ours, jurigged = median(saves.ours.took), saves.peers[0]
        what = f"from a file's save ({saves.way}) to the first step of the new code, steps of 1 ms"
        theirs = duration(median(jurigged.took)) if jurigged.took else "never"
        rows.append(Target(what, "jurigged", duration(ours), theirs, ours / 1e6, 25.0, f"{ours / 1e6:.1f} ms", "25 ms"))
        if jurigged.took:
            other = median(jurigged.took)
            times(what, "jurigged", ours, other, ours / other, 1.0)
    assigned = found.values.assigning.rounds
    cost, plain = assigned.cost(ASSIGN), assigned.cost(PLAIN_ASSIGN)
    rows.append(
        Target(
            f"`{ASSIGN}`, an exposed number",
            "the same of a plain object",
            duration(cost),
            duration(plain),
            cost,
            100.0,
            duration(cost),
            "100 ns",
        )
    )
    return rows + _rank_targets(found.ranks) + _web_targets(found.web)


def _rank_targets(ranks: Ranks) -> list[Target]:
    one, most = ranks.idle[0], ranks.idle[-1]
    agreed = next(each for each in ranks.agreed if each.ranks == 64)
    least = ranks.least_times()
    return [
        Target(
            f"`{OURS}` on each of {most.ranks} ranks that share a run",
            "on an only one; both measured by an empty method in the same batches",
            duration(most.cost(OURS)),
            duration(one.cost(OURS)),
            ranks.more,
            1.15,
            f"{ranks.more:.2f} times",
            "1.15 times",
        ),
        Target(
            f"`{OURS}` on 2 and {most.ranks} ranks",
            "the peer with the same promise that is nearest",
            duration(most.cost(OURS)),
            f"{least:.3g} times as much",
            1 / least,
            1 / 3,
            f"{1 / least:.2g} times",
            "0.333 times",
        ),
        Target(
            f"{agreed.ranks} ranks agree on a step, simulated",
            f"{ranks.agreed[0].ranks} ranks",
            duration(agreed.took),
            duration(ranks.agreed[0].took),
            agreed.took,
            100_000,
            duration(agreed.took),
            "100 µs",
        ),
    ]


def _web_targets(web: Web) -> list[Target]:
    twin, *looked = web.looked
    rows = []
    for row in looked:
        limit = 0.1 if row.pages == 1 else 0.5
        rows.append(
            Target(
                f"`spark-fast ui`, {web.runs:,} live runs, {_pages(row)}",
                "the same, no page",
                f"{row.cores:.3f} cores",
                f"{twin.cores:.3f} cores",
                row.cores,
                limit,
                f"{row.cores:.3f} cores",
                f"{limit:.1f} cores",
            )
        )
    took, fresh = median(web.opened) * 1e9, median(web.fresh) * 1e9
    rows.append(
        Target(
            f"opening a run with {web.values} values, each assigned {web.steps:,} times: the API's answers",
            "of a run that has assigned each once",
            duration(took),
            duration(fresh),
            took,
            1e9,
            duration(took),
            "1 s",
        )
    )
    return rows


def _pages(row: Looked) -> str:
    pages = f"{row.pages} page{'' if row.pages == 1 else 's'}" if row.pages else "no page"
    return f"{pages}, each at a run of its own" if row.each else pages


def _code(name: str) -> str:
    call, _, interval = name.partition(", yield ")
    shown = call if call.endswith(")") else f"{call}()"
    return f"{shown}` at `yield_interval={interval}" if interval else shown


@dataclass(frozen=True)
class Step:
    """What one thing costs at each step, in ns; `ours` tells whether it belongs to the library."""

    name: str
    version: str
    cost: float
    note: str
    ours: bool


def each_step(found: Results) -> list[Step]:
    """The library's calls and what people use instead, the cheapest first."""
    rounds, own = found.idle.rounds, f"spark_fast {version('spark-fast')}"
    steps = [
        Step(
            f"spark.checkpoint(), yield_interval={label}",
            own,
            rounds.cost(f"spark.checkpoint(), yield {label}"),
            "",
            True,
        )
        for label in INTERVALS
    ]
    steps.append(Step("spark.pending()", own, rounds.cost("spark.pending()"), "", True))
    steps.append(Step("spark.track()'s loop", own, rounds.cost("track", "a bare loop"), "beyond a bare loop", True))
    steps.extend(
        Step(peer.name, peer.version, rounds.cost(peer.case.name, peer.twin.name), peer.note, False)
        for peer in found.idle.peers
    )
    return sorted(steps, key=lambda step: step.cost)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    clock = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        if name.strip() == "cpu MHz":
            clock = f" at {float(value) / 1000:.1f} GHz"
    return f"{model}{clock}, {os.cpu_count()} CPUs, Linux {platform.release().partition('-')[0]}"


_EMPTY = {"method": "empty method"}

_KINDS = """\
## What is called fastest

{table}

Cython gives a method of an extension type the calling convention `METH_FASTCALL | METH_KEYWORDS`, and a function of a
module that takes no argument `METH_NOARGS`. CPython 3.11 has an instruction of its own for the first, which calls the C
function straight from the interpreter loop, and none for the second: that call goes through `PyObject_Vectorcall` and
`cfunction_vectorcall_NOARGS`, which is what makes it cost about twice as much. So it is not the module: given a keyword
argument, the function of a module has the first convention too, and costs what the method does. With `binding=True`,
Cython's default for functions, the callable is of Cython's own type, for which there is no instruction either.
`spark.checkpoint` and `spark.pending` are therefore bound methods, compiled with `binding=False`.

The instruction is what `dis.get_instructions(loop, adaptive=True)` shows for a loop that has run, the convention is in
the method tables of the C file that Cython makes (`grep METH_ .cache/bench/*/**/twin.c`), and the way through the
interpreter is what `perf record` shows of such a loop.
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text(found: Results, image: str) -> str:
    """The whole page."""
    rounds = found.idle.rounds
    target_rows = [
        [
            row.what,
            f"{row.cost} beside {row.twin_cost} ({row.beside})",
            row.shown,
            row.reach,
            "reached" if row.reached else "**not reached**",
        ]
        for row in targets(found)
    ]
    step_rows = [[step.name, step.version, duration(step.cost), step.note] for step in each_step(found)]
    step_rows += [[gone.name, "not measured", "", gone.reason] for gone in found.idle.absent]
    kind_rows = [
        [kind, f"`{how_it_is_called(function)}`", duration(found.idle.alone.cost(kind)), duration(rounds.cost(kind))]
        for kind, function in kinds_of_call().items()
    ]
    return f"""\
# What it costs

Made by `{"python -m bench --quick" if found.quick else "make bench"}` on
{datetime.now(UTC):%Y-%m-%d}. All figures are of that one run, which took {found.took / 60:.1f} minutes.

- Machine: {_machine()}.
- Python {platform.python_version()}, spark_fast {version("spark-fast")}, Cython {version("cython")}.

Every figure stands beside a twin that does everything but the thing measured, in the same run. Calls are timed in
batches inside a function, the batches of all cases in turn and in random order, so that whatever else the machine does
falls on all alike; a figure is the median of the batches, less the empty loop around it, and a ratio is the median of
the ratios of batches that stood beside each other. Each measurement checks that it measured what it means: that the
run was attached, that each call counted a step, that the GIL was yielded or was not, that the worker was parked.

## What was to be reached

{table(["", "figure beside its twin", "ratio", "at most", ""], target_rows)}

- The empty method belongs to an extension type of the same kind. It takes no argument; `checkpoint()` can take one.
- As its users call it: `spark.checkpoint()`, with the names looked up. The others are called through a local name.
- "One thread ever" is a process that has never started a second thread: there the C library's locks, and so the GIL,
  cost less. Trainings have started some.
- Resume: from just before the request is sent, or the futex woken, to the first thing that the woken loop does. The
  worker has slept for some milliseconds by then.
- The standard modules are those that a plain `import spark_fast` loads in an interpreter without `site`. In the same
  interpreters `import json` takes {duration(median(found.imports.json))}.

## A step, beside what people use instead

![cost of a step]({image})

What each costs a step beyond an empty loop, called as its users call it, names looked up and all:

{table(["per step", "version", "cost", ""], step_rows)}

## New code

From just before a script is saved to the first step of its new code, in a training with steps of 1 ms, on the same
edit. Each had the machine for itself, in turn. The first edit of a training, which loads what is needed, stands apart.
A file is written in place, or under another name beside it and renamed, as many editors do. What has not seen an edit
after two seconds counts as never seeing it.

{table(["", "version", "saved", "edits", "median", "least", "90 %", "first"], _saved_rows(found.reload))}

A reload of a project, from asking for it to knowing that the new code runs, by the number of its modules. Either all
of them import the one that was edited, so that all are executed again, or none but the script does:

{table(["modules", "all executed again", "one"], _module_rows(found.reload))}

| | cost |
| --- | ---: |
| an item of `track(items, key=…)`, beyond a bare loop's | {duration(rounds.cost("track, key", "a bare loop"))} |
| an item of `track(items)` | {duration(rounds.cost("track", "a bare loop"))} |
| `persist("key", f)` once the value is there, in a function | {duration(rounds.cost("persist"))} |
| a look into a dict, in a function | {duration(rounds.cost("a dict behind a function"))} |
| `checkpoint()` beyond an empty method, under `spark-fast run` | {duration(median(found.reload.under.run))} |
| the same under plain Python | {duration(median(found.reload.under.plain))} |

## Values and calls

In a training, beyond an empty loop, names looked up and all; in one process, batch after batch in turn:

{table(["", "version", "cost", f"times `{ASSIGN}`", ""], _assigning_rows(found.values.assigning))}

From another process, {len(found.values.steering.read)} times each, fewer than {RATE:.0f} a second so that no request
waits for its sender's share. A training with steps of {duration(STEP * 1e9)} comes to it at its next checkpoint, on
average half a step later; one that is parked, at once:

{table(["", "median", "95 %", "longest"], _steering_rows(found.values.steering))}

What a flood does: a process sets a value in an endless loop, without waiting for what becomes of it. The library lets
{BURST} through at once, and from then on {RATE:.0f} a second, which is when this was measured: it had
{median(found.values.flood.sent):.0f} a second. The training's steps are some work of
about {duration(SHORT_STEP * 1e9)}, always the same; a third process sets another value, and waits for each.
Undisturbed and flooded in turn, in random order. The ratios of the steps are medians of the rounds' ratios:

{table(["", "undisturbed", "flooded", "ratio"], _flood_rows(found.values.flood))}

## Many ranks

What each rank of a job calls at every step, so that all hear at the same step what is asked. The ranks are processes of
one job, started as `torchrun` does; all call the same in turn, batch after batch, and rank 0 is timed. What waits for
no other process is timed by its CPU time, as there may be more ranks than CPUs.

{table(_rank_head(found.ranks), _rank_rows(found.ranks))}

How long it takes to agree, from asking until the step is decided and every rank has been told: the ranks are slots in
one control file, each with a lock of its own, that a process on another CPU steps without a pause. Nobody has a job of
{found.ranks.agreed[-1].ranks:,} ranks on one host; they show how it grows:

{table(["ranks", "median", "least", "90 %"], _agreed_rows(found.ranks))}

The same with a process for each rank, whose steps sleep. Most of the time until all have parked is the rest of a step,
and the system's, which has {os.cpu_count()} CPUs for all of them:

{table(_PARK_HEAD, _park_rows(found.ranks))}

## Many hosts

Requests to a job of several hosts, from asking until it is known that all hosts have done so. All hosts are on this
one machine, each with a home of its own, one rank with steps of 1 ms, and its own relay, which holds
{_mebibytes(found.hosts.trips[-1].relay_bytes)} of memory; what they have in common is a TCPStore of PyTorch
{found.hosts.torch}:

{table(["hosts", "value set, running", "value set, parked", "all parked", "all run again"], _trip_rows(found.hosts))}

Of hosts that are simulated the relays' own code runs, and each of their calls is made to a real TCPStore, one after the
other, which a job's hosts would do at the same time. One that reads takes {duration(found.hosts.get_ns)}, one that
compares and swaps {duration(found.hosts.swap_ns)}:

{table(_MANY_HEAD, _many_rows(found.hosts))}

How long ranks stand still for a request is modelled: the relays' own code, hosts that work at the same time, a round
trip of {duration(found.hosts.costs.trip * 1e9)}, and a store whose thread takes what was measured here:
{duration(found.hosts.costs.answered * 1e9)} for a request that is answered,
{duration(found.hosts.costs.put * 1e9)} for one that is not, {duration(found.hosts.costs.woken * 1e9)} for the end of a
wait, {duration(found.hosts.costs.key * 1e9)} for each further key of a request. [scale.md](scale.md) goes on from
there:

{table(_STAND_HEAD, _stand_rows(found.hosts))}

## The web page

The server of `spark-fast ui`, while pages look at the list of {found.web.runs:,} live runs, each of which is at another
step ten times a second. `events` is how often a page is told what has changed:

{table(["", "cores", "events a second"], _web_rows(found.web))}

Opening the page of a run with {found.web.values} values, each assigned {found.web.steps:,} times: from asking for the
run to having read the courses of all its values, its journal and its versions takes
{duration(median(found.web.opened) * 1e9)} at the median, {duration(max(found.web.opened) * 1e9)} at the most.
Of a run that has assigned each once: {duration(median(found.web.fresh) * 1e9)}.

## The longest of many calls

Each row is a process that made {found.longest[0].found["calls"]:,} calls, or as many as fit into its time, and
timed each; the time of a call contains one reading of the clock. The twins have no control file: what they show, the
machine and the interpreter do. With a busy disk another process writes and flushes block after block in the same file
system, and at every tenth has the system write back all that it holds. With a busy thread, a second Python thread
computes. `memory` is a run folder in shared memory, where nothing is ever written back.

{table(["", "folder", "calls", "median", "99.9 %", "99.999 %", "longest", "faults", "blocked"], _longest_rows(found))}

`faults` are page faults: after the system has written the control file's page back, the next store finds it
write-protected. `blocked` counts how often the thread had to wait, for the disk or for the GIL.

{_KINDS.format(table=table(["an empty", "called by", "one thread ever", "has had threads"], kind_rows))}"""


_MANY_HEAD = [
    "hosts",
    "calls to the store in one request",
    "time in them, one after the other",
    "time of the store's thread",
]
_STAND_HEAD = ["hosts", "ranks stand still at most", "until the sender is told", "time of the store's thread"]
_PARK_HEAD = ["ranks", "a step", "decided", "all parked", "steps until then", "from a resume until all run"]


def _rank_head(ranks: Ranks) -> list[str]:
    counts = [f"{idle.ranks} rank{'s' if idle.ranks > 1 else ''}" for idle in ranks.idle]
    return ["per step", "version", *counts, f"times ours, {ranks.idle[-1].ranks} ranks", "same step for all", ""]


def _rank_rows(ranks: Ranks) -> list[list[str]]:
    most = ranks.idle[-1]
    return [
        [
            name,
            number,
            *(duration(idle.cost(name)) for idle in ranks.idle),
            "" if name == OURS else f"{most.times(name):,.0f}",
            same,
            note,
        ]
        for name, number, same, note in sorted(most.about, key=lambda each: most.cost(each[0]))
        if name != NO_CALL
    ]


def _agreed_rows(ranks: Ranks) -> list[list[str]]:
    return [[f"{each.ranks:,}", *map(duration, (each.took, each.least, each.most))] for each in ranks.agreed]


def _park_rows(ranks: Ranks) -> list[list[str]]:
    return [
        [
            str(each.ranks),
            *map(duration, (each.step, each.agreed, each.parked)),
            str(each.steps),
            duration(each.running),
        ]
        for each in ranks.parked
    ]


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"


def _trip_rows(hosts: Hosts) -> list[list[str]]:
    return [
        [
            str(trip.hosts),
            *(duration(median(each)) for each in (trip.set_running, trip.set_parked, trip.pause, trip.resume)),
        ]
        for trip in hosts.trips
    ]


def _many_rows(hosts: Hosts) -> list[list[str]]:
    return [
        [f"{each.hosts:,}", f"{each.calls:,}", duration(each.store_ns), duration(each.thread_ns)] for each in hosts.many
    ]


def _stand_rows(hosts: Hosts) -> list[list[str]]:
    return [
        [f"{each.hosts:,}", *(duration(seconds * 1e9) for seconds in (each.stands, each.told, each.store))]
        for each in hosts.stands
    ]


def _saved_rows(reload: Reload) -> list[list[str]]:
    def row(saved: Saved, way: str) -> list[str]:
        took = sorted(saved.took)
        unseen = f", {saved.unseen} not seen" if saved.unseen else ""
        named = [saved.name, saved.version, way, f"{len(took)}{unseen}"]
        if not took:
            return [*named, *["never"] * 4]
        return [*named, *map(duration, (median(took), took[0], took[len(took) * 9 // 10], median(saved.first)))]

    return [row(saved, saves.way) for saves in reload.saves for saved in (saves.ours, *saves.peers)]


def _module_rows(reload: Reload) -> list[list[str]]:
    return [
        [str(each.count), duration(median(each.shared) * 1e9), duration(median(each.alone) * 1e9)]
        for each in reload.modules
    ]


def _assigning_rows(assigning: Assigning) -> list[list[str]]:
    rounds, own = assigning.rounds, f"spark_fast {version('spark-fast')}"
    cases = {
        ASSIGN: (own, "a float"),
        READ: (own, "what was set last"),
        ASSIGN_JSON: (own, "a dict of three: JSON"),
        ASSIGN_TENSOR: (own, "a tensor of one element, in the host's memory"),
        PLAIN_ASSIGN: ("", "the twin: an attribute of a plain object"),
        PLAIN_READ: ("", "that attribute, read"),
    }
    rows = [(f"`{case}`", case, *rest) for case, rest in cases.items() if case in rounds.found]
    rows += [(peer.name, peer.case, peer.version, peer.note) for peer in assigning.peers]
    return [
        [name, of, duration(rounds.cost(case)), _many(rounds.ratio(case, ASSIGN)), note]
        for name, case, of, note in sorted(rows, key=lambda row: rounds.cost(row[1]))
    ] + [[gone.name, "not measured", "", "", gone.reason] for gone in assigning.absent]


def _many(times: float) -> str:
    return f"{times:,.0f}" if times >= 10 else f"{times:.2f}"


def _spread(figures: list[int]) -> list[str]:
    found = sorted(figures)
    return [duration(median(found)), duration(found[len(found) * 95 // 100]), duration(found[-1])]


def _steering_rows(steering: Steering) -> list[list[str]]:
    return [
        [what, *_spread(figures)]
        for what, figures in (
            ("`Run.set()` until it is known to be applied, running", steering.set),
            ("until the running loop has read the value", steering.read),
            ("`Run.set()` until it is known to be applied, parked", steering.set_parked),
            ("`Run.call()` until its result is there, running", steering.call),
            ("`Run.call()` until its result is there, parked", steering.call_parked),
        )
    ]


def _flood_rows(flood: Flood) -> list[list[str]]:
    quiet, flooded = _spread(flood.set_quiet), _spread(flood.set_flooded)
    medians = median(flood.set_flooded) / median(flood.set_quiet)
    return [
        [
            "steps a second",
            f"{median(flood.quiet):,.0f}",
            f"{median(flood.flooded):,.0f}",
            f"{ratio(flood.flooded, flood.quiet):.3f} times",
        ],
        [
            "time on a CPU for each step",
            duration(median(flood.cpu_quiet)),
            duration(median(flood.cpu_flooded)),
            f"{ratio(flood.cpu_flooded, flood.cpu_quiet):.3f} times",
        ],
        ["`Run.set()` of a third process, median", quiet[0], flooded[0], f"{medians:.2f} times"],
        ["95 %", quiet[1], flooded[1], ""],
        ["longest", quiet[2], flooded[2], ""],
    ]


def _web_rows(web: Web) -> list[list[str]]:
    return [[_pages(row), f"{row.cores:.3f}", f"{row.events:.2f}" if row.pages else "-"] for row in web.looked]


def _longest_rows(found: Results) -> list[list[str]]:
    rows = []
    for row in found.longest:
        names = {"empty": "twin: empty method", "empty_nogil": "twin: empty method, GIL released"}
        call = names.get(row.call, f"checkpoint(), yield {row.interval}")
        figures = [duration(row.found[name]) for name in ("median", "p99.9", "p99.999", "longest")]
        counts = [str(row.found["faults"]), str(row.found["blocked"])]
        rows.append([f"{row.machine}: {call}", row.where or "-", f"{row.found['calls']:,}", *figures, *counts])
    return rows


def plot(found: Results, path: Path) -> None:
    """The cost of a step of each, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "spark_fast"
    from matplotlib import pyplot

    steps = list(reversed(each_step(found)))
    figure, axes = pyplot.subplots(figsize=(9, 0.34 * len(steps) + 1.2))
    colours = ["#d1495b" if step.ours else "#9aa5b1" for step in steps]
    bars = axes.barh([step.name for step in steps], [max(step.cost, 1.0) for step in steps], color=colours)
    axes.bar_label(bars, [duration(step.cost) for step in steps], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=max(step.cost for step in steps) * 6)
    axes.set_xlabel("ns a step, beyond an empty loop")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def summary(found: Results) -> str:
    """For the terminal."""
    lines = []
    for row in targets(found):
        mark = "reached    " if row.reached else "NOT REACHED"
        what = row.what.replace("`", "")
        lines.append(f"{mark}  {row.shown:>14}  at most {row.reach:<10}  {what}: {row.cost}, twin {row.twin_cost}")
    lines.append("")
    lines.extend(f"{duration(step.cost):>12} a step  {step.name} ({step.version})" for step in each_step(found))
    lines.extend(f"  not measured  {gone.name}: {gone.reason}" for gone in found.idle.absent)
    return "\n".join(lines)
