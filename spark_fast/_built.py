"""The compiled core, once it is certain that it was built from these very files."""

from spark_fast import _core
from spark_fast._version import __version__

LAYOUT = 1  # of the segment, that these Python files were written for

if (__version__, LAYOUT) != (_core.BUILD_VERSION, _core.LAYOUT_VERSION):
    raise ImportError(
        f"the compiled core {_core.__file__} is of version {_core.BUILD_VERSION} (layout {_core.LAYOUT_VERSION}), "
        f"the Python files beside it are of version {__version__} (layout {LAYOUT}): install spark-fast again, "
        "or in a source tree build it again with 'make build'"
    )

worker = _core.worker
checkpoint = worker.checkpoint
pending = worker.pending

__all__ = ["LAYOUT", "checkpoint", "pending", "worker"]
