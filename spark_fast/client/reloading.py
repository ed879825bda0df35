"""Asking a run to go on with new code, and reading the versions of its code."""

import operator
import time
import warnings
from contextlib import suppress
from pathlib import Path

from spark_fast.client import changes
from spark_fast.client.connection import Connection
from spark_fast.client.deadline import Deadline
from spark_fast.client.request import Request, unsent
from spark_fast.client.send import ask
from spark_fast.client.starting import await_start
from spark_fast.errors import CodeRefusedError, LogFullError, SparkReloadWarning, StoreError
from spark_fast.request import Fate, FateState, Kind, sender_name, version_mail
from spark_fast.runfiles.versions import Store, Version

__all__ = ["current", "judge", "reload", "versions"]


def reload(
    run: Connection, code: str | bytes | None, *, to: int | None, restart: bool, wait: bool, timeout: float | None
) -> Request:
    """See Run.reload()."""
    if code is not None and to is not None:
        raise ValueError("new code and a version to go back to exclude each other")
    if code is not None and not isinstance(code, str | bytes):
        raise TypeError(f"new code is its source, as str or bytes, and not {type(code).__name__}")
    if to is not None and operator.index(to) < 1:
        raise ValueError(f"a version is 1 or more: {to}")
    deadline = Deadline(timeout)
    asked = time.time()

    def answer(state: FateState, reason: str, step: int | None = None) -> Request:
        return unsent(run, Kind.RELOAD, Fate(state, step=step, reason=reason), asked=asked)

    if not run.status.live:
        return answer(FateState.REFUSED, run.why_ended())
    store = Store(run.folder)
    try:
        await_start(run, lambda: store.reloadable and store.current_number() > 0, deadline)
        if not store.reloadable:
            return answer(
                FateState.REFUSED,
                f"run {run.id} was not started with `spark-fast run` or spark.run(), so it can't run new code",
            )
        if store.current_number() == 0:
            return answer(FateState.REFUSED, f"run {run.id} is only starting: its code is not kept yet; ask again")
        version = changes.add_version(store, sender_name(), code=code, to=to)
    except CodeRefusedError as error:
        return answer(FateState.REFUSED, error.reason)
    except FileNotFoundError:
        if run.status.live:
            raise
        return answer(FateState.REFUSED, run.why_ended())
    except OSError as error:  # a full disk, say
        raise StoreError(str(error.filename or run.folder), f"the version can't be kept: {error.strerror}") from None
    is_new = version is not None
    if version is None and restart:
        version = store.current()
    if version is None:
        return answer(FateState.APPLIED, "nothing to do: the code has not changed", run.step)

    try:
        request = ask(run, Kind.RELOAD, False, deadline, mail=version_mail(version.number, restart=restart))
    except LogFullError:
        if is_new:
            store.discard(version)
        raise
    if wait:
        request._wait(deadline)
    fate = request.fate
    if is_new and fate.state is FateState.REFUSED and fate.step is None:
        with suppress(FileNotFoundError):  # with its run
            store.discard(version)
    return request


def judge(request: Request, *, check: bool) -> Request:
    """Return the request if the new code runs, raise the error if it does not: see Run.reload()."""
    fate = request.fate
    if check or fate.state is not FateState.REFUSED or fate.step is None:
        return request.raise_for_fate()
    reason = fate.reason.split("\n")[0]
    # The warning shows the line that called Run.reload().
    warnings.warn(f"the run refused the new code: {reason}; the old code goes on", SparkReloadWarning, stacklevel=3)
    return request


def versions(folder: Path) -> list[Version]:
    """See Run.versions. folder: the run folder."""
    return Store(folder).versions()


def current(folder: Path) -> int | None:
    """See Run.version. folder: the run folder."""
    return Store(folder).current_number() or None
