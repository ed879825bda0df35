"""Control runs from outside: from other processes on the same host, as the same user.

from spark_fast import client

run = client.attach()          # the only live run
run.pause()
run.resume()
"""

from spark_fast.client.board import Change, History, Value
from spark_fast.client.discovery import attach, request_hot_reload, runs
from spark_fast.client.proxy import RunProxy, use
from spark_fast.client.request import Request
from spark_fast.client.reset import is_worker_initialized, reset_worker
from spark_fast.client.run import Run
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
from spark_fast.runfiles.removal import remove_ended
from spark_fast.runfiles.schema import Function, Parameter
from spark_fast.status import Progress, Rank, SparkStatus

Used = RunProxy
"""The former name of RunProxy."""

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
    "RunProxy",
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
