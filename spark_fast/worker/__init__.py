"""The functions that training code calls."""

import sys

from spark_fast._core import worker as _worker
from spark_fast.errors import SparkInterrupt, SparkReloadError, SparkStopError
from spark_fast.status import SparkStatus
from spark_fast.worker.controller import SparkController, controller, create_controller
from spark_fast.worker.options import configure
from spark_fast.worker.runner.function import run
from spark_fast.worker.slow_path.async_checkpoint import checkpoint_async
from spark_fast.worker.state import persist as _persisted
from spark_fast.worker.state.declare import function, value
from spark_fast.worker.state.hooks import on_pause, on_resume, on_stop
from spark_fast.worker.state.persist import clear_all_persisted, clear_persisted, has_persisted, persist
from spark_fast.worker.state.registry import expose
from spark_fast.worker.state.track import track

checkpoint = _worker.checkpoint
pending = _worker.pending

__all__ = [
    "SparkController",
    "SparkInterrupt",
    "SparkReloadError",
    "SparkStatus",
    "SparkStopError",
    "checkpoint",
    "checkpoint_async",
    "clear_all_persisted",
    "clear_persisted",
    "configure",
    "controller",
    "create_controller",
    "expose",
    "function",
    "has_persisted",
    "on_pause",
    "on_resume",
    "on_stop",
    "pending",
    "persist",
    "run",
    "track",
    "value",
]


def _patch_cells() -> None:
    """Begin to patch notebook cells, if this process runs a notebook."""
    if "IPython" in sys.modules:
        from spark_fast.worker.reload import notebook  # only a notebook needs it

        notebook.attend()


_persisted.current.before_making = _patch_cells
