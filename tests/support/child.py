"""Real worker processes for the tests, and a wait for conditions that fails at its deadline."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from spark_fast import client

Value = TypeVar("Value")

DEADLINE = 30.0

LOOP = """
import time
import spark_fast as spark
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""

GATED = """
import time
import spark_fast as spark
from pathlib import Path
spark.checkpoint()
while not Path(__file__ + ".go").exists():
    time.sleep(0.001)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""
"""Passes one checkpoint, then waits in its first step until Child.go() is called."""


def until(look: Callable[[], Value], what: str = "", deadline: float = DEADLINE) -> Value:
    """Return the first true value of look(). Raises AssertionError when the deadline has passed."""
    end = time.monotonic() + deadline
    while True:
        value = look()
        if value:
            return value
        assert time.monotonic() < end, f"not in {deadline} s: {what or look}"
        time.sleep(0.005)


def kill(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and its descendants: a killed `spark-fast run` would leave its worker alive."""
    if process.poll() is None:
        process.send_signal(signal.SIGSTOP)  # so that it starts no more children
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


class Child:
    """A Python process that runs `code`, with its output in files, killed when the block ends."""

    def __init__(
        self,
        folder: Path,
        code: str = LOOP,
        *args: str,
        name: str | None = "test",
        cwd: Path | None = None,
        **env: str,
    ) -> None:
        folder.mkdir(exist_ok=True)
        number = len(list(folder.glob("child*.py")))
        self.script = folder / f"child{number}.py"
        self.script.write_text(textwrap.dedent(code))
        self.stdout_path = folder / f"child{number}.out"
        self.stderr_path = folder / f"child{number}.err"
        self._may_end = folder / f"child{number}.may-end"
        env = {"TEST_MAY_END": str(self._may_end), **env}
        if name is not None:
            env = {"SPARK_FAST_RUN": name, **env}
        self.command = [sys.executable, *([str(self.script)] if "-m" not in args else []), *args]
        with self.stdout_path.open("wb") as out, self.stderr_path.open("wb") as err:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=os.environ | env, cwd=cwd
            )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        kill(self.process)
        self.process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self.stdout_path.read_text()

    @property
    def err(self) -> str:
        return self.stderr_path.read_text()

    def run(self, name: str = "test") -> client.Run:
        """Return the run of this name, once it has passed a checkpoint."""

        def look() -> client.Run | None:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.out}{self.err}"
            try:
                run = client.attach(name)
            except client.NoSuchRunError:
                return None
            return run if run.step > 0 and run.status.live else None

        return until(look, f"run {name}")

    def go(self) -> None:
        """Open the gate of GATED, and of scripts with such a gate."""
        Path(f"{self.script}.go").touch()

    def ended(self, deadline: float = DEADLINE) -> int:
        """Wait for the process to end; return the exit status.

        A script that must not end earlier can wait for the file that TEST_MAY_END names, which exists from now on.
        """
        self._may_end.touch()
        return self.process.wait(deadline)

    def cpu_time(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def steps_on(self, run: client.Run, more: int = 3) -> None:
        """Assert that the loop passes checkpoints."""
        step = run.step
        until(lambda: run.step >= step + more, f"more steps than {step}: {self.err}")


def outcome(ask: Callable[..., client.Request], *args: Any, **options: Any) -> client.Request:
    """Return the request that `ask` makes and waits for, whatever its fate, even if `ask` raises or warns because of
    it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", client.SparkReloadWarning)
            return ask(*args, **options)
    except client.SparkRequestError as error:
        assert isinstance(error.request, client.Request)
        return error.request


ALL = bool(os.environ.get("SPARK_FAST_TEST_ALL"))
"""Whether to run every combination, and each search in full length."""


def in_turn(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return each item of `first` with one of `second`, in turn; with SPARK_FAST_TEST_ALL, all combinations."""
    if ALL:
        return [(*_as_tuple(one), other) for one in first for other in second]
    return [(*_as_tuple(one), second[number % len(second)]) for number, one in enumerate(first)]


def _as_tuple(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)
