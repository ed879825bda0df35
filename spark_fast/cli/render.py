"""Runs as text for people: the table of `ps` and `top`, the page of `status`."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from spark_fast.cli import ranks as ranking
from spark_fast.cli.formatting import clock, command_line, duration, speed
from spark_fast.client import Fate, FateState, Progress, Rank, Run, SparkStatus
from spark_fast.client.snapshot import status_of_ranks, step_of_ranks
from spark_fast.hosts.state_files import read_unsigned
from spark_fast.plain_text import printable
from spark_fast.request import AFTER_ERROR
from spark_fast.runfiles.run_error import RunError, remedies

__all__ = ["Column", "Lines", "console", "details", "layout", "run_table"]

_GAP = "  "
_ELLIPSIS = "…"
_LEAST = 16
"""The least width at which the last column of a table is of use."""
_UNBOUND = 1_000_000

STYLES = {
    SparkStatus.IDLE: "cyan",
    SparkStatus.RUNNING: "green",
    SparkStatus.PAUSING: "yellow",
    SparkStatus.PAUSED: "yellow",
    SparkStatus.STOPPING: "magenta",
    SparkStatus.STOPPED: "dim",
    SparkStatus.RELOADING: "cyan",
    SparkStatus.FINISHED: "dim",
    SparkStatus.FAILED: "red",
    SparkStatus.LOST: "bold red",
    SparkStatus.UNHEARD: "yellow",
}


def console() -> Console:
    """Return a console for standard output: with colours on a terminal that has them, of any width elsewhere."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _UNBOUND)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        heading: its first line.
        right: whether it is aligned to the right.
        drop: in which order columns are left out on a narrow terminal, 1 first; 0 for never.
    """

    heading: str
    right: bool = False
    drop: int = 0


Cell = tuple[str, str]
"""A text and its style."""


class Lines:
    """Lines of styled text for rich to print. A narrower terminal cuts them.

    Not rich's own table, nor its texts: those take a second and a half, and half a second, for a thousand rows.
    """

    def __init__(self, lines: list[list[Cell]]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in self._lines:
            for text, style in line:
                yield Segment(text, console.get_style(style) if style else None)
            yield Segment.line()


def layout(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> Lines:
    """Return a table with a line of headings. Its last column gets the width that the others leave."""
    lines = [[(column.heading, "bold") for column in columns], *rows]
    sizes = [max(cell_len(line[at][0]) for line in lines) for at in range(len(columns))]
    shown = list(range(len(columns)))

    def needed() -> int:
        last = min(sizes[shown[-1]], _LEAST)
        return sum(sizes[at] for at in shown[:-1]) + last + len(_GAP) * (len(shown) - 1)

    for at in sorted((at for at in shown if columns[at].drop), key=lambda at: columns[at].drop):
        if needed() <= width:
            break
        shown.remove(at)
    last = shown[-1]
    room = max(_LEAST, width - sum(sizes[at] + len(_GAP) for at in shown[:-1]))
    return Lines([_line(line, columns, sizes, shown[:-1], last, room) for line in lines])


def _line(
    cells: Sequence[Cell], columns: Sequence[Column], sizes: list[int], shown: list[int], last: int, room: int
) -> list[Cell]:
    line = []
    for at in shown:
        text, style = cells[at]
        space = " " * (sizes[at] - cell_len(text))
        line += [(space, ""), (text, style), (_GAP, "")] if columns[at].right else [(text, style), (space + _GAP, "")]
    text, style = cells[last]
    if columns[last].right:
        line.append((" " * (sizes[last] - cell_len(text)), ""))
    line.append((text if cell_len(text) <= room else set_cell_size(text, room - 1) + _ELLIPSIS, style))
    return line


_RUN_COLUMNS = (
    Column("RUN"),
    Column("STATUS"),
    Column("RANKS", right=True),
    Column("STEP", right=True),
    Column("STEPS/S", right=True, drop=5),
    Column("PROGRESS", right=True, drop=6),
    Column("LEFT", right=True, drop=4),
    Column("AGE", right=True, drop=2),
    Column("PID", right=True, drop=1),
    Column("COMMAND", drop=3),
)


def run_table(runs: Iterable[Run], width: int) -> Lines:
    """Return a table with a line for each run."""
    now = time.time()
    shown = list(runs)
    columns, rows = list(_RUN_COLUMNS), [_run_cells(run, now) for run in shown]
    if not any(ranking.several(run) for run in shown):
        for cells in (columns, *rows):
            del cells[_RANKS]  # type: ignore[attr-defined]
    return layout(columns, rows, width)


_RANKS = 2


def _run_cells(run: Run, now: float) -> list[tuple[str, str]]:
    ranks = run.ranks
    status = status_of_ranks(ranks)
    progress = run.progress
    rest = "" if status.live else "dim"
    left = progress.seconds_left if progress is not None else None
    error = run.error
    return [
        (run.id, "bold" if status.live else "dim"),
        (str(status) if error is None else f"{status} ({printable(error.type)})", STYLES[status]),
        _present(ranks, ranking.wanted(ranks, run.local_world_size, run.world_size), rest),
        (str(step_of_ranks(ranks)), rest),
        (speed(run.steps_per_second), rest),
        (_loops(progress) if progress is not None else "-", rest),
        (duration(left) if left is not None else "-", rest),
        (duration(now - run.started), rest),
        (str(ranks[0].pid) if ranks else "-", rest),
        (_short_command(run.command), rest),
    ]


def _present(ranks: Sequence[Rank], wanted: int, rest: str) -> Cell:
    """Return how many ranks there are; for a live run that lacks some, how many of how many."""
    live = sum(rank.status.live for rank in ranks)
    if live in (0, wanted):
        return str(wanted), rest
    wrong = any(rank.status in (SparkStatus.LOST, SparkStatus.FAILED) for rank in ranks)
    return f"{live}/{wanted}", STYLES[SparkStatus.LOST] if wrong else rest


def _loops(progress: Progress) -> str:
    return " ".join(str(done) if total is None else f"{done}/{total}" for done, total in progress.loops)


def _short_command(command: list[str]) -> str:
    """Return the command without the folder of the script, which is long, and the same for most runs."""
    return command_line([os.path.basename(command[0]) or command[0], *command[1:]] if command else [])


def details(run: Run, width: int, *, last: int = 10, each: bool = False) -> Group:
    """Return the page of one run.

    last: how many of its requests to list.
    each: whether to list each of its ranks, also where there are many that are alike.
    """
    now = time.time()
    ranks = run.ranks
    status = status_of_ranks(ranks)
    several = ranking.several(run)
    progress = run.progress
    resumes = run.resumes
    facts: list[tuple[str, str]] = []
    error = run.error
    if resumes is not None and status is SparkStatus.PAUSED:
        pause = next((each for each in reversed(run.requests) if each.kind == "pause"), None)
        after_error = pause is not None and pause.sender.startswith(AFTER_ERROR)
        then = f"by itself in {duration(resumes - now)}, at {clock(resumes, now)}"
        facts.append(("stops" if after_error else "goes on", then))
    if (by := run.stop_by) is not None and status.live:
        left = f"{duration(by - now)} left" if by > now else "which is over"
        facts.append(("stops by", f"{clock(by, now)}, {left}"))
    if status.live and (raised := run.stop_step) is not None:
        facts.append(("stop", f"SparkStopError was raised at step {raised}"))
    if (per_second := run.steps_per_second) is not None:
        facts.append(("speed", f"{speed(per_second)} steps/s"))
    if progress is not None:
        facts.append(("progress", _long_progress(progress)))
    facts.append(("started", f"{clock(run.started, now)}, {duration(now - run.started)} ago"))
    if several:
        facts.append(("ranks", ranking.present(ranks, run.local_world_size, run.world_size)))
    elif ranks:
        facts.append(("process", f"{ranks[0].pid} on {printable(ranks[0].host)}"))
    facts.append(("command", command_line(run.command)))
    facts.append(("folder", printable(str(run.folder))))
    lines: list[RenderableType] = [
        Text.assemble(
            (run.id, "bold"),
            " has " if status is SparkStatus.FAILED else " is ",
            (str(status), STYLES[status]),
            f" at step {step_of_ranks(ranks)}",
        )
    ]
    if error is not None:
        lines.append(Text(f"  {_why(error, status, several)}", "red"))
    if several:
        lines += [Text(f"  {words}", "red") for words in ranking.concerns(ranks, per_second, now)]
        if run.world_size > run.local_world_size and (count := read_unsigned(run.folder)):
            lines.append(Text(f"  {unsigned(count)}", "red"))
    elif late := ranking.lateness(run):
        lines.append(Text(f"  {late}", "red"))
    if (raised := run.swallowed_stop) is not None:
        words = f"  its loop swallowed the stop that was raised at step {raised}, and goes on"
        lines.append(Text(words, "red"))
    page = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for name, fact in facts:
        page.add_row(Text(f"  {name}", "dim"), Text(fact))
    lines.append(page)
    if several:
        lines += [Text(), _rank_table(ranking.grouped(ranks, per_second, now, each=each), width)]
    if error is not None:
        text = [printable(line.expandtabs()) for line in error.traceback.rstrip().split("\n")]
        lines += [Text(), *(Text(line, "dim") for line in text)]
        if status is SparkStatus.PAUSED:
            lines += [Text(), *(Text(line) for line in remedies(run.id))]
    requests = run.requests
    if requests:
        kinds = {request.id: request.kind for request in requests}
        rows = []
        for request in requests[-last:]:
            fate = request.fate
            rows.append(
                [
                    (clock(request.asked, now), "dim"),
                    (request.kind if request.version is None else f"reload {request.version}", ""),
                    (_fate(fate, kinds), _FATE_STYLES.get(fate.state, "")),
                    (request.id, "dim"),
                    (printable(request.sender), "dim"),
                ]
            )
        columns = (Column("ASKED"), Column("REQUEST"), Column("FATE"), Column("ID", drop=2), Column("BY", drop=1))
        lines += [Text(), layout(columns, rows, width)]
        if len(requests) > last:
            lines.append(Text(f"and {len(requests) - last} before these: --json lists them", "dim"))
    return Group(*lines)


def unsigned(count: int) -> str:
    """Say how many values in a job's store no host of the job has signed."""
    values = "a value was" if count == 1 else f"{count} values were"
    return (
        f"{values} ignored that no host of this job has signed: another user writes into its store, or a host has "
        "another secret"
    )


