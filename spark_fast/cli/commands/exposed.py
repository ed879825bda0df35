"""Commands for what a run exposes: `get`, `set`, `call` and `watch`."""

from typing import Annotated, Literal

import typer

from spark_fast.cli.commands.parameters import AsJson, RunId, Timeout, Wait
from spark_fast.cli.commands.sending import patience_of

__all__ = ["call", "get", "set_values", "watch"]


def get(
    run: RunId = None,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME…", help="Only these values.")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Print the values over the whole run, as a table with tabs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the values that a run exposes, and the functions that can be called."""
    from spark_fast.cli import values

    values.get(run, names or [], history=history, as_json=as_json)


def set_values(
    run: RunId = None,
    pairs: Annotated[list[str] | None, typer.Argument(metavar="NAME=VALUE…", help="What to set.")] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Set exposed values at a run's next checkpoint; where it is paused, at once."""
    from spark_fast.cli import values

    patience = patience_of(wait, timeout)
    values.set_values(run, pairs or [], patience, as_json=as_json)


def call(
    run: RunId = None,
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="FUNCTION [JSON]", help="An object holds arguments by name, an array by place."),
    ] = None,
    ranks: Annotated[
        str | None,
        typer.Option(
            "--ranks",
            metavar="N|all",
            help="Which rank calls it; or all, at the same step. Default: what the script says of it, or 0.",
        ),
    ] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Call an exposed function at a run's next checkpoint, also while it is paused, and print what it returns."""
    from spark_fast.cli import values

    patience = patience_of(wait, timeout)
    values.call(run, what or [], patience, ranks=_which(ranks), as_json=as_json)


def _which(ranks: str | None) -> int | Literal["all"] | None:
    if ranks is None:
        return None
    if ranks == "all":
        return "all"
    if ranks.isdecimal() and len(ranks) < 10:
        return int(ranks)
    raise typer.BadParameter(f"{ranks!r} is neither the number of a rank nor all", param_hint="--ranks")


def watch(
    run: RunId = None,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME…", help="Only these values.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print exposed values as they change, until the run ends; Ctrl-C leaves."""
    from spark_fast.cli import values

    values.watch(run, names or [], as_json=as_json)
