"""Keeps the exception that ends or parks a worker, for `spark-fast status` and the web page."""

import time

from spark_fast import stderr
from spark_fast._core import worker
from spark_fast.errors import SparkError
from spark_fast.runfiles import run_error
from spark_fast.worker import session

__all__ = ["record"]


def record(error: BaseException, *, can_resume: bool = False) -> run_error.RunError:
    """Write an exception that ends or parks this worker to the run's folder; return its description.

    can_resume: whether a resume lets the code go on where it was.
    """
    found = run_error.describe(
        error,
        stderr.as_printed(error),
        step=worker.step(),
        rank=session.rank() or 0,
        time=time.time(),
        can_resume=can_resume,
    )
    folder = session.folder()
    if folder is not None:
        try:
            run_error.write(folder, session.slot(), found)
        except (OSError, SparkError) as problem:
            stderr.warn(f"why the run failed can't be written down: {problem}")
    return found
