"""A run as an object: its exposed values are attributes, its functions methods."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spark_fast.client.run import Run, attach, runs
from spark_fast.durations import Duration, seconds_of
from spark_fast.errors import NoSuchRunError, SparkError, SparkTimeoutError
from spark_fast.own_process import own_command
from spark_fast.runfiles import names
from spark_fast.status import monotonic

__all__ = ["Used", "use"]

_LOOK = 0.02
"""Seconds between looks whether a script that was started has come to something."""


class _LivesOn(subprocess.Popen[bytes]):
    """A process that is meant to outlive us: no warning that it does."""

    def __del__(self) -> None:
        pass


_started: list[_LivesOn] = []
"""What use() has started and may still live: kept, so that its end is noticed and no zombie stays."""


class Used:
    """What use() returns.

    Reading an attribute reads an exposed value, or gives a function that calls an exposed one; assigning sets a value,
    and returns when the run has it; `used["learning rate"]` does the same with names that are no identifiers.
    `controller` is the `Run`, with all that can be asked of one. Raises AttributeError
    for what is not exposed, SparkSetError for a value that was refused or failed, SparkCallError for a call that was.
    """

    controller: Run

    def __init__(self, run: Run) -> None:
        object.__setattr__(self, "controller", run)

    def __reduce__(self) -> tuple[object, ...]:
        return Used, (self.controller,)

    def __getattr__(self, name: str) -> Any:
        run = self.controller
        values = run.values
        if name in values:
            return values[name].value
        if name in run.functions:

            def call(*args: Any, **kwargs: Any) -> Any:
                return run.call(name, *args, **kwargs)

            call.__name__ = call.__qualname__ = name
            call.__doc__ = run.functions[name].doc
            return call
        raise AttributeError(f"run {run.id} exposes no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        run = self.controller
        if name not in run.values:
            raise AttributeError(f"run {run.id} exposes no value {name!r}")
        run.set(name, value)

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(str(error)) from None

    def __setitem__(self, name: str, value: Any) -> None:
        try:
            setattr(self, name, value)
        except AttributeError as error:
            raise KeyError(str(error)) from None

    def __dir__(self) -> list[str]:
        return sorted({*self.controller.values, *self.controller.functions, "controller"})

    def __repr__(self) -> str:
        return f"<Used {self.controller!r}>"


def use(
    target: str,
    arguments: Sequence[str] = (),
    *,
    name: str | None = None,
    options: Sequence[str] = (),
    timeout: Duration | None = 60.0,
) -> Used:
    """A run whose exposed values are attributes and whose exposed functions are methods.

        s = spark.use("train.py")
        s.lr = 0.1
        s.evaluate()
        s.controller.pause()

    Args:
        target: the id of a live run, or its beginning; or a script, a path that ends in `.py` or has a slash in it,
            which is started under `spark-fast run` and lives on when this process ends.
        arguments: of the script.
        name: the run id of the script; drawn if None.
        options: of `spark-fast run`, `--watch` say.
        timeout: seconds, or text such as "90s", to wait until the script exposes something or passes its first
            checkpoint; None for as long as it takes.

    Raises NoSuchRunError if no live run has this id, FileNotFoundError if there is no such script, SparkError if it
    ended before it came to anything, SparkTimeoutError when the time is up (the script goes on).
    """
    limit = seconds_of(timeout, "timeout")
    if not target.endswith(".py") and "/" not in target:
        run = attach(target)
        if not run.status.live:
            raise NoSuchRunError(target, [each.id for each in runs(ended=False)])
        return Used(run)
    if not Path(target).exists():
        raise FileNotFoundError(target)
    return _start(target, arguments, name, options, limit)


def _start(
    script: str, arguments: Sequence[str], name: str | None, options: Sequence[str], timeout: float | None
) -> Used:
    if name is None:
        name = names.draw([run.id for run in runs()])
    elif name in [run.id for run in runs(ended=False)]:
        raise SparkError(f"a living run is called {name!r}")
    command = own_command("run", "--name", name, *options, script, *arguments)
    # A session of its own: Ctrl-C at this process is not meant for the training.
    process = _LivesOn(command, stdin=subprocess.DEVNULL, start_new_session=True)
    _started[:] = [each for each in _started if each.poll() is None] + [process]
    end = None if timeout is None else monotonic() + timeout
    while True:
        ended = process.poll()
        found = _found(name)
        if found is not None and (found.step > 0 or found.functions or found.values or ended is not None):
            return Used(found)
        if ended is not None:
            raise SparkError(f"{script} ended with status {ended} before it had begun to run")
        if end is not None and monotonic() >= end:
            raise SparkTimeoutError(f"{script} has passed no checkpoint in {timeout or 0:g} s; it goes on")
        time.sleep(_LOOK)


def _found(name: str) -> Run | None:
    try:
        return attach(name, exact=True)
    except (SparkError, OSError):  # it is being made
        return None
