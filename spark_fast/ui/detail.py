"""One run in full, for the pages that look at it."""

import asyncio
import os
from collections.abc import Iterable
from typing import Any

from spark_fast import run_folder
from spark_fast.client.run import Run, _open
from spark_fast.code_versions import Store
from spark_fast.errors import FolderRefusedError, SegmentError, SparkError, StoreError
from spark_fast.status import monotonic
from spark_fast.ui.feed import Feed
from spark_fast.ui.threads import Threads
from spark_fast.ui.views import function_view, request_view, to_json, value_view

__all__ = ["Lookout", "Lookouts", "Parts", "open_run"]

_INTERVAL = 0.15
_TOUCH = 1.0
"""Seconds between two times at which the run is told that somebody looks."""
_BY_NAME = {"values": "name", "requests": "id"}
"""The parts of which an event holds only those items that changed, and what each is known by."""


def open_run(name: str) -> Run | None:
    """The run of this id; None if there is none. Raises SparkError, OSError if there is one that can't be used."""
    try:
        home = run_folder.open_home()
        try:
            return _open(home, name)
        finally:
            os.close(home)
    except FileNotFoundError:
        return None


class Parts:
    """What there is to say of a run, beyond its summary; each part is read anew only if it may have changed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._keys: dict[str, object] = {}
        self._parts: dict[str, Any] = {}
        self._touch_due = 0.0

    def look(self) -> dict[str, Any]:
        """The summary and all parts, by name. In a thread: it reads small files."""
        run = self._run
        summary = run.as_dict()
        try:
            view = run._view()
            log: object = view["tail"], view["changes"], summary["status"]
        except SegmentError as error:
            log = str(error)
        if self._changed("log", log):
            self._parts["requests"] = [request_view(request) for request in run.requests]
            self._parts |= _code(run)
        self._look_at_board()
        return summary | self._parts

    def _look_at_board(self) -> None:
        run: Any = self._run
        if not hasattr(run, "values"):
            self._parts |= {"values": [], "functions": []}
            return
        now = monotonic()
        if now >= self._touch_due:
            self._touch_due = now + _TOUCH
            run.touch()
        version = run.board_version()
        if self._changed("board", version):
            self._parts["values"] = [value_view(value) for value in run.values.values()]
            self._parts["functions"] = [function_view(function) for function in run.functions.values()]

    def _changed(self, part: str, key: object) -> bool:
        before = self._keys.get(part)
        self._keys[part] = key
        return before != key


def _code(run: Run) -> dict[str, Any]:
    try:
        return {"version": run.version, "reloadable": Store(run.folder).reloadable}
    except (StoreError, FolderRefusedError, OSError):
        return {"version": None, "reloadable": False}


class Lookout:
    """Looks at one run while a page does. What changed is published once for all of them.

    Attributes:
        feed: the events named "run".
    """

    def __init__(self, name: str, threads: Threads) -> None:
        self._name = name
        self._threads = threads
        self._run: Run | None = None
        self._parts: Parts | None = None
        self._shown: dict[str, Any] | None = None
        self.feed = Feed("run", self._whole)

    async def keep_looking(self) -> None:
        """Looks until it is cancelled."""
        while True:
            found, anew = await self._threads.read(self._look)
            before, self._shown = self._shown, found
            if found is None or before is None:
                if anew or before is not None or not self.feed.begun:
                    self.feed.publish(self._whole())
            elif anew:
                self.feed.publish(self._whole())
            elif news := _differing(before, found):
                self.feed.publish(to_json({"id": self._name, "full": False, "gone": False, **news}))
            await asyncio.sleep(_INTERVAL)

    def _look(self) -> tuple[dict[str, Any] | None, bool]:
        """What there is to say of the run, None if it has gone; and whether it is another one than before."""
        anew = False
        if self._run is not None and os.fstat(self._run._control).st_nlink == 0:
            self._run = self._parts = None
        if self._run is None or self._parts is None:
            try:
                self._run = open_run(self._name)
            except (SparkError, OSError):
                self._run = None
            if self._run is None:
                return None, False
            self._parts = Parts(self._run)
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


class Lookouts:
    """One for each run that a page looks at."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._there: dict[str, tuple[Lookout, asyncio.Task[None]]] = {}

    @property
    def names(self) -> list[str]:
        """Of the runs that are looked at."""
        return list(self._there)

    def enter(self, name: str, bell: asyncio.Event) -> Feed:
        """The events of a run, for a page whose bell is rung when there are any."""
        if name not in self._there:
            lookout = Lookout(name, self._threads)
            self._there[name] = lookout, asyncio.create_task(lookout.keep_looking())
        feed = self._there[name][0].feed
        feed.bells.add(bell)
        return feed

    def leave(self, name: str, bell: asyncio.Event) -> None:
        """The page has gone."""
        lookout, task = self._there[name]
        lookout.feed.bells.discard(bell)
        if not lookout.feed.watched:
            task.cancel()
            del self._there[name]