def _why(error: RunError, status: SparkStatus, several: bool) -> str:
    """Return the exception that ended or paused a run, on one line."""
    where = f" (rank {error.rank})" if several else ""
    after = "" if status is SparkStatus.FAILED else "after an error: "
    return f"{after}{printable(error.message)}{where}"


_RANK_COLUMNS = (
    Column("RANK", right=True),
    Column("STATUS"),
    Column("FOR", right=True, drop=2),
    Column("STEP", right=True),
    Column("PID", right=True, drop=1),
    Column("HOST", drop=3),
)


def _rank_table(groups: Sequence[ranking.Group], width: int) -> Lines:
    rows = [
        [
            (group.ranks, "red" if group.trouble else ""),
            (str(group.first.status), STYLES[group.first.status]),
            (group.since or "-", ""),
            (group.steps, ""),
            (str(group.first.pid) if group.count == 1 else f"{group.count} processes", ""),
            (printable(group.first.host), ""),
        ]
        for group in groups
    ]
    return layout(_RANK_COLUMNS, rows, width)


_FATE_STYLES = {
    FateState.ASKED: "cyan",
    FateState.SUPERSEDED: "yellow",
    FateState.REFUSED: "red",
    FateState.FAILED: "red",
    FateState.VOID: "red",
    FateState.LOST: "red",
}


def _fate(fate: Fate, kinds: dict[str, str]) -> str:
    if fate.state is FateState.SUPERSEDED:
        return f"superseded by a {kinds.get(fate.by or '', 'later request')}"
    return printable(str(fate))


def _long_progress(progress: Progress) -> str:
    words = [_loops(progress)]
    if progress.fraction is not None:
        words.append(f"{progress.fraction:.0%}")
    if progress.seconds_left is not None:
        words.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(words)
