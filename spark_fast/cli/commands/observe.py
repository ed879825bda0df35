"""Commands that show runs and change nothing: `ps`, `status`, `top`, `ui` and `journal`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spark_fast.cli import exits
from spark_fast.cli.commands.parameters import AsJson, RunId, complete_run
from spark_fast.runfiles.json_text import to_json

if TYPE_CHECKING:
    from spark_fast.client import Run

__all__ = ["journal", "ps", "status", "top", "ui"]

_DAY = 86400.0


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
    # A lost run has no time of its end: the time of its start stands in for it.
    return run.status.live or (run.ended or run.started) > since


def status(
    run: RunId = None,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="A line for each rank, also where many are alike.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one run in full: its progress, its ranks, its last requests and their outcomes."""
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


def top() -> None:
    """Watch the live runs; q or Ctrl-C leaves."""
    from spark_fast.cli import live

    live.top()


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


def journal(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|FILE", help="A run, live, ended or removed; or a file.", autocompletion=complete_run
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was applied to a run: at which step, when, by whom."""
    from spark_fast.cli import journals

    journals.show(run, as_json=as_json)
