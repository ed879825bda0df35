"""The commands and their options. What they do stands in the modules beside this one."""

import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spark_fast.cli import exits
from spark_fast.durations import DURATIONS, parse_duration
from spark_fast.errors import SparkError
from spark_fast.runfiles.json_text import to_json

if TYPE_CHECKING:
    from spark_fast.cli.requests import Patience
    from spark_fast.client import Request, Run

__all__ = ["app", "main"]

_EXITS = (
    "Exit status: 0 done · 1 refused, failed or superseded · 2 wrong usage · 3 no such run, or several · 4 timed out · "
    "5 worker lost · 130 Ctrl-C. 'run' exits as the script does."
)

_DAY = 86400.0

app = typer.Typer(
    help="Pause, resume, stop and watch running Python loops. RUN may be left out when one run is live.",
    epilog=_EXITS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Runs the command line of this process, and exits with its status."""
    with exits.told():
        app(prog_name="spark-fast")


def _complete_run(incomplete: str) -> list[str]:
    try:
        from spark_fast import client

        return [run.id for run in client.runs(ended=False) if run.id.startswith(incomplete)]
    except (SparkError, OSError):  # nothing to offer; a message would land in the middle of what is being typed
        return []


RunId = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="The run's name, or its beginning; not needed when one run is live.",
        autocompletion=_complete_run,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the run has done it, or only ask for it.")]
Timeout = Annotated[
    str | None,
    typer.Option("--timeout", metavar="DURATION", help="Wait no longer than this: 90, 90s, 10m, 1h30m, 500ms."),
]


def _seconds(text: str | None, option: str, *, positive: bool = False) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    if positive and not seconds:
        raise typer.BadParameter(f"more than 0 is needed: {DURATIONS}", param_hint=option)
    return seconds


def _version(wanted: bool) -> None:
    if wanted:
        from spark_fast import __version__

        print(f"spark-fast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# --- start ---


class OnError(StrEnum):
    """What --on-error takes."""

    PARK = "park"
    EXIT = "exit"


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS] [-m]",
)
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
        stop_deadline=_seconds(stop_deadline, "--stop-deadline", positive=True),
        on_error=None if on_error is None else on_error.value,
        error_timeout=_seconds(error_timeout, "--error-timeout", positive=True),
    )
    say_misplaced(what)
    raise typer.Exit(supervise(what))


# --- look ---


@app.command()
def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that ended over a day ago.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs: those that are live, and those that ended within a day."""
    from spark_fast import client
    from spark_fast.runfiles.homes import refused_places

    found = client.runs()
    for refused in refused_places():
        exits.say(str(refused))
    shown = found if everything else [run for run in found if _recent(run)]
    if as_json:
        print(to_json([run.as_dict() for run in shown], indent=2))
        return
    if not shown:
        hidden = f"; 'spark-fast ps --all' lists {len(found)} that ended over a day ago" if found else ""
        print(f"no runs: start one with 'spark-fast run script.py', or call spark.checkpoint() in its loop{hidden}")
        return
    from spark_fast.cli import render

    console = render.console()
    console.print(render.run_table(shown, console.width))


def _recent(run: "Run") -> bool:
    since = time.time() - _DAY
    # One that was lost said nothing of its end: its beginning has to do.
    return run.status.live or (run.ended or run.started) > since


@app.command()
def status(
    run: RunId = None,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="A line for each rank, also where many are alike.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one run in full: its progress, its ranks, its last requests and what became of them."""
    from spark_fast import client

    found = client.attach(run)
    if as_json:
        from spark_fast.cli.requests import request_dict

        requests = [request_dict(found, request) for request in found.requests]
        print(to_json(found.as_dict() | {"requests": requests}, indent=2))
        return
    from spark_fast.cli import render

    console = render.console()
    console.print(render.details(found, console.width, each=everything))


@app.command()
def top() -> None:
    """Watch the live runs; q or Ctrl-C leaves."""
    from spark_fast.cli import live

    live.top()


@app.command()
def ui(
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65535,
            help="The port; 0 for any that is free. Default: 8265, or the next free.",
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen for other machines without TLS: others may read the token.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="The certificate, for TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key.")] = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
    keep_token: Annotated[
        bool, typer.Option("--keep-token", help="Keep the token in a file of yours, so that bookmarks stay valid.")
    ] = False,
    beside: Annotated[bool, typer.Option("--beside", hidden=True)] = False,
) -> None:
    """Serve a web page that shows the runs and steers them, for you alone. Prints its address.

    Needs FastAPI, uvicorn and Plotly; where they are missing, it prints the command that installs them.
    """
    from spark_fast.cli import web

    web.ui(
        host,
        port,
        insecure=insecure,
        certificate=tls_cert,
        key=tls_key,
        browser=browser,
        keep_token=keep_token,
        beside=beside,
    )


