"""New code takes the place of old code in place, as one step that can be undone.

Not imported with the package: only a worker that is reloaded needs it.
"""

from spark_fast.worker.reload.patching.patch import Patch
from spark_fast.worker.reload.patching.preflight import preflight

__all__ = ["Patch", "preflight"]
