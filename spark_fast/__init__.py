"""Pause, resume, stop and steer a running Python training loop from outside.

    import spark_fast as spark

    for batch in loader:
        spark.checkpoint()          # pause, stop and reload take effect here
        step(batch)

`spark-fast --help` shows how to control it from a shell, `spark_fast.client` from Python.
"""

from spark_fast._built import checkpoint, pending
from spark_fast._version import __version__
from spark_fast.errors import SparkError, SparkInterrupt, SparkReloadError, SparkStopError

TYPE_CHECKING = False  # type checkers know the name; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from spark_fast.status import SparkStatus
    from spark_fast.worker import (
        SparkController,
        checkpoint_async,
        configure,
        create_controller,
        on_pause,
        on_resume,
        track,
    )
    from spark_fast.worker.controller import controller

__all__ = [
    "SparkController",
    "SparkError",
    "SparkInterrupt",
    "SparkReloadError",
    "SparkStatus",
    "SparkStopError",
    "__version__",
    "checkpoint",
    "checkpoint_async",
    "configure",
    "controller",
    "create_controller",
    "on_pause",
    "on_resume",
    "pending",
    "track",
]

_HOMES = dict.fromkeys(__all__, "spark_fast.worker") | {"SparkStatus": "spark_fast.status"}


def __getattr__(name: str) -> object:
    # Loaded when first used: the import of a training script pays for checkpoint() alone.
    from importlib import import_module

    if name in ("worker", "client"):
        return import_module(f"spark_fast.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'spark_fast' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "client", "worker"})
