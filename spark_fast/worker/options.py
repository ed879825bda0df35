"""Options of the worker, from `configure()` and from the environment."""

import operator
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, Literal

from spark_fast import stderr
from spark_fast._core import worker
from spark_fast.durations import Duration, parse_duration, seconds_of
from spark_fast.runfiles import names
from spark_fast.sizes import parse_size

__all__ = ["Options", "configure", "current", "freeze", "thaw"]


@dataclass(frozen=True)
class Options:
    """The options of this process's worker: see configure()."""

    yield_interval: float | None = 0.0
    async_yield_interval: float = 0.01
    run: str | None = None
    journal: str | None = None
    journal_limit: int | None = 64 << 20
    enabled: bool = True
    quiet: bool = False
    ranks: bool = True
    rank: int | None = None
    world_size: int | None = None
    local_rank: int | None = None
    local_world_size: int | None = None
    job: str | None = None
    stop_signals: tuple[str, ...] = ()
    stop_deadline: float | None = None
    stride: int = 1
    on_error: str | None = None
    error_timeout: float | None = None


class _Unset(Enum):
    UNSET = 0


_UNSET: Final = _Unset.UNSET

Check = Callable[[Any, str], Any]
"""Takes a value and the option's name; returns the value to keep. Raises ValueError if the value does not fit."""


def _or_none(check: Check) -> Check:
    return lambda value, name: None if value is None else check(value, name)


_LONGEST = 1e9
"""Seconds: thirty years."""


def _interval(value: Duration, name: str) -> float:
    value = seconds_of(value, name)
    if not 0 <= value <= _LONGEST:
        raise ValueError(f"{name} is a number of seconds, from 0 to {_LONGEST:.0e}: {value!r}")
    return float(value)


def _deadline(value: Duration, name: str) -> float:
    value = seconds_of(value, name)
    if not 0 < value <= _LONGEST:
        raise ValueError(f"{name} is a number of seconds, more than 0 and at most {_LONGEST:.0e}: {value!r}")
    return float(value)


def _run(value: str, name: str) -> str:
    if not names.valid(value):
        raise ValueError(f"{value!r} can't be a run's name. {names.RULE}")
    return value


def _rank(value: int, name: str, least: int = 0) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < least:
        raise ValueError(f"{name} is a whole number, {least} or more: {value!r}")
    return number


def _size(value: int, name: str) -> int:
    return _rank(value, name, least=1)


def _job(value: str, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is a text that no other job has: {value!r}")
    return value


def _signals(value: Iterable[str], name: str) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value)
    for each in found:
        number = signal.Signals.__members__.get(each)
        if number is None:
            raise ValueError(f"{name}: {each!r} is not the name of a signal, as SIGTERM is")
        if number in (signal.SIGKILL, signal.SIGSTOP):
            raise ValueError(f"{name}: no process can catch {each}")
    return found


def _on_error(value: str, name: str) -> str:
    if value not in ("park", "exit"):
        raise ValueError(f"{name} is 'park' or 'exit': {value!r}")
    return value


def _journal(value: str | os.PathLike[str] | None, name: str) -> str | None:
    """Make a path absolute: it is relative to the present working directory."""
    path = None if value is None else os.fspath(value)
    return path if not path or path.lower() in names.OFF else os.path.abspath(path)


_LEAST_LIMIT = 64 << 10


def _limit(value: int | str | None, name: str) -> int | None:
    """Return the bytes; None, for "off" too, means no limit."""
    if value is None or (isinstance(value, str) and value.strip().lower() in names.OFF):
        return None
    size = parse_size(value) if isinstance(value, str) else _rank(value, name)
    if size < _LEAST_LIMIT:
        raise ValueError(f"{name} is a size of 64KiB or more: {value!r}")
    return size


_EARLY: dict[str, Check] = {
    "run": _or_none(_run),
    "journal": _journal,
    "journal_limit": _limit,
    "enabled": lambda value, name: bool(value),
    "ranks": lambda value, name: bool(value),
    "rank": _or_none(_rank),
    "world_size": _or_none(_size),
    "local_rank": _or_none(_rank),
    "local_world_size": _or_none(_size),
    "job": _or_none(_job),
    "stop_signals": _signals,
    "stop_deadline": _or_none(_deadline),
    "stride": _size,
}
"""The options that can't change after the first checkpoint."""