# --- ask ---


def _ask(
    run: str | None,
    make: "Callable[[Run, Patience], Request]",
    wait: bool,
    timeout: float | None,
    as_json: bool,
    grace: float | None = None,
) -> None:
    from spark_fast import client
    from spark_fast.cli.requests import Patience, ask
    from spark_fast.status import monotonic

    patience = Patience(wait, timeout, monotonic())
    found = client.attach(run)
    ask(found, lambda: make(found, patience), patience, as_json=as_json, grace=grace)


@app.command()
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
    after = _seconds(resume_after, "--resume-after", positive=True)
    _ask(
        run,
        lambda found, patience: found.pause(wait=False, timeout=patience.left(), at_step=at_step, resume_after=after),
        wait,
        _seconds(timeout, "--timeout"),
        as_json,
    )


@app.command()
def resume(run: RunId = None, wait: Wait = True, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Let a paused run go on, and call off a pause that is set for later."""
    _ask(
        run,
        lambda found, patience: found.resume(wait=False, timeout=patience.left()),
        wait,
        _seconds(timeout, "--timeout"),
        as_json,
    )


@app.command()
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
    seconds = _seconds(grace, "--grace")

    def make(found: "Run", patience: "Patience") -> "Request":
        if seconds is None:
            return found.stop(wait=False, timeout=patience.left())
        from spark_fast.client import ending

        return ending.ask_stop(found._connection, seconds, stays=wait, timeout=patience.left())

    _ask(
        run,
        make,
        wait,
        _seconds(timeout, "--timeout"),
        as_json,
        grace=seconds,
    )


@app.command()
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
    _ask(
        run,
        lambda found, patience: found.advance(number, wait=False, timeout=patience.left()),
        wait,
        _seconds(timeout, "--timeout"),
        as_json,
    )


# --- what a run exposes ---


@app.command()
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


@app.command("set")
def set_values(
    run: RunId = None,
    pairs: Annotated[list[str] | None, typer.Argument(metavar="NAME=VALUE…", help="What to set.")] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Set exposed values at a run's next checkpoint; where it is paused, at once."""
    from spark_fast.cli import values
    from spark_fast.cli.requests import Patience
    from spark_fast.status import monotonic

    patience = Patience(wait, _seconds(timeout, "--timeout"), monotonic())
    values.set_values(run, pairs or [], patience, as_json=as_json)


@app.command()
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
    from spark_fast.cli.requests import Patience
    from spark_fast.status import monotonic

    patience = Patience(wait, _seconds(timeout, "--timeout"), monotonic())
    values.call(run, what or [], patience, ranks=_which(ranks), as_json=as_json)


def _which(ranks: str | None) -> int | Literal["all"] | None:
    if ranks is None:
        return None
    if ranks == "all":
        return "all"
    if ranks.isdecimal() and len(ranks) < 10:
        return int(ranks)
    raise typer.BadParameter(f"{ranks!r} is neither the number of a rank nor all", param_hint="--ranks")


@app.command()
def watch(
    run: RunId = None,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME…", help="Only these values.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print exposed values as they change, until the run ends; Ctrl-C leaves."""
    from spark_fast.cli import values

    values.watch(run, names or [], as_json=as_json)


# --- new code ---


@app.command()
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
    _ask(
        run,
        lambda found, patience: found.reload(source, to=to, restart=restart, wait=False, timeout=patience.left()),
        wait,
        _seconds(timeout, "--timeout"),
        as_json,
    )


@app.command()
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


@app.command()
def journal(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|FILE", help="A run, live, ended or removed; or a file.", autocompletion=_complete_run
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was applied to a run: at which step, when, by whom."""
    from spark_fast.cli import journals

    journals.show(run, as_json=as_json)


@app.command()
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

    seconds = _seconds(grace, "--grace")
    assert seconds is not None
    resetting.reset(run, grace=seconds, timeout=_seconds(timeout, "--timeout"), as_json=as_json)


# --- the rest ---


@app.command()
def secret() -> None:
    """Make the secret that the hosts of your jobs share, unless it is there, and print its file.

    With it, a job of several hosts obeys you alone. Run this once, where all hosts see the same home folder.
    """
    from spark_fast.cli import secrets

    secrets.make()


@app.command()
def gc(as_json: AsJson = False) -> None:
    """Remove what ended and dead runs left behind. Live runs are not touched."""
    from spark_fast import client

    removed = client.remove_ended()
    if as_json:
        print(to_json(removed, indent=2))
    elif removed:
        print(f"removed {len(removed)} ended run{'' if len(removed) == 1 else 's'}: {', '.join(removed)}")
    else:
        print("nothing to remove")


@app.command()
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
