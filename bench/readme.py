"""Write the two lines about costs into README, between two marks, from the figures of one run."""

from pathlib import Path

from bench.measure import median
from bench.report import Results, duration, each_step
from bench.values import STEP

__all__ = ["rewrite", "section"]

BEGIN = "<!-- figures: `make bench` writes what stands from here on -->"
END = "<!-- end of figures -->"


def section(found: Results) -> str:
    """Return the text between the marks: two lines, of which docs/benchmarks.md has the rest."""
    cost = found.idle.rounds.cost
    saves, steering = found.reload.saves[0], found.values.steering
    return f"""\
- A step: `spark.checkpoint()` costs {duration(cost("spark.checkpoint(), yield 0"))}, or \
{duration(cost("spark.checkpoint(), yield 1e-3"))} if it yields the GIL once a millisecond.
  tqdm's loop costs {duration(next(step.cost for step in each_step(found) if step.name == "tqdm's loop"))}.
- A request: new code runs {duration(median(saves.ours.took))} after its file is saved (jurigged: \
{duration(median(saves.peers[0].took))}), and a value is in use
  {duration(median(steering.set))} after it is set, both in a loop with steps of {duration(STEP * 1e9)}.
"""


def rewrite(path: Path, found: Results) -> None:
    """Write the section into a file that has the two marks. Raises ValueError for any other file."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the marks between which its figures stand")
    path.write_text(f"{before}{BEGIN}\n\n{section(found)}\n{END}{after}", encoding="utf-8")
