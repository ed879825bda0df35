"""One run in full, for the pages that show it."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from spark_fast.client import Run
from spark_fast.client.discovery import find_or_none
from spark_fast.errors import FolderRefusedError, SegmentError, SparkError, StoreError
from spark_fast.runfiles.json_text import to_json
from spark_fast.runfiles.versions import Store
from spark_fast.status import monotonic
from spark_fast.ui.feed import Feed
from spark_fast.ui.request_cache import RequestCache, is_there
from spark_fast.ui.threads import Threads
from spark_fast.ui.views import function_view, present_view, shortened, value_view

__all__ = ["Parts", "RunWatcher", "RunWatchers"]

_log = logging.getLogger(__name__)

_INTERVAL = 0.15
_AGAIN = 5.0
"""Seconds between a look that failed and the next one."""
_TOUCH = 1.0
"""Seconds between two signs to the run that a page shows it."""
_BY_NAME = {"values": "name", "requests": "id", "ranks": "rank"}
"""The parts that are lists, and the key of their items. An event holds only the items that changed."""


class Parts:
    """Reads a run: its summary, and the other parts of its page. A part is read again only if it may have changed."""

    def __init__(self, run: Run, cache: RequestCache) -> None:
        self._run = run
        self._cache = cache
        self._final: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, object] = {}
        self._parts: dict[str, Any] = {}
        self._touch_due = 0.0

    def look(self) -> dict[str, Any]:
        """Return the summary and all parts, by name. To be called in a thread: it reads small files."""
        run = self._run
        summary = run.as_dict() | {"id": run.folder.name}
        summary["present"] = present_view(summary["ranks"])
        try:
            view = run._connection.view()
            log: object = view["tail"], view["changes"], summary["status"]
        except SegmentError as error:
            log = str(error)
        if self._changed("log", log):
            self._parts["requests"] = self._requests()
            self._parts |= _code(run)
        self._look_at_board()
        return summary | self._parts

    def _requests(self) -> list[dict[str, Any]]:
        found = []
        final = {}
        for request in self._run.requests:
            view = self._final.get(request.id)
            if view is None:
                view = shortened(self._cache.view(request))
            if view["fate"]["final"]:
                final[request.id] = view
            found.append(view)
        self._final = final
        return found

    def _look_at_board(self) -> None:
        run = self._run
        now = monotonic()
        values: list[dict[str, Any]] = []
        functions: list[dict[str, Any]] = []
        error = None
        try:
            if now >= self._touch_due:
                self._touch_due = now + _TOUCH
                run.touch()
            if not self._changed("board", run.board_version()):
                return
            values = [value_view(value) for value in run.values.values()]
            functions = [function_view(name, function) for name, function in run.functions.items()]
        except (SparkError, OSError) as damage:
            error = str(damage)
            self._keys.pop("board", None)  # the next look may be able to read the same version
        self._parts |= {"values": values, "functions": functions, "board_error": error}

    def _changed(self, part: str, key: object) -> bool:
        before = self._keys.get(part)
        self._keys[part] = key
        return before != key


def _code(run: Run) -> dict[str, Any]:
    try:
        return {"version": run.version, "reloadable": Store(run.folder).reloadable}
    except (StoreError, FolderRefusedError, OSError):
        return {"version": None, "reloadable": False}


class RunWatcher:
    """Watches one run while pages show it, and publishes its changes once for all of them.

    Attributes:
        feed: the events named "run".
    """

    def __init__(self, name: str, threads: Threads, cache: RequestCache) -> None:
        self._name = name
        self._threads = threads
        self._cache = cache
        self._run: Run | None = None
        self._parts: Parts | None = None
        self._shown: dict[str, Any] | None = None
        self.feed = Feed("run", self._whole)

    async def keep_looking(self) -> None:
        """Look at the run again and again, until the task is cancelled."""
        while True:
            try:
                found, anew = await self._threads.read(self._look)
            except Exception:
                _log.exception("a look at run %s failed", self._name)
                await asyncio.sleep(_AGAIN)
                continue
            before, self._shown = self._shown, found
            if anew or (found is None) != (before is None) or not self.feed.begun:
                self.feed.publish(self._whole())
            elif found is not None and before is not None and (news := _differing(before, found)):
                self.feed.publish(to_json({"id": self._name, "full": False, "gone": False, **news}))
            await asyncio.sleep(_INTERVAL)

    def _look(self) -> tuple[dict[str, Any] | None, bool]:
        """Return all parts of the run, or None if it is gone; and whether it is another run than before."""
        anew = False
        if self._run is not None and not is_there(self._run):
            self._run = self._parts = None
        if self._run is None or self._parts is None:
            try:
                self._run = find_or_none(self._name)
            except SparkError:  # not OSError: where no descriptor is left, the run may well live
                self._run = None
            if self._run is None:
                return None, False
            self._parts = Parts(self._run, self._cache)
            anew = True
        return self._parts.look(), anew

    def _whole(self) -> str:
        return to_json({"id": self._name, "full": True, "gone": self._shown is None, **(self._shown or {})})


def _differing(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    news: dict[str, Any] = {}
    for part, value in found.items():
        known = before.get(part)
        if value == known:
            continue
        name = _BY_NAME.get(part)
        news[part] = value if name is None else _items(known, value, name)
    return news


def _items(before: Iterable[dict[str, Any]] | None, found: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    known = {item[name]: item for item in before or ()}
    return [item for item in found if item != known.get(item[name])]


class RunWatchers:
    """The watchers of a server: one for each run that a page shows."""

    def __init__(self, threads: Threads, cache: RequestCache) -> None:
        self._threads = threads
        self._cache = cache
        self._there: dict[str, tuple[RunWatcher, asyncio.Task[None]]] = {}

    @property
    def names(self) -> list[str]:
        """The runs that are watched."""
        return list(self._there)

    def enter(self, name: str, bell: asyncio.Event) -> Feed:
        """Return the events of a run for one more page. Its bell is set at each event."""
        if name not in self._there:
            watcher = RunWatcher(name, self._threads, self._cache)
            self._there[name] = watcher, asyncio.create_task(watcher.keep_looking())
        feed = self._there[name][0].feed
        feed.bells.add(bell)
        return feed

    def leave(self, name: str, bell: asyncio.Event) -> None:
        """Take a page away. Stop the watcher after its last page."""
        watcher, task = self._there[name]
        watcher.feed.bells.discard(bell)
        if not watcher.feed.watched:
            task.cancel()
            del self._there[name]
