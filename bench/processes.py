"""Starting bench/worker.py."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.homes import environment

__all__ = ["Child", "child", "result"]

LIMIT = 600.0


class Child:
    """A process that has reported that it is ready."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.pid = process.pid
        self.found: dict[str, Any] = {}
        self.hear()

    def hear(self) -> dict[str, Any]:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")
        self.found = json.loads(line)
        return self.found


@contextmanager
def child(home: Path, *words: str) -> Iterator[Child]:
    """Runs `python -m bench.worker words…` beside the block; ended with it, if it has not ended by itself."""
    command = [sys.executable, "-m", "bench.worker", *words]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        command, env=environment(home), cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Child(process)
        process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def result(home: Path, *words: str, runner: bool = False) -> dict[str, Any]:
    """Return the result of a command. runner: whether it runs under the runner of `spark-fast run`."""
    under = ["-m", "spark_fast.worker", "run"] if runner else []
    command = [sys.executable, *under, "-m", "bench.worker", *words]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, env=environment(home), cwd=root, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
