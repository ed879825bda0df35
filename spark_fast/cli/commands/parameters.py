"""Parameters that several commands take, and how their text is read."""

from typing import Annotated

import typer

from spark_fast.durations import DURATIONS, parse_duration
from spark_fast.errors import SparkError

__all__ = ["AsJson", "RunId", "Timeout", "Wait", "complete_run", "seconds"]


def complete_run(incomplete: str) -> list[str]:
    """Return the ids of the live runs that begin so, for the shell's completion."""
    try:
        from spark_fast import client

        return [run.id for run in client.runs(ended=False) if run.id.startswith(incomplete)]
    except (SparkError, OSError):  # a message would land in the middle of the line that the user types
        return []


RunId = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="The run's name, or its beginning; not needed when one run is live.",
        autocompletion=complete_run,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the run has done it, or only ask for it.")]
Timeout = Annotated[
    str | None,
    typer.Option("--timeout", metavar="DURATION", help="Wait no longer than this: 90, 90s, 10m, 1h30m, 500ms."),
]


def seconds(text: str | None, option: str, *, positive: bool = False) -> float | None:
    """Return the duration that an option gives, in seconds; None where the option is not given.

    Raises typer.BadParameter if the text is no duration, or is 0 where `positive` is set.
    """
    if text is None:
        return None
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    if positive and not found:
        raise typer.BadParameter(f"more than 0 is needed: {DURATIONS}", param_hint=option)
    return found
