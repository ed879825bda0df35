"""A run as an object: its exposed values are attributes, its functions methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spark_fast.client.discovery import attach, runs
from spark_fast.client.run import Run
from spark_fast.durations import Duration, seconds_of
from spark_fast.errors import NoSuchRunError

__all__ = ["RunProxy", "use"]


class RunProxy:
    """A run as an object, as use() returns it.

    Reading an attribute reads an exposed value, or returns a function that calls an exposed one. Assigning to it sets
    the value, and returns when the run has it. `proxy["learning rate"]` does the same for names that are no
    identifiers. `controller` is the `Run`.

    Raises AttributeError for a name that is not exposed, SparkSetError for a value that was refused or failed,
    SparkCallError for such a call.
    """

    controller: Run

    def __init__(self, run: Run) -> None:
        object.__setattr__(self, "controller", run)

    def __reduce__(self) -> tuple[object, ...]:
        return RunProxy, (self.controller,)

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
        return f"<RunProxy {self.controller!r}>"


def use(
    target: str,
    arguments: Sequence[str] = (),
    *,
    name: str | None = None,
    options: Sequence[str] = (),
    timeout: Duration | None = 60.0,
) -> RunProxy:
    """Return a run as an object: its exposed values are attributes, its exposed functions methods.

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
    ended before its first checkpoint, SparkTimeoutError when the time is up (the script goes on).
    """
    limit = seconds_of(timeout, "timeout")
    if not target.endswith(".py") and "/" not in target:
        run = attach(target)
        if not run.status.live:
            raise NoSuchRunError(target, [each.id for each in runs(ended=False)])
        return RunProxy(run)
    if not Path(target).exists():
        raise FileNotFoundError(target)
    from spark_fast.client.script import start  # it loads subprocess, which most controllers don't need

    return RunProxy(start(target, arguments, name, options, limit))
