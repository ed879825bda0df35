"""Pause, resume, stop and steer a running Python training loop from outside.

    import spark_fast as spark

    for batch in loader:
        spark.checkpoint()          # pause, stop and reload take effect here
        step(batch)

`spark-fast --help` shows how to control it from a shell, `spark_fast.client` from Python.
"""

import os

from spark_fast import _core

# Here and not in its own module, like the check of the core: finding a file takes longer than running it.
__version__ = "0.1.0"

_LAYOUT = 3  # the version of the segment's layout that these Python files expect

if (__version__, _LAYOUT) != (_core.BUILD_VERSION, _core.LAYOUT_VERSION):
    raise ImportError(
        f"the compiled core {_core.__file__} is of version {_core.BUILD_VERSION} (layout {_core.LAYOUT_VERSION}), "
        f"the Python files beside it are of version {__version__} (layout {_LAYOUT}): install spark-fast again, "
        "or in a source tree build it again with 'make build'"
    )


def _pin_path(variable: str) -> None:
    """Make the path in an environment variable absolute, so that it means the same after a chdir, and in children."""
    path = os.environ.get(variable)
    if path and not path.startswith("/") and path.lower() not in ("0", "off", "false", "no"):
        try:
            os.environ[variable] = os.path.abspath(path)
        except FileNotFoundError:  # the working directory is gone, so the path means nothing
            return


# As early as possible, since the script may leave its working directory.
_pin_path("SPARK_FAST_HOME")
_pin_path("SPARK_FAST_SECRET_FILE")
_pin_path("SPARK_FAST_JOURNAL")

checkpoint = _core.worker.checkpoint
pending = _core.worker.pending

TYPE_CHECKING = False  # type checkers know the name; importing typing would take longer than all the other imports
if TYPE_CHECKING:
    from collections.abc import Sequence

    from spark_fast.client import RunProxy
    from spark_fast.errors import SparkError, SparkInterrupt, SparkReloadError, SparkStopError
    from spark_fast.status import SparkStatus
    from spark_fast.worker import (
        SparkController,
        checkpoint_async,
        clear_all_persisted,
        clear_persisted,
        configure,
        create_controller,
        expose,
        function,
        has_persisted,
        on_pause,
        on_resume,
        on_stop,
        persist,
        run,
        track,
        value,
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
    "use",
    "value",
]


def use(target: str, arguments: "Sequence[str]" = (), **options: object) -> "RunProxy":
    """Return a run as an object: `spark.use("train.py")` starts a script, `spark.use(run_id)` takes a live run.

    The run's exposed values are attributes, its exposed functions methods: see `spark_fast.client.use()`.
    """
    from spark_fast.client import use as find  # a worker does not need it, so it must not load it

    return find(target, arguments, **options)  # type: ignore[arg-type]


def _load() -> None:
    """Load all public names. The first checkpoint does so, too.

    Then remove __getattr__: the interpreter does not specialize the attributes of a module that has one, so each
    spark.checkpoint() would cost twice as much.
    """
    with _core.loading:
        from spark_fast import errors, status, worker

    for name in [name for name in __all__ if name not in globals()]:
        for home in (worker, errors, status):
            if name in home.__all__:
                globals()[name] = getattr(home, name)
                break
    globals().pop("__getattr__", None)


def __getattr__(name: str) -> object:
    # So the import in a training script pays only for checkpoint().
    if name not in __all__:
        raise AttributeError(f"module 'spark_fast' has no attribute {name!r}")
    _load()
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
