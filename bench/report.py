"""docs/benchmarks.md, its plot, and the summary: made from one run's figures alone. See templates/benchmarks.md.j2."""

import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.assigning import ASSIGN, ASSIGN_JSON, ASSIGN_TENSOR, PLAIN_ASSIGN, PLAIN_READ, READ
from bench.idle import how_it_is_called, kinds_of_call
from bench.measure import median, ratio
from bench.ranks import EMPTY as NO_CALL
from bench.ranks import OURS, Ranks
from bench.results import Results, duration, each_step, pages, seconds
from bench.targets import targets
from bench.values import SHORT_STEP, STEP, Assigning
from spark_fast.client.rate_limit import BURST, RATE

__all__ = ["plot", "render", "summary", "text"]


def text(found: Results, image: str) -> str:
    """Return the whole page. image: the file name of the plot."""
    return render(
        "benchmarks.md.j2",
        found,
        image=image,
        today=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=_machine(),
        python=platform.python_version(),
        version=version,
        targets=targets(found),
        steps=each_step(found),
        assigned=sorted(_assigned(found.values.assigning), key=lambda row: row.cost),
        calls_of_ranks=_calls_of_ranks(found.ranks),
        kinds_of_call=kinds_of_call,
        how_it_is_called=how_it_is_called,
    )


def render(template: str, found: Results, **more: object) -> str:
    """Return a template of templates/ with the figures of a run, and with more variables."""
    return _environment().get_template(template).render(found=found, **more)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "duration": duration,
        "median": median,
        "pages": pages,
        "seconds": seconds,
        "spread": lambda figures: " | ".join(map(duration, _percentiles(figures))),
        "thousands": lambda number: f"{number:,.0f}",
        "times": lambda ratio: f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2f}",
    }
    environment.globals |= {
        "cpus": os.cpu_count(),
        "names": SimpleNamespace(ASSIGN=ASSIGN, BURST=BURST, OURS=OURS, RATE=RATE, SHORT_STEP=SHORT_STEP, STEP=STEP),
        "percentiles": _percentiles,
        "ratio": ratio,
    }
    return environment


def _percentiles(figures: list[int]) -> tuple[float, float, float]:
    """Return the median, what 95 % are below, and the most."""
    found = sorted(figures)
    return median(found), found[len(found) * 95 // 100], found[-1]


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


class _Assigned(NamedTuple):
    """A row of the table of what shows a number: its cost in ns, and how many times that of `ASSIGN`."""

    name: str
    version: str
    cost: float
    times: float
    note: str


def _assigned(assigning: Assigning) -> Iterator[_Assigned]:
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
    for name, case, of, note in rows:
        yield _Assigned(name, of, rounds.cost(case), rounds.ratio(case, ASSIGN), note)


def _calls_of_ranks(ranks: Ranks) -> list[tuple[str, str, str, str]]:
    """Return name, version, promise and note of each call, the cheapest on the most ranks first."""
    most = ranks.idle[-1]
    return [each for each in sorted(most.about, key=lambda each: most.cost(each[0])) if each[0] != NO_CALL]


def plot(found: Results, path: Path) -> None:
    """Write the plot to `path`: what a step of each costs, on a logarithmic scale."""
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
    """Return the targets and the costs of a step, for the terminal."""
    lines = []
    for row in targets(found):
        mark = "reached    " if row.reached else "NOT REACHED"
        what = row.what.replace("`", "")
        lines.append(f"{mark}  {row.shown:>14}  at most {row.reach:<10}  {what}: {row.cost}, twin {row.twin_cost}")
    lines.append("")
    lines.extend(f"{duration(step.cost):>12} a step  {step.name} ({step.version})" for step in each_step(found))
    lines.extend(f"  not measured  {gone.name}: {gone.reason}" for gone in found.idle.absent)
    return "\n".join(lines)
