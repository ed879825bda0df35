"""What README says of costs, between two marks: made from one run's figures, and from nothing else."""

import os
from pathlib import Path

from bench.assigning import ASSIGN
from bench.measure import median, ratio
from bench.ranks import OURS
from bench.report import Results, Target, duration, each_step, table, targets
from bench.values import SHORT_STEP, STEP

__all__ = ["rewrite", "section"]

BEGIN = "<!-- figures: `make bench` writes what stands from here on -->"
END = "<!-- end of figures -->"

_OWN = {
    "track": "`for item in spark.track(items)`, beyond the bare loop",
    "track, key": "`for item in spark.track(items, key=…)`, likewise",
    "spark.pending()": "`spark.pending()`",
    "spark.checkpoint(), yield 1e-3": "`spark.checkpoint()`, the GIL yielded each millisecond",
    "spark.checkpoint(), yield 0": "`spark.checkpoint()`, the GIL yielded at each call (the default)",
}
_OTHERS = {
    "mmap[0]": "a byte of an `mmap`",
    "threading.Event.is_set": "`threading.Event.is_set()`",
    "tqdm's loop": "tqdm's loop",
    "multiprocessing.Event.is_set": "`multiprocessing.Event.is_set()`",
    "Determined's should_preempt": "Determined's `should_preempt()`",
    "Hugging Face Trainer's callback": "a callback of the Hugging Face Trainer",
    "os.path.exists": "`os.path.exists()` of a flag file",
    "Lightning's callback": "a callback of Lightning",
}


def section(found: Results) -> str:
    """What stands between the marks."""
    empty = duration(found.idle.rounds.cost("method"))
    released = duration(found.idle.rounds.cost("empty method, GIL released"))
    return f"""\
Measured on the machine and in the run that [docs/benchmarks.md](docs/benchmarks.md) describes: {os.cpu_count()} CPUs.
An empty method costs {empty} there, and one that yields the GIL and does nothing else {released}. Per step,
beyond an empty loop, as its users call it:

{table(["per step", "cost"], _step_rows(found))}

{table(["", ""], _now_and_then(found))}

{_missed(targets(found))}
"""


def rewrite(path: Path, found: Results) -> None:
    """Puts the section into a file that has the two marks."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the marks between which its figures stand")
    path.write_text(f"{before}{BEGIN}\n\n{section(found)}\n{END}{after}", encoding="utf-8")


def _step_rows(found: Results) -> list[list[str]]:
    rounds, assigned = found.idle.rounds, found.values.assigning
    bare = {"track": "a bare loop", "track, key": "a bare loop"}
    own = [(what, rounds.cost(case, *([bare[case]] if case in bare else []))) for case, what in _OWN.items()]
    own.append((f"`{ASSIGN}`, an exposed number", assigned.rounds.cost(ASSIGN)))
    others = [(_OTHERS[step.name], step.cost) for step in each_step(found) if step.name in _OTHERS]
    others += [(peer.name, assigned.rounds.cost(peer.case)) for peer in assigned.peers]
    by_cost = [*sorted(own, key=lambda row: row[1]), *sorted(others, key=lambda row: row[1])]
    return [[what, duration(cost)] for what, cost in by_cost]


def _now_and_then(found: Results) -> list[list[str]]:
    steering, flood, parked, web = found.values.steering, found.values.flood, found.parked, found.web
    saves = found.reload.saves[0]
    few, many = found.reload.modules[-2:]
    one, most = found.ranks.idle[0], found.ranks.idle[-1]
    agreed = next(each for each in found.ranks.agreed if each.ranks == 64)
    pages = next(row for row in web.looked if row.pages > 1)
    step, short = duration(STEP * 1e9), duration(SHORT_STEP * 1e9)
    wakes = [
        [
            f"from a resume to the loop running again, {where} (the wake of a bare futex)",
            f"{duration(median(wake.spark))} ({duration(median(wake.futex))})",
        ]
        for where, wake in found.wakes.items()
    ]
    return [
        [
            "from a file's save to the first step of its new code, steps of 1 ms (jurigged)",
            f"{duration(median(saves.ours.took))} ({duration(median(saves.peers[0].took))})",
        ],
        ["the same, the first edit of a training", duration(median(saves.ours.first))],
        [
            f"a reload that executes {few.count} modules again, {many.count}",
            f"{duration(median(few.shared) * 1e9)}, {duration(median(many.shared) * 1e9)}",
        ],
        *wakes,
        [f"from setting a value to its being applied, steps of {step}", duration(median(steering.set))],
        [f"a function called, steps of {step}", duration(median(steering.call))],
        [
            f"steps a second, of about {short} each, while a process sets values in an endless loop",
            f"{ratio(flood.flooded, flood.quiet):.3f} × as many",
        ],
        [
            f"parked for {parked.seconds:.0f} s: CPU time; wakes",
            f"{parked.ticks} ticks ({duration(parked.run_ns)}); {parked.wakes / parked.seconds:.2f} a second",
        ],
        ["`import spark_fast`", duration(median(found.imports.spark))],
        [
            f"a step of each of {most.ranks} ranks that share a run; of an only one",
            f"{duration(most.cost(OURS))}; {duration(one.cost(OURS))}",
        ],
        [
            "the same of what else stops all ranks at one step, at the least",
            f"{found.ranks.least_times():.3g} × as much",
        ],
        [f"{agreed.ranks} simulated ranks agree on a step", duration(agreed.took)],
        [f"the web page's server, {web.runs:,} live runs, {pages.pages} pages", f"{pages.cores:.3f} cores"],
    ]


def _missed(rows: list[Target]) -> str:
    missed = [row for row in rows if not row.reached]
    if not missed:
        return "All aims are reached."
    lines = [
        f"- {row.what}: {row.cost} beside {row.twin_cost} ({row.beside}), {row.shown}; the aim is {row.reach} at most."
        for row in missed
    ]
    return "Aims that are missed, of those that the page lists:\n\n" + "\n".join(lines)
