"""The training of the demo: a copy of examples/digits.py under `spark-fast run`."""

import os
import runpy
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import spark_fast
from spark_fast import client
from spark_fast.client import NoSuchRunError, Run, SparkError
from spark_fast.own_process import own_command

__all__ = ["PATIENCE", "SCRIPT", "BrokenPromiseError", "Training", "check", "train"]

SCRIPT = "digits.py"
PATIENCE = 60.0
"""Seconds for any one thing to happen. On a machine that is not overloaded the whole demo takes ten."""


class BrokenPromiseError(Exception):
    """Something did not happen as promised."""


def check(holds: bool, promise: str) -> None:
    """Raise BrokenPromiseError unless a promise holds."""
    if not holds:
        raise BrokenPromiseError(f"not so: {promise}")


@dataclass(frozen=True)
class Training:
    """The training that the demo steers.

    Attributes:
        name: the name of its run.
        process: its supervisor, `spark-fast run`.
        script: its script, a copy that may be edited.
        model: the file to which it saves its model.
    """

    name: str
    process: "subprocess.Popen[str]"
    script: Path
    model: Path

    def attach(self) -> Run:
        """Wait until the run is there, and return it."""
        self.until(lambda: self._find() is not None, "the training starts")
        return client.attach(self.name, exact=True)

    def until(self, holds: Callable[[], bool], promise: str) -> None:
        """Wait until something holds. Raise BrokenPromiseError if the training ends before that, or takes too long."""
        end = time.monotonic() + PATIENCE
        while not holds():
            check(time.monotonic() < end, promise)
            check(self.process.poll() is None, f"{promise}; the training ended with status {self.process.poll()}")
            time.sleep(0.02)

    def edit(self, old: str, new: str) -> None:
        """Replace a part of the script."""
        source = self.script.read_text(encoding="utf-8")
        check(source.count(old) == 1, f"examples/{SCRIPT} has {old!r} once: install spark-fast again")
        self.script.write_text(source.replace(old, new), encoding="utf-8")

    def saved_accuracy(self) -> float:
        """Return the share of the test images that the saved model reads rightly, from its file alone."""
        example = runpy.run_path(str(_example()))
        *_, x_test, y_test = example["load_data"]()
        with example["np"].load(self.model) as weights:
            return float(example["accuracy"](dict(weights), x_test, y_test))

    def end(self) -> None:
        """End both processes, where they live."""
        self.process.terminate()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        # The worker of a supervisor that was killed is still there. Where its run can't be read, the reason why the
        # demo ends is more important than this error.
        with suppress(SparkError, ProcessLookupError):
            run = self._find()
            if run is not None and run.status.live:
                os.kill(run.ranks[0].pid, signal.SIGKILL)

    def _find(self) -> Run | None:
        with suppress(NoSuchRunError):
            return client.attach(self.name, exact=True)
        return None


@contextmanager
def train(arguments: list[str], show: Callable[[str], None]) -> Iterator[Training]:
    """Start the training. Neither of its processes outlives the block.

    show: called in a thread with each line that the training prints.
    """
    with tempfile.TemporaryDirectory(prefix="spark-fast-demo-") as folder:
        script = Path(shutil.copy(_example(), folder))
        name, model = f"demo-{os.urandom(3).hex()}", script.with_suffix(".npz")
        options = ["--name", name, "--journal", str(script.with_suffix(".jsonl"))]
        own = {key: value for key, value in os.environ.items() if key not in ("SPARK_FAST", "SPARK_FAST_RUN")}
        # One thread is plenty for so small a network; a BLAS's helper threads spin for a while after each use.
        own |= {"SPARK_FAST_QUIET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            own_command("run", *options, str(script), *arguments, "--save", str(model)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # when this process is killed, the next line that the training prints ends it
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=own,
            start_new_session=True,  # Ctrl-C in this terminal is for this process, which then ends the training
        )
        reader = threading.Thread(target=_read, args=(process, show), daemon=True)
        reader.start()
        training = Training(name, process, script, model)
        try:
            yield training
        finally:
            training.end()
            reader.join(3)


def _read(process: "subprocess.Popen[str]", show: Callable[[str], None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            show(line.rstrip())


def _example() -> Path:
    """Return the path of the example: an installed wheel has it in the package, a source tree beside the package."""
    package = Path(spark_fast.__file__).parent
    found = [path for folder in (package, package.parent) if (path := folder / "examples" / SCRIPT).is_file()]
    check(bool(found), f"the installation holds examples/{SCRIPT}: install spark-fast again")
    return found[0]
