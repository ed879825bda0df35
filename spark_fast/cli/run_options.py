"""The options of `spark-fast run` in one table. Its two parsers, its help and what the worker gets are made from it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from spark_fast.durations import DURATIONS, parse_duration
from spark_fast.runfiles import names

__all__ = ["OPTIONS", "Order", "RunOption"]


@dataclass(frozen=True)
class RunOption:
    """One option.

    Attributes:
        flag: how it is typed.
        help: its line of the help.
        metavar: what its value is, for people; empty for an option that takes none.
        parse: makes the value of the text; ValueError, with the message for the user, if it makes no sense.
        repeated: whether it may be given several times; its value is then the tuple of all.
        for_worker: whether the worker gets it, by the name of its field.
    """

    flag: str
    help: str
    metavar: str
    parse: Callable[[str], Any]
    repeated: bool
    for_worker: bool


def _option(
    flag: str,
    help: str,  # noqa: A002 # the parsers' word for it
    metavar: str = "",
    parse: Callable[[str], Any] = str,
    *,
    repeated: bool = False,
    for_worker: bool = True,
) -> Any:
    option = RunOption(flag, help, metavar, parse, repeated, for_worker)
    default = () if repeated else None if metavar else False
    return field(default=default, metadata={"option": option})


def _journal(text: str) -> str:
    return text if text.lower() in names.OFF else os.path.abspath(text)


def _positive_duration(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise ValueError(f"more than 0 is needed: {DURATIONS}")
    return seconds


def _park_or_exit(text: str) -> str:
    if text not in ("park", "exit"):
        raise ValueError(f"{text!r} is not one of 'park', 'exit'.")
    return text


@dataclass(frozen=True)
class Order:
    """What `spark-fast run` is to run: the script or the module, its arguments, and the options.

    Its paths are those of the working directory in which the command line was read. In a job of several ranks the
    supervisor of rank 0 alone watches files and serves the page. `name` is None for SPARK_FAST_RUN, or a name that is
    drawn; what the other options mean, RunnerOptions and configure() say.
    """

    target: str
    arguments: list[str]
    name: str | None = _option("--name", "The run's name. Default: $SPARK_FAST_RUN, or a random one.", "NAME")
    module: bool = _option("-m", "Run a module, as 'python -m' does.", for_worker=False)
    watch: bool = _option("--watch", "Reload a file of the script's code whenever it is saved.", for_worker=False)
    reload_dirs: tuple[str, ...] = _option(
        "--reload-dir", "Code in it counts as the project's, too. Repeatable.", "DIR", os.path.abspath, repeated=True
    )
    journal: str | None = _option("--journal", "Where to write what was applied at which step.", "PATH", _journal)
    replay: str | None = _option("--replay", "Apply the requests of this journal again.", "FILE", os.path.abspath)
    journal_limit: str | None = _option(
        "--journal-limit", "What the journal takes at most, as 64MiB, or 'off' for no limit.", "SIZE"
    )
    stop_deadline: float | None = _option(
        "--stop-deadline",
        "The time between the batch system's signal and its kill, as 30s: status shows what is left.",
        "DURATION",
        _positive_duration,
    )
    on_error: str | None = _option(
        "--on-error",
        "Whether an exception of the script pauses it, with its memory kept, or ends it. Default: park after a reload, "
        "or with --watch, else exit.",
        "park|exit",
        _park_or_exit,
    )
    error_timeout: float | None = _option(
        "--error-timeout", "Stop a script that an error has paused after this time.", "DURATION", _positive_duration
    )
    page: bool = _option("--ui", "Serve the web page, too, and print its address.", for_worker=False)

    def for_worker(self) -> dict[str, Any]:
        """Return the options that the worker gets, by their names there."""
        return {name: getattr(self, name) for name, option in OPTIONS.items() if option.for_worker}


OPTIONS: Mapping[str, RunOption] = {
    each.name: each.metadata["option"] for each in fields(Order) if "option" in each.metadata
}
"""The options by their fields in Order, in the order of the help."""
