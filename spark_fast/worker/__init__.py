"""What training code calls."""

from spark_fast import checkpoint, pending
from spark_fast.errors import SparkInterrupt, SparkReloadError, SparkStopError
from spark_fast.status import SparkStatus
from spark_fast.worker.asynchronous import checkpoint_async
from spark_fast.worker.controller import SparkController, controller, create_controller
from spark_fast.worker.exposing import expose, function, value
from spark_fast.worker.hooks import on_pause, on_resume, on_stop
from spark_fast.worker.options import configure
from spark_fast.worker.persisting import clear_all_persisted, clear_persisted, has_persisted, persist
from spark_fast.worker.running import run
from spark_fast.worker.tracking import track

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
