"""The two lines about costs that README has between two marks: made from one run's figures alone."""

from pathlib import Path

from bench.report import render
from bench.results import Results, each_step

__all__ = ["rewrite", "section"]

BEGIN = "<!-- figures: `make bench` writes what stands from here on -->"
END = "<!-- end of figures -->"


def section(found: Results) -> str:
    """Return the text between the marks. See templates/readme.md.j2; docs/benchmarks.md has the other figures."""
    return render("readme.md.j2", found, steps={step.name: step.cost for step in each_step(found)})


def rewrite(path: Path, found: Results) -> None:
    """Put the section into a file that has the two marks."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the marks between which its figures stand")
    path.write_text(f"{before}{BEGIN}\n\n{section(found)}\n{END}{after}", encoding="utf-8")
