"""What a campaign has done and found, and the table of it in docs/reliability.md."""

import platform
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["BEGIN", "END", "Finding", "Tally", "write"]

BEGIN = "<!-- figures: `python -m tests.campaign` writes what stands from here on -->"
END = "<!-- end of figures -->"

ROWS = {
    "jobs": "jobs, each with its own home of runs",
    "job: ": "jobs by kind",
    "request: ": "requests by channel",
    "answer: ": "answers by fate",
    "kill: ": "processes killed with SIGKILL",
    "fault: ": "faults",
    "input: ": "bad inputs",
    "check: ": "checks that held",
}
"""The counters that are summed up in one row have the row's key as the beginning of their names."""


@dataclass(frozen=True)
class Finding:
    """Something that did not hold.

    Attributes:
        job: the kind of job, its number and its seed, which the command takes to run it again.
        what: what did not hold.
        folder: where the job's files are kept.
    """

    job: str
    what: str
    folder: str


@dataclass
class Tally:
    """The counts and findings of a campaign."""

    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def sum(self, prefix: str) -> int:
        """Return the sum of all counters whose names begin with the prefix."""
        return sum(number for name, number in self.counts.items() if name.startswith(prefix))

    def summary(self) -> str:
        """Return the figures as a table, and the findings as a list, in Markdown."""
        lines = [
            f"Seed {self.seed}, {self.seconds / 3600:.2f} hours, {datetime.now(UTC):%Y-%m-%d}, "
            f"Python {platform.python_version()}, Linux {platform.release().split('-')[0]}.",
            "",
            "| | number | of these |",
            "| --- | ---: | --- |",
        ]
        for prefix, title in ROWS.items():
            parts = sorted(
                (name.removeprefix(prefix), number)
                for name, number in self.counts.items()
                if name.startswith(prefix) and name != prefix
            )
            shown = ", ".join(f"{name}: {number:,}" for name, number in parts)
            lines.append(f"| {title} | {self.sum(prefix):,} | {shown} |")
        lines += [f"| findings | {len(self.findings):,} | |", ""]
        lines += [f"- {finding.job}: {finding.what.splitlines()[0]}" for finding in self.findings]
        return "\n".join(lines).strip() + "\n"


def write(path: Path, tally: Tally) -> None:
    """Put the figures between the marks of a document.

    Raises ValueError if the document lacks the marks.
    """
    text = path.read_text()
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{path} lacks the marks between which its figures stand")
    path.write_text(f"{before}{BEGIN}\n\n{tally.summary()}\n{END}{after}")
