"""The versions of a run's code, as a table or as differences; and new code from a file."""

import sys
import time
from collections.abc import Sequence

from spark_fast.cli import render
from spark_fast.cli.exits import Exit, leave
from spark_fast.cli.formatting import clock
from spark_fast.cli.render import Cell, Column, Lines
from spark_fast.client import Run
from spark_fast.client.diffs import diff as diff_of
from spark_fast.plain_text import printable
from spark_fast.project.files import relative
from spark_fast.runfiles.json_text import to_json
from spark_fast.runfiles.versions import SOURCE_MAX, Store, Version

__all__ = ["read_source", "versions"]

_COLUMNS = (
    Column(" "),
    Column("VERSION", right=True),
    Column("MADE"),
    Column("NOTE"),
    Column("BY", drop=1),
    Column("CHANGED"),
)


def read_source(path: str) -> bytes:
    """Return the content of a file, or of standard input for "-", but little more than a source may have.

    Raises OSError.
    """
    if path == "-":
        return sys.stdin.buffer.read(SOURCE_MAX + 1)
    with open(path, "rb") as file:
        return file.read(SOURCE_MAX + 1)


def versions(run: Run, *, diff: bool, only: int | None, as_json: bool) -> None:
    """Prints the versions of a run's code, or what changed from one to the next.

    only: with `diff`, the number of the one version whose changes are wanted.

    Raises typer.Exit with a status of `Exit` if there is no such version.
    """
    store = Store(run.folder)
    found = store.versions()
    pairs = [(old, new) for old, new in zip([None, *found], found, strict=False) if only in (None, new.number)]
    if only is not None and not pairs:
        raise leave(Exit.REFUSED, f"run {run.id} has no version {only}")
    if as_json:
        current = store.current_number()
        print(to_json([_as_dict(store, old, new, current, diff=diff) for old, new in pairs], indent=2))
    elif not found:
        print(f"run {run.id} has no versions of its code: it was not started with 'spark-fast run' or spark.run()")
    elif diff:
        lines = Lines([line for old, new in pairs for line in _changes(store, old, new)])
        render.console().print(lines, crop=False)
    else:
        console = render.console()
        console.print(_table(store, pairs, console.width))


def _as_dict(store: Store, old: Version | None, new: Version, current: int, *, diff: bool) -> dict[str, object]:
    found: dict[str, object] = {
        "number": new.number,
        "runs": new.number == current,
        "made": new.made,
        "sender": new.sender,
        "note": new.note,
        "changed": store.changed(old, new),
        "files": dict(new.files),
    }
    return found | {"diff": "" if old is None else diff_of(store, old, new)} if diff else found


def _table(store: Store, pairs: Sequence[tuple[Version | None, Version]], width: int) -> Lines:
    now = time.time()
    current = store.current_number()
    roots = store.about().roots
    rows: list[list[Cell]] = []
    for old, new in pairs:
        runs = new.number == current
        style = "green" if runs else ""
        changed = ", ".join(relative(path, roots) for path in store.changed(old, new))
        rows.append(
            [
                ("*" if runs else " ", style),
                (str(new.number), style),
                (clock(new.made, now), "dim"),
                (printable(new.note), style),
                (printable(new.sender), "dim"),
                (printable(changed) or "-", ""),
            ]
        )
    return render.layout(_COLUMNS, rows, width)


_LINES = {"---": "bold", "+++": "bold", "@@": "cyan", "+": "green", "-": "red"}


def _changes(store: Store, old: Version | None, new: Version) -> list[list[Cell]]:
    head = (
        f"version {new.number}: {new.note}, {clock(new.made, time.time())}{f', by {new.sender}' if new.sender else ''}"
    )
    lines: list[list[Cell]] = [[(printable(head), "yellow")]]
    # Not splitlines(): a form feed ends no line. Tabs stay tabs.
    for line in diff_of(store, old, new).split("\n")[:-1] if old is not None else []:
        style = next((style for start, style in _LINES.items() if line.startswith(start)), "")
        lines.append([("\t".join(printable(part) for part in line.split("\t")), style)])
    return [*lines, [("", "")]]