_CHECKS = _EARLY | {
    "yield_interval": _or_none(_interval),
    "async_yield_interval": _interval,
    "quiet": lambda value, name: bool(value),
    "on_error": _or_none(_on_error),
    "error_timeout": _or_none(_deadline),
}


def _seconds(text: str) -> float:
    """Read a number of seconds, or one with units."""
    try:
        return float(text)
    except ValueError:
        return parse_duration(text)


_PARSED: dict[str, Callable[[str], object]] = {
    "yield_interval": lambda text: None if text.lower() == "never" else _seconds(text),
    "async_yield_interval": _seconds,
    "journal_limit": str,
    "rank": int,
    "world_size": int,
    "local_rank": int,
    "local_world_size": int,
    "job": str,
    "stop_signals": lambda text: [name.strip().upper() for name in text.split(",")],
    "stop_deadline": parse_duration,
    "stride": int,
    "on_error": str.lower,
    "error_timeout": parse_duration,
}
"""Options that an environment variable of their name may set, each with the function that reads its text."""


def _from_environment() -> Options:
    """Read the options from the environment. This never raises: a typing error there must not end the job."""
    found = Options(
        enabled=os.environ.get("SPARK_FAST", "1").lower() not in names.OFF,
        quiet=os.environ.get("SPARK_FAST_QUIET", "").lower() not in ("", *names.OFF),
        ranks=os.environ.get("SPARK_FAST_RANKS", "1").lower() not in names.OFF,
        journal=_journal(os.environ.get("SPARK_FAST_JOURNAL") or None, "SPARK_FAST_JOURNAL"),
    )
    run = os.environ.get("SPARK_FAST_RUN")
    if run and not names.valid(run):
        stderr.warn(f"SPARK_FAST_RUN={run!r} can't be a name; the run gets another. {names.RULE}")
    elif run:
        found = replace(found, run=run)
    for option, parse in _PARSED.items():
        variable = f"SPARK_FAST_{option.upper()}"
        text = os.environ.get(variable)
        if text:
            try:
                found = replace(found, **{option: _CHECKS[option](parse(text), variable)})
            except ValueError as error:
                stderr.warn(f"{variable}={text!r} is ignored: {error}")
    return found


_current: Options | None = None
_frozen = False
"""Whether the run has begun, after which the options of _EARLY can't change."""


def freeze() -> None:
    """Refuse, from now on, changes of the options that can't change during a run."""
    global _frozen
    _frozen = True


def thaw() -> None:
    """Allow such changes again, since this process was forked from a worker and begins a run of its own."""
    global _frozen
    _frozen = False


def current() -> Options:
    """Return the options in force: those of the environment until configure() changes them."""
    global _current
    if _current is None:
        _current = _from_environment()
        worker.set_yield_interval(_current.yield_interval)
        worker.set_async_yield_interval(_current.async_yield_interval)
    return _current


