"""Commands that steer a run: `pause`, `resume`, `advance`, `stop` and `reset`."""

from typing import TYPE_CHECKING, Annotated

import typer

from spark_fast.cli.commands.parameters import AsJson, RunId, Timeout, Wait, seconds
from spark_fast.cli.commands.sending import send

if TYPE_CHECKING:
    from spark_fast.cli.requests import Patience
    from spark_fast.client import Request, Run

__all__ = ["advance", "pause", "reset", "resume", "stop"]


def pause(
    run: RunId = None,
    at_step: Annotated[
        int | None,
        typer.Option(
            "--at-step",
            metavar="N",
            min=1,
            max=(1 << 63) - 1,
            help="At step N, instead of the next, unless N has passed.",
        ),
    ] = None,
    resume_after: Annotated[
        str | None,
        typer.Option("--resume-after", metavar="DURATION", help="Go on by itself after this: 90s, 10m, 1h30m."),
    ] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Park a run at its next checkpoint: it keeps all that it has in memory, and uses no CPU."""
    after = seconds(resume_after, "--resume-after", positive=True)
    send(
        run,
        lambda found, patience: found.pause(wait=False, timeout=patience.left(), at_step=at_step, resume_after=after),
        wait=wait,
        timeout=timeout,
        as_json=as_json,
    )


def resume(run: RunId = None, wait: Wait = True, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Let a paused run go on, and call off a pause that is set for later."""
    send(
        run,
        lambda found, patience: found.resume(wait=False, timeout=patience.left()),
        wait=wait,
        timeout=timeout,
        as_json=as_json,
    )


def stop(
    run: RunId = None,
    grace: Annotated[
        str | None,
        typer.Option(
            "--grace",
            metavar="DURATION",
            help="Kill processes that live after this: SIGTERM, and 2s later SIGKILL. On this host only.",
        ),
    ] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Stop a run: its next checkpoint raises SparkStopError, it saves what it wants to, and its process ends.

    Waits for the end of the process.
    """
    within = seconds(grace, "--grace")

    def make(found: "Run", patience: "Patience") -> "Request":
        if within is None:
            return found.stop(wait=False, timeout=patience.left())
        from spark_fast.client import ending

        return ending.ask_stop(found._connection, within, stays=wait, timeout=patience.left())

    send(run, make, wait=wait, timeout=timeout, as_json=as_json, grace=within)


def advance(
    run: RunId = None,
    steps: Annotated[str | None, typer.Argument(metavar="N", help="The number of steps, 1 or more.")] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Let a run do N more steps, and park it again."""
    if steps is None:
        run, steps = None, run  # a lone word is the number
    if steps is None:
        raise typer.BadParameter("say how many steps", param_hint="N")
    number = int(steps) if steps.isdecimal() else 0
    if not 1 <= number < 1 << 63:
        raise typer.BadParameter(f"{steps!r} is no number of steps: 1 or more", param_hint="N")
    send(
        run,
        lambda found, patience: found.advance(number, wait=False, timeout=patience.left()),
        wait=wait,
        timeout=timeout,
        as_json=as_json,
    )


def reset(
    run: RunId = None,
    grace: Annotated[
        str, typer.Option("--grace", metavar="DURATION", help="Kill a process that has not ended after this time.")
    ] = "30s",
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Replace a run's process by a fresh one, with nothing kept: the same command and the same name.

    It is asked to stop first. Waits for the first checkpoint of the new one.
    """
    from spark_fast.cli import resetting

    within = seconds(grace, "--grace")
    assert within is not None
    resetting.reset(run, grace=within, timeout=seconds(timeout, "--timeout"), as_json=as_json)
