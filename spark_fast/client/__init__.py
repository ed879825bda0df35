"""Controls runs from outside: other processes, on the same host, of the same user.

from spark_fast import client

run = client.attach()          # the only live run
run.pause()
run.resume()
"""

from spark_fast.client.exposures import Change, History, Value
from spark_fast.client.proxy import Used, use
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
    SparkCallError,
    SparkError,
    SparkReloadWarning,
    SparkRequestError,
    SparkSetError,
    SparkTimeoutError,
    StoreError,
)
from spark_fast.request import Fate, FateState
from spark_fast.runfiles.run_folder import remove_ended
from spark_fast.runfiles.schema import Function, Parameter
from spark_fast.status import Progress, SparkStatus

__all__ = [
    "AmbiguousRunError",
    "Change",
    "Fate",
    "FateState",
    "FolderRefusedError",
    "Function",
    "History",
    "LayoutError",
    "LogFullError",
    "NoSuchRunError",
    "Parameter",
    "Progress",
    "Rank",
    "Request",
    "ResetError",
    "Run",
    "SegmentError",
    "SparkCallError",
    "SparkError",
    "SparkReloadWarning",
    "SparkRequestError",
    "SparkSetError",
    "SparkStatus",
    "SparkTimeoutError",
    "StoreError",
    "Used",
    "Value",
    "attach",
    "is_worker_initialized",
    "remove_ended",
    "request_hot_reload",
    "reset_worker",
    "runs",
    "use",
]
