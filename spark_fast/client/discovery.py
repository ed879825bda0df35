"""Finding the runs of this user, and attaching to one."""

from collections.abc import Sequence
from contextlib import suppress

from spark_fast.client import connection
from spark_fast.client.connection import Connection
from spark_fast.client.request import Request
from spark_fast.client.run import Run
from spark_fast.errors import AmbiguousRunError, NoSuchRunError
from spark_fast.runfiles import names
from spark_fast.runfiles.homes import Home

__all__ = ["attach", "find_or_none", "open_in", "request_hot_reload", "runs"]

_ENDED_NAMED = 3
"""How many ended runs an error names if no run is live."""


def runs(*, ended: bool = True) -> list[Run]:
    """Return the runs of this user on this host, by the time at which they began.

    ended: whether to list those too that have ended, until `remove_ended()` or a new run of the same id removes them.

    Folders that can't be read are left out; `attach()` with their name says why. Costs some 0.1 ms a run. Raises
    FolderRefusedError if the folder of runs can't be trusted.
    """
    return [Run(each) for each in connection.connections(ended=ended)]


def open_in(home: Home, run: str) -> Run:
    """Return the run of this name in a folder of runs. Raises as `connection.open_in()` does."""
    return Run(connection.open_in(home, run))


def find_or_none(run: str) -> Run | None:
    """Return the run of exactly this id; None if there is no such run. Raises as `connection.open_in()` does."""
    found = connection.find_or_none(run)
    return None if found is None else Run(found)


def attach(run: str | None = None, *, exact: bool = False) -> Run:
    """Return the run of this id; without one, the only live run.

    The beginning of an id is enough if the id of only one live run begins so, or, if no live run's id does, the id of
    only one ended run. The run of exactly this id is preferred. A run that passes no checkpoints, because its worker
    has forked the process that trains, stands for the run of that process.

    Args:
        run: the id, or its beginning.
        exact: whether only the run of exactly this id will do, as for a program that waits for its own run.

    Raises NoSuchRunError, which lists the live runs; AmbiguousRunError if several runs could be meant; LayoutError,
    SegmentError or FolderRefusedError if there is one that can't be used.
    """
    return Run(_find(run, exact=exact))


def _find(run: str | None, *, exact: bool) -> Connection:
    if run is None:
        return _only_live()
    if exact:
        return connection.find(run)
    found = _named(run)
    if not found.is_idle():
        return found
    children = _trained_by(found, connection.connections(ended=False))
    if len(children) > 1:
        raise AmbiguousRunError(None, [each.id for each in children])
    if not children:
        return found
    children[0].idle_parent = found
    return children[0]


def _only_live() -> Connection:
    live = connection.connections(ended=False)
    training = [each for each in live if not _trained_by(each, live)]
    if len(training) == 1:
        return training[0]
    if live:
        raise AmbiguousRunError(None, [each.id for each in training])
    latest = sorted(runs(), key=lambda each: each.ended or each.started, reverse=True)
    raise NoSuchRunError(None, [], [each.id for each in latest[:_ENDED_NAMED]])


def _named(run: str) -> Connection:
    """Connect to the run of this id, or to the only one whose id begins so."""
    if names.valid(run):
        with suppress(NoSuchRunError):
            return connection.find(run)
    known = connection.connections()
    live = [each for each in known if each.status.live]
    meant = [each for each in live if each.id.startswith(run)] or [each for each in known if each.id.startswith(run)]
    if not run or not meant:
        raise NoSuchRunError(run, [each.id for each in live])
    if len(meant) > 1:
        raise AmbiguousRunError(run, [each.id for each in meant])
    return meant[0]


def _trained_by(parent: Connection, live: Sequence[Connection]) -> list[Connection]:
    """Return the runs of the processes that the worker of an idle run has forked; none if the run is not idle."""
    if not parent.is_idle():
        return []
    return [
        each
        for each in live
        if (each.info.forked_from, each.info.parent) == (parent.id, parent.info.pid) and each is not parent
    ]


def request_hot_reload(code: str | bytes | None = None, run: str | None = None) -> Request:
    """Ask a run to go on with new code, and wait until it does: `attach(run).reload(code, check=True)`.

    code: the complete new source of the entry file; None for what changed on disk.
    run: its id, or the beginning of one, as attach() takes it; None for the only live one.

    Raises SparkRequestError, with the reason, if the run does not go on with the new code, and what attach() raises.
    """
    return attach(run).reload(code, check=True)
