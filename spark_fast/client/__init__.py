"""Controls runs from outside: other processes, on the same host, of the same user.

from spark_fast import client

run = client.attach()          # the only live run
run.pause()
run.resume()
"""

from spark_fast.client.reset import is_worker_initialized, reset_worker
from spark_fast.client.run import Rank, Request, Run, attach, request_hot_reload, runs
from spark_fast.errors import (
    AmbiguousRunError,
    FolderRefusedError,
    LayoutError,
    LogFullError,
    NoSuchRunError,
    ResetError,
    SegmentError,
    SparkError,
    SparkTimeoutError,
    StoreError,
)
from spark_fast.request import Fate, FateState
from spark_fast.run_folder import remove_ended
from spark_fast.status import Progress, SparkStatus

__all__ = [
    "AmbiguousRunError",
    "Fate",
    "FateState",
    "FolderRefusedError",
    "LayoutError",
    "LogFullError",
    "NoSuchRunError",
    "Progress",
    "Rank",
    "Request",
    "ResetError",
    "Run",
    "SegmentError",
    "SparkError",
    "SparkStatus",
    "SparkTimeoutError",
    "StoreError",
    "attach",
    "is_worker_initialized",
    "remove_ended",
    "request_hot_reload",
    "reset_worker",
    "runs",
]
