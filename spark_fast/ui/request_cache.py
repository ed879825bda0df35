"""The last runs that clients used, and the last requests that they sent."""

import os
from collections import OrderedDict
from typing import Any

from spark_fast.client import Request, Run
from spark_fast.client.discovery import find_or_none
from spark_fast.runfiles import run_folder
from spark_fast.ui.views import request_view

__all__ = ["RequestCache", "is_there"]

_RUNS = 256
_REQUESTS = 1024


def is_there(run: Run) -> bool:
    """Return whether a run is still the one in its folder: neither removed nor renamed, nor replaced by a fresh worker.

    Raises OSError if that can't be told.
    """
    try:
        there = os.stat(run.folder / run_folder.CONTROL, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(there, os.fstat(run._connection.control))


class RequestCache:
    """Keeps runs and requests.

    The next request to a kept run finds its control file mapped. Requests are kept because a refused one is in no log.
    """

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._requests: OrderedDict[tuple[str, str], Request] = OrderedDict()
        self._names: dict[str, str | None] = {}

    def run(self, name: str) -> Run | None:
        """Return the run of this name; None if there is none. Raise SparkError or OSError if it can't be used."""
        found = self._runs.pop(name, None)
        if found is None or not is_there(found):
            found = find_or_none(name)
        if found is not None:
            self._runs[name] = found
            while len(self._runs) > _RUNS:
                # Kept requests keep their run. What the run has open beyond its own file is opened again when needed.
                _, old = self._runs.popitem(last=False)
                old._release()
        return found

    def keep(self, request: Request, name: str | None) -> None:
        """Keep a request that was sent. name: that of the value or the function."""
        self._requests[request._connection.folder.name, request.id] = request
        self._names[request.id] = name
        while len(self._requests) > _REQUESTS:
            (_, ident), _ = self._requests.popitem(last=False)
            self._names.pop(ident, None)

    def view(self, request: Request) -> dict[str, Any]:
        """Return the request for JSON."""
        return request_view(request, self._names.get(request.id))

    def request(self, run: str, ident: str) -> Request | None:
        """Return the request of this id to a run, if this server sent it or the run's log holds it; else None."""
        if (sent := self._requests.get((run, ident))) is not None:
            return sent
        found = self.run(run)
        if found is None:
            return None
        return next((request for request in found.requests if request.id == ident), None)
