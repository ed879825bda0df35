"""The command line: which commands there are, and the module of each. The commands themselves stand in commands/."""

import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer

from spark_fast import __version__
from spark_fast.cli import exits

__all__ = ["COMMANDS", "build", "main"]

_EXITS = (
    "Exit status: 0 done · 1 refused, failed or superseded · 2 wrong usage · 3 no such run, or several · 4 timed out · "
    "5 worker lost · 130 Ctrl-C. 'run' exits as the script does."
)

COMMANDS = {
    "run": "start.run",
    "ps": "observe.ps",
    "status": "observe.status",
    "top": "observe.top",
    "ui": "observe.ui",
    "pause": "control.pause",
    "resume": "control.resume",
    "stop": "control.stop",
    "advance": "control.advance",
    "get": "exposed.get",
    "set": "exposed.set_values",
    "call": "exposed.call",
    "watch": "exposed.watch",
    "reload": "code.reload",
    "versions": "code.versions",
    "journal": "observe.journal",
    "reset": "control.reset",
    "secret": "housekeeping.secret",
    "gc": "housekeeping.gc",
    "demo": "start.demo",
}
"""The commands, in the order in which `--help` lists them: a module in commands/, and its function."""

_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "run": {
        "context_settings": {"ignore_unknown_options": True, "allow_interspersed_args": False},
        "options_metavar": "[OPTIONS] [-m]",
    }
}


def main() -> None:
    """Run the command line of this process, and exit with its status."""
    with exits.reporting_errors():
        # A typer app of all commands takes ten times as long to build as one of the command that is called.
        called = sys.argv[1:2]
        build(called if called and called[0] in COMMANDS else COMMANDS)(prog_name="spark-fast")


def build(names: Iterable[str]) -> typer.Typer:
    """Return a typer app that has these commands."""
    app = typer.Typer(
        help="Pause, resume, stop and watch running Python loops. RUN may be left out when one run is live.",
        epilog=_EXITS,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in names:
        module, _, function = COMMANDS[name].partition(".")
        command = getattr(import_module(f"spark_fast.cli.commands.{module}"), function)
        app.command(name, **_SETTINGS.get(name, {}))(command)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"spark-fast {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
