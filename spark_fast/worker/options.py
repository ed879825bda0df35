"""Options of the worker, from `configure()` and from the environment."""

import math
import os
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from spark_fast import names
from spark_fast._core import worker
from spark_fast.worker import report

__all__ = ["Options", "configure", "current"]


@dataclass(frozen=True)
class Options:
    """What configure() sets; see there."""

    yield_interval: float | None = 0.0
    async_yield_interval: float = 0.01
    run: str | None = None
    journal: str | None = None
    enabled: bool = True
    quiet: bool = False


class _Unset(Enum):
    UNSET = 0


_UNSET: Final = _Unset.UNSET


def _interval(value: float, name: str) -> float:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} is a number of seconds, 0 or more: {value!r}")
    return float(value)


def _from_environment() -> Options:
    """Never raises: a typing error in a job's environment must not end the job."""
    found = Options(
        enabled=os.environ.get("SPARK_FAST", "1").lower() not in names.OFF,
        quiet=os.environ.get("SPARK_FAST_QUIET", "").lower() not in ("", *names.OFF),
    )
    run = os.environ.get("SPARK_FAST_RUN")
    if run and not names.valid(run):
        report.warn(f"SPARK_FAST_RUN={run!r} can't be a name; the run gets another. {names.RULE}")
    elif run:
        found = replace(found, run=run)
    found = replace(found, journal=os.environ.get("SPARK_FAST_JOURNAL") or None)
    for option in ("yield_interval", "async_yield_interval"):
        variable = f"SPARK_FAST_{option.upper()}"
        text = os.environ.get(variable)
        if not text:
            continue
        if option == "yield_interval" and text.lower() == "never":
            found = replace(found, yield_interval=None)
            continue
        try:
            value = _interval(float(text), variable)
        except ValueError:
            report.warn(f"{variable}={text!r} is not a number of seconds; it is ignored")
        else:
            found = (
                replace(found, yield_interval=value)
                if option == "yield_interval"
                else replace(found, async_yield_interval=value)
            )
    return found


_current: Options | None = None


def current() -> Options:
    """The options in force: those of the environment until configure() changes them."""
    global _current
    if _current is None:
        _current = _from_environment()
        worker.set_yield_interval(_current.yield_interval)
    return _current


def configure(
    *,
    yield_interval: float | None | _Unset = _UNSET,
    async_yield_interval: float | _Unset = _UNSET,
    run: str | None | _Unset = _UNSET,
    journal: str | None | _Unset = _UNSET,
    enabled: bool | _Unset = _UNSET,
    quiet: bool | _Unset = _UNSET,
) -> None:
    """Sets options of this process's worker; what is not named stays as it is.

    Args:
        yield_interval: seconds between two yields of the GIL by `checkpoint()`, at the least. 0, the default: every
            call yields, so that the process's other threads run at every batch. None: never; the interpreter still
            switches threads by itself, every 5 ms. Worth setting where a step takes microseconds and a second thread
            is busy. Also `SPARK_FAST_YIELD_INTERVAL`, a number or `never`.
        async_yield_interval: seconds between two trips of `checkpoint_async()` through the event loop, at the least;
            0 for every call. Default 0.01. Also `SPARK_FAST_ASYNC_YIELD_INTERVAL`.
        run: the run id; None for one that is drawn. Also `SPARK_FAST_RUN`. Before the first checkpoint only.
        journal: the file to which the journal is written; None for one in the user's state folder; "off" for none. Also
            `SPARK_FAST_JOURNAL`. Before the first checkpoint only.
        enabled: False turns everything off. Also `SPARK_FAST=0`. Before the first checkpoint only.
        quiet: True keeps back the line that says how to control the run. Also `SPARK_FAST_QUIET=1`.

    Raises:
        ValueError: a value makes no sense.
        RuntimeError: `run`, `journal` or `enabled` comes too late, the run has begun.

    Any thread may call it.
    """
    global _current
    from spark_fast.worker import session

    options = current()
    if run is not _UNSET or enabled is not _UNSET or journal is not _UNSET:
        if session.begun():
            raise RuntimeError(
                "the run has begun: call configure(run=…, journal=…, enabled=…) before the first checkpoint()"
            )
        if run is not _UNSET and run is not None and not names.valid(run):
            raise ValueError(f"{run!r} can't be a run's name. {names.RULE}")
    if yield_interval is not _UNSET:
        checked = None if yield_interval is None else _interval(yield_interval, "yield_interval")
        options = replace(options, yield_interval=checked)
    if async_yield_interval is not _UNSET:
        options = replace(options, async_yield_interval=_interval(async_yield_interval, "async_yield_interval"))
    if run is not _UNSET:
        options = replace(options, run=run)
    if journal is not _UNSET:
        options = replace(options, journal=journal)
    if enabled is not _UNSET:
        options = replace(options, enabled=bool(enabled))
    if quiet is not _UNSET:
        options = replace(options, quiet=bool(quiet))
    worker.set_yield_interval(options.yield_interval)
    worker.set_async_yield_interval(options.async_yield_interval)
    _current = options
