"""Folders of runs that exist for one measurement only."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SHARED_MEMORY", "become_worker", "environment", "home", "home_to_control"]

SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def home(parent: Path | None = None) -> Iterator[Path]:
    """Make an empty home of runs, in the folder for temporary files or in another."""
    with tempfile.TemporaryDirectory(prefix="spark-fast-bench-", dir=parent) as folder:
        yield Path(folder)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process whose runs are kept in a home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPARK_FAST")}
    return kept | {"SPARK_FAST_HOME": str(folder), "SPARK_FAST_QUIET": "1"}


@contextmanager
def home_to_control() -> Iterator[Path]:
    """Make a home in which this process finds the runs that it controls."""
    with home() as folder:
        before = os.environ.get("SPARK_FAST_HOME")
        os.environ["SPARK_FAST_HOME"] = str(folder)
        try:
            yield folder
        finally:
            if before is None:
                del os.environ["SPARK_FAST_HOME"]
            else:
                os.environ["SPARK_FAST_HOME"] = before


def become_worker() -> None:
    """Makes this process the worker of a run in a home of its own, which goes with the process."""
    import spark_fast as spark
    from spark_fast._core import worker

    if not worker.attached():
        folder = tempfile.mkdtemp(prefix="spark-fast-bench-")
        atexit.register(shutil.rmtree, folder)  # after the run's own end, which registers later
        os.environ.update(environment(Path(folder)))
        spark.checkpoint()
    assert worker.attached() and worker.step() > 0
