"""Commands for a run's code: `reload` and `versions`."""

from typing import Annotated

import typer

from spark_fast.cli.commands.parameters import AsJson, RunId, Timeout, Wait
from spark_fast.cli.commands.sending import send

__all__ = ["reload", "versions"]


def reload(
    run: RunId = None,
    to: Annotated[
        int | None,
        typer.Option("--to", metavar="VERSION", min=1, help="Go back to this version, or forth: see 'versions'."),
    ] = None,
    code: Annotated[
        str | None,
        typer.Option(
            "--code", metavar="FILE|-", help="Take the script's new source from this file; '-' is standard input."
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start the training over: forget what is persisted, and where loops are.")
    ] = False,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Let a run go on with the code that changed on disk: the same model, the next batch.

    Code that does not compile never reaches it. Where the new code raises an exception, the old code goes on.
    """
    from spark_fast.cli.code import read_source

    if to is not None and code is not None:
        raise typer.BadParameter("--to and --code exclude each other", param_hint="--code")
    source = None if code is None else read_source(code)
    send(
        run,
        lambda found, patience: found.reload(source, to=to, restart=restart, wait=False, timeout=patience.left()),
        wait=wait,
        timeout=timeout,
        as_json=as_json,
    )


def versions(
    run: RunId = None,
    number: Annotated[
        str | None, typer.Argument(metavar="N", help="With --diff: only what changed with version N.")
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show what changed from version to version.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the versions of a run's code; the one that runs has a star."""
    from spark_fast import client
    from spark_fast.cli import code

    # With --diff a lone number is N.
    if diff and run is not None and run.isdecimal() and (number is None or not number.isdecimal()):
        run, number = number, run
    if number is not None and not (diff and number.isdecimal()):
        raise typer.BadParameter(f"{number!r} is no number of a version, or --diff is missing", param_hint="N")
    code.versions(client.attach(run), diff=diff, only=None if number is None else int(number), as_json=as_json)
