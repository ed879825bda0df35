"""What README says of costs, between two marks: made from one run's figures alone."""

from pathlib import Path

from bench.assigning import ASSIGN
from bench.report import render
from bench.results import Results, each_step
from bench.targets import targets

__all__ = ["rewrite", "section"]

BEGIN = "<!-- figures: `make bench` writes what stands from here on -->"
END = "<!-- end of figures -->"

_OWN = {
    "track": "`for item in spark.track(items)`, beyond the bare loop",
    "track, key": "`for item in spark.track(items, key=…)`, beyond the bare loop",
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
    """Return what stands between the marks. See templates/readme.md.j2."""
    missed = [target for target in targets(found) if not target.reached]
    return render("readme.md.j2", found, rows=_step_rows(found), missed=missed)


def rewrite(path: Path, found: Results) -> None:
    """Put the section into a file that has the two marks."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the marks between which its figures stand")
    path.write_text(f"{before}{BEGIN}\n\n{section(found)}\n{END}{after}", encoding="utf-8")


def _step_rows(found: Results) -> list[tuple[str, float]]:
    """Return what costs how many ns a step: the library's calls, the cheapest first, and then the others."""
    rounds, assigned = found.idle.rounds, found.values.assigning
    bare = {"track": "a bare loop", "track, key": "a bare loop"}
    own = [(what, rounds.cost(case, *([bare[case]] if case in bare else []))) for case, what in _OWN.items()]
    own.append((f"`{ASSIGN}`, an exposed number", assigned.rounds.cost(ASSIGN)))
    others = [(_OTHERS[step.name], step.cost) for step in each_step(found) if step.name in _OTHERS]
    others += [(peer.name, assigned.rounds.cost(peer.case)) for peer in assigned.peers]
    return [*sorted(own, key=lambda row: row[1]), *sorted(others, key=lambda row: row[1])]
