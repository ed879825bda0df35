"""Commands that start a training: `run` and `demo`."""

from enum import StrEnum
from typing import Annotated

import typer

from spark_fast.cli.commands.parameters import seconds

__all__ = ["OnError", "demo", "run"]


class OnError(StrEnum):
    """What --on-error takes."""

    PARK = "park"
    EXIT = "exit"


def run(
    target: Annotated[str, typer.Argument(metavar="SCRIPT|MODULE", help="What to run.", show_default=False)],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="Its arguments: all that follows.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The run's name. Default: $SPARK_FAST_RUN, or a random one."),
    ] = None,
    module: Annotated[bool, typer.Option("-m", help="Run a module, as 'python -m' does.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Reload a file of the script's code whenever it is saved.")
    ] = False,
    reload_dir: Annotated[
        list[str] | None,
        typer.Option("--reload-dir", metavar="DIR", help="Code in it counts as the project's, too. Repeatable."),
    ] = None,
    journal: Annotated[
        str | None, typer.Option("--journal", metavar="PATH", help="Where to write what was applied at which step.")
    ] = None,
    replay: Annotated[
        str | None, typer.Option("--replay", metavar="FILE", help="Apply the requests of this journal again.")
    ] = None,
    journal_limit: Annotated[
        str | None,
        typer.Option(
            "--journal-limit", metavar="SIZE", help="What the journal takes at most, as 64MiB, or 'off' for no limit."
        ),
    ] = None,
    stop_deadline: Annotated[
        str | None,
        typer.Option(
            "--stop-deadline",
            metavar="DURATION",
            help="The time between the batch system's signal and its kill, as 30s: status shows what is left.",
        ),
    ] = None,
    on_error: Annotated[
        OnError | None,
        typer.Option(
            "--on-error",
            help="Whether an exception of the script pauses it, with its memory kept, or ends it. Default: park after "
            "a reload, or with --watch, else exit.",
            show_default=False,
        ),
    ] = None,
    error_timeout: Annotated[
        str | None,
        typer.Option(
            "--error-timeout", metavar="DURATION", help="Stop a script that an error has paused after this time."
        ),
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Serve the web page, too, and print its address.")] = False,
) -> None:
    """Run a script or a module under control.

    The first Ctrl-C or SIGTERM asks it to stop at its next checkpoint, the second interrupts it at once.
    """
    from spark_fast.cli.misplaced import say_misplaced
    from spark_fast.cli.supervisor import order, supervise

    what = order(
        target,
        arguments or [],
        module=module,
        watch=watch,
        name=name,
        reload_dirs=reload_dir or [],
        journal=journal,
        replay=replay,
        page=ui,
        journal_limit=journal_limit,
        stop_deadline=seconds(stop_deadline, "--stop-deadline", positive=True),
        on_error=None if on_error is None else on_error.value,
        error_timeout=seconds(error_timeout, "--error-timeout", positive=True),
    )
    say_misplaced(what)
    raise typer.Exit(supervise(what))


def demo(
    hold: Annotated[
        bool, typer.Option("--hold", help="Only start the training: you steer it, from another terminal.")
    ] = False,
    ui: Annotated[bool, typer.Option("--ui", help="With --hold: steer it in a browser, too.")] = False,
) -> None:
    """Train a small network, and pause, advance, resume and stop it from a second process."""
    from spark_fast.cli import demo as story

    if ui and not hold:
        raise typer.BadParameter("it is for --hold", param_hint="--ui")
    raise typer.Exit(int(story.hold(page=ui) if hold else story.tell()))