def configure(
    *,
    yield_interval: Duration | None | _Unset = _UNSET,
    async_yield_interval: Duration | _Unset = _UNSET,
    run: str | None | _Unset = _UNSET,
    journal: str | None | _Unset = _UNSET,
    journal_limit: int | str | None | _Unset = _UNSET,
    enabled: bool | _Unset = _UNSET,
    quiet: bool | _Unset = _UNSET,
    ranks: bool | _Unset = _UNSET,
    rank: int | None | _Unset = _UNSET,
    world_size: int | None | _Unset = _UNSET,
    local_rank: int | None | _Unset = _UNSET,
    local_world_size: int | None | _Unset = _UNSET,
    job: str | None | _Unset = _UNSET,
    stop_signals: Iterable[str] | _Unset = _UNSET,
    stop_deadline: Duration | None | _Unset = _UNSET,
    stride: int | _Unset = _UNSET,
    on_error: Literal["park", "exit"] | None | _Unset = _UNSET,
    error_timeout: Duration | None | _Unset = _UNSET,
) -> None:
    """Set options of this process's worker. Options that are not given stay as they are.

    Args:
        yield_interval: the least time between two yields of the GIL by `checkpoint()`, in seconds or as text such as
            "1ms". 0, the default: every call yields, so that the process's other threads run at every batch. None: no
            call yields; the interpreter still switches threads by itself, every 5 ms. Set it if a step takes
            microseconds and a second thread is busy. Also `SPARK_FAST_YIELD_INTERVAL`, as `0.001`, `1ms` or `never`.
        async_yield_interval: the least time between two yields of `checkpoint_async()` to the event loop, in seconds or
            as text; 0: every call yields. Default 0.01. Also `SPARK_FAST_ASYNC_YIELD_INTERVAL`.
        run: the run id; None for a random one. Also `SPARK_FAST_RUN`.
        journal: the journal's file; None for one in the user's state folder; "off" for no journal. Also
            `SPARK_FAST_JOURNAL`.
        journal_limit: the most space for the journal, in bytes or as text such as "64MiB"; beyond it, the journal's
            oldest part is dropped. None or "off" for no limit. Default 64 MiB. Also `SPARK_FAST_JOURNAL_LIMIT`.
        enabled: False turns everything off. Also `SPARK_FAST=0`.
        quiet: True omits the line that says how to control the run. Also `SPARK_FAST_QUIET=1`.
        ranks: False makes this process a run of its own, whatever its launcher says. Also `SPARK_FAST_RANKS=off`.
        rank, world_size: this process's rank in its job, and the number of ranks, if torchrun, srun, mpirun or
            PyTorch's variables `RANK` and `WORLD_SIZE` don't set them. All ranks of a job on one host share one run.
            Also `SPARK_FAST_RANK` and `SPARK_FAST_WORLD_SIZE`.
        local_rank, local_world_size: the same among the processes of this host. If you and the launcher give neither,
            they equal `rank` and `world_size`. Also `SPARK_FAST_LOCAL_RANK` and `SPARK_FAST_LOCAL_WORLD_SIZE`.
        job: a text that is the same in all ranks of the job on this host, and different in any other job there. None:
            the launcher's name for the job, or else the process that started all ranks. Also `SPARK_FAST_JOB`.
        stop_signals: names of signals that ask the run, with all its ranks, to stop, as `("SIGTERM", "SIGUSR1")`. By
            default none. Also `SPARK_FAST_STOP_SIGNALS=SIGTERM,SIGUSR1`.
        stop_deadline: the time that the run has after such a signal before the signal's sender kills it, in seconds or
            as text such as "90s"; None if unknown. Also `SPARK_FAST_STOP_DEADLINE`, as `90`, `90s` or `5m`.
        stride: how many steps each checkpoint counts, 1 by default. With 10, a loop that passes a checkpoint every ten
            batches still counts batches. It must be the same in all ranks. Also `SPARK_FAST_STRIDE`.
        on_error: what happens when an exception would end the script, under `spark-fast run` or `spark.run()`. "park":
            the worker is paused with everything in memory, until it gets new code, is resumed or stopped. "exit": the
            exception ends the process. None, the default: "park" once a reload was applied or with `--watch`, else
            "exit". Also `SPARK_FAST_ON_ERROR`.
        error_timeout: the time after which a worker that is paused after an error is stopped, in seconds or as text
            such as "10m". None: no limit, but five minutes in a job of several ranks, since the others may be waiting
            in a collective. Also `SPARK_FAST_ERROR_TIMEOUT`, with units.

    Raises:
        ValueError: a value is invalid.
        RuntimeError: the run has begun, so it is too late. Only `yield_interval`, `async_yield_interval`, `quiet`,
            `on_error` and `error_timeout` may change after the first checkpoint.

    Any thread may call it.
    """
    global _current
    given = {name: value for name, value in locals().items() if value is not _UNSET}
    before = current()
    options = replace(before, **{name: _CHECKS[name](value, name) for name, value in given.items()})
    if _frozen:
        # A script that a reload executes again may set the same options again.
        late = [name for name in given if name in _EARLY and getattr(options, name) != getattr(before, name)]
        if late:
            raise RuntimeError(f"the run has begun: call configure({late[0]}=…) before the first checkpoint()")
    for one, of in (("rank", "world_size"), ("local_rank", "local_world_size")):
        number, size = getattr(options, one), getattr(options, of)
        if (one in given or of in given) and number is not None and size is not None and number >= size:
            raise ValueError(f"{one} is less than {of}: {number} of {size}")
    worker.set_yield_interval(options.yield_interval)
    worker.set_async_yield_interval(options.async_yield_interval)
    _current = options
