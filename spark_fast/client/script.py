"""Starting a script under `spark-fast run`, in a process that outlives this one."""

import subprocess
from collections.abc import Sequence

from spark_fast.client.deadline import Deadline, wait_until
from spark_fast.client.discovery import attach, runs
from spark_fast.client.run import Run
from spark_fast.errors import SparkError, SparkTimeoutError
from spark_fast.own_process import own_command
from spark_fast.runfiles import names

__all__ = ["start"]

_INTERVAL = 0.02
"""Seconds between two checks whether a script that was started runs."""


class _LivesOn(subprocess.Popen[bytes]):
    """A process that may outlive this one. It gives no warning when it does."""

    def __del__(self) -> None:
        pass


_started: list[_LivesOn] = []
"""The processes that use() has started and that may still live. Polling them leaves no zombie when they end."""


def start(
    script: str, arguments: Sequence[str], name: str | None, options: Sequence[str], timeout: float | None
) -> Run:
    """Start a script under `spark-fast run`, and return its run once it exposes something or passes a checkpoint.

    Raises as `use()` does.
    """
    if name is None:
        name = names.draw([run.id for run in runs()])
    elif name in [run.id for run in runs(ended=False)]:
        raise SparkError(f"a living run is called {name!r}")
    command = own_command("run", "--name", name, *options, script, *arguments)
    # A session of its own: Ctrl-C at this process is not meant for the training.
    process = _LivesOn(command, stdin=subprocess.DEVNULL, start_new_session=True)
    _started[:] = [each for each in _started if each.poll() is None] + [process]
    found: Run | None = None

    def runs_now() -> bool:
        nonlocal found
        ended = process.poll()
        found = _found(name)
        if found is not None and (found.step > 0 or found.functions or found.values or ended is not None):
            return True
        if ended is not None:
            raise SparkError(f"{script} ended with status {ended} before it had begun to run")
        return False

    if not wait_until(runs_now, Deadline(timeout), interval=_INTERVAL):
        raise SparkTimeoutError(f"{script} has passed no checkpoint in {timeout or 0:g} s; it goes on")
    assert found is not None
    return found


def _found(name: str) -> Run | None:
    try:
        return attach(name, exact=True)
    except (SparkError, OSError):  # it is being made
        return None
