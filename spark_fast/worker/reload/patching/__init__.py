"""Updates classes and functions in place with new code, as one step that can be undone.

Only a worker that is reloaded imports this package.
"""

from spark_fast.worker.reload.patching.patch import Patch
from spark_fast.worker.reload.patching.preflight import preflight

__all__ = ["Patch", "preflight"]
