"""One poller looks at what the runs publish, for all pages.

Each round looks for new run folders only if their parent has changed. It reads the control file of each known run
through a descriptor that stays open. What it finds is turned into JSON once, however many pages there are. With very
many runs, rounds are further apart: together they take a twentieth of a core at most.
"""

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spark_fast.client.discovery import open_in
from spark_fast.client.run import Run
from spark_fast.client.snapshot import Snapshot
from spark_fast.errors import FolderRefusedError, SparkError
from spark_fast.runfiles import run_folder
from spark_fast.runfiles.descriptors import is_short
from spark_fast.runfiles.homes import Home, opened_homes
from spark_fast.runfiles.json_text import to_json
from spark_fast.status import SparkStatus, monotonic
from spark_fast.ui.feed import Feed
from spark_fast.ui.memory import resident
from spark_fast.ui.threads import Threads
from spark_fast.ui.views import listed_view, present_view

__all__ = ["RANKS_MAX", "Poller"]

RANKS_MAX = 64
"""For runs of at most so many ranks, the poller keeps for each rank since when its step is the same."""

_log = logging.getLogger(__name__)

_WATCHED = 0.5
"""Seconds between rounds while a page looks."""
_UNWATCHED = 5.0
"""The same while no page looks. So the next page sees at once for how long a run has been at its step."""
_SHARE = 20
"""Rounds take at most one part in so many of a core."""
_FRESH = 0.25
_MEMORY = 5.0
"""Seconds between two looks at a worker's memory."""
_MEMORY_LOOKS = 100
"""Such looks in one round, at most."""
_MEMORY_STEP = 1 << 20
"""A change of memory makes an event if it is of so many bytes."""
_SETTLED = 0.05
"""Seconds. A folder that changed less than so long ago may change again without a new time stamp."""

_Signature = tuple[int, int, int]


@dataclass
class _Seen:
    """A run as the last round saw it."""

    run: Run
    look: Snapshot | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    step: int = -1
    step_since: float = 0.0
    rank_steps: dict[int, tuple[int, float]] = field(default_factory=dict)
    memory: int | None = None
    memory_due: float = 0.0
    pid: int = -1
    pid_is_here: bool = False


class _Folders:
    """Keeps track of the run folders that appear and disappear."""

    def __init__(self) -> None:
        self.seen: dict[str, _Seen] = {}
        self._homes: dict[Path, _Signature | None] = {}
        self._unusable: dict[str, _Signature | None] = {}
        self._where: dict[str, Path] = {}
        """By the name of a run: the folder of runs that has it."""

    def look(self) -> None:
        """Bring `seen` up to date. Raise OSError or FolderRefusedError if the folder of runs can't be read."""
        with opened_homes() as homes:
            self._list(homes)
            for name, seen in list(self.seen.items()):
                if os.fstat(seen.run._connection.control).st_nlink == 0:  # removed or replaced
                    del self.seen[name]
                    self._unusable[name] = None
            by_path = {home.path: home for home in homes}
            for name, before in list(self._unusable.items()):
                home = by_path[self._where[name]]
                signature = _signature(name, home.fd)
                if before is None or signature != before:
                    self._open(name, home, signature)

    def _list(self, homes: list[Home]) -> None:
        signatures = {home.path: _signature(home.fd) for home in homes}
        if signatures == self._homes and None not in signatures.values():
            return
        where = {name: home.path for home in reversed(homes) for name in run_folder.run_names(home)}
        self._homes = signatures
        for name in [name for name, path in self._where.items() if where.get(name) != path]:
            self.seen.pop(name, None)
            self._unusable.pop(name, None)
        self._where = where
        for name in where.keys() - self.seen.keys() - self._unusable.keys():
            self._unusable[name] = None

    def _open(self, name: str, home: Home, signature: _Signature | None) -> None:
        try:
            self.seen[name] = _Seen(open_in(home, name))
        except (OSError, SparkError) as error:
            # Where no descriptor was left, that is no fault of the folder: the next round tries it again.
            self._unusable[name] = None if is_short(error) else signature
        else:
            del self._unusable[name]


def _signature(folder: str | int, home: int | None = None) -> _Signature | None:
    """Return what changes when an entry of a folder comes or goes; None if the folder changed too recently to tell."""
    try:
        found = os.stat(folder, dir_fd=home, follow_symlinks=False) if home is not None else os.stat(folder)
    except OSError:
        return None
    if abs(time.time() - found.st_ctime) < _SETTLED:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


class Poller:
    """The runs of this user, kept up to date while the server runs.

    threads: where rounds are made.

    Attributes:
        feed: the events named "runs".
        error: why the runs can't be listed; None if they can.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._folders = _Folders()
        self._turn = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._made = -1e9
        self._shown: dict[str, _Seen] = {}
        self.error: str | None = None
        self.feed = Feed("runs", self._whole)

    async def keep_looking(self) -> None:
        """Make rounds until the task is cancelled."""
        while True:
            try:
                took = await self._round(0.0)
            except Exception:
                # An error of one run must not hide the others.
                _log.exception("a look at the runs failed")
                took = 0.0
            pause = max(_WATCHED if self.feed.watched else _UNWATCHED, took * _SHARE)
            self._wanted.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    def hurry(self) -> None:
        """Make the next round at once, because a request was sent or a page has come."""
        self._wanted.set()

    async def look(self) -> None:
        """Make a round now."""
        await self._round(0.0)

    async def summaries(self) -> list[dict[str, Any]]:
        """Return all runs in the order in which they started, as they were a quarter of a second ago at most."""
        await self._round(_FRESH)
        now = monotonic()
        found = [_with_age(seen, now) for seen in self._shown.values()]
        return sorted(found, key=lambda summary: (summary["started"], summary["id"]))

    async def summary(self, run: str) -> dict[str, Any] | None:
        """Return one run, as summaries() does; None if there is no such run."""
        await self._round(_FRESH)
        if run not in self._shown:
            await self._round(0.0)
        seen = self._shown.get(run)
        return None if seen is None else _with_age(seen, monotonic())

    def since_checkpoints(self, run: str) -> dict[int, float]:
        """Return for each rank of a run the seconds for which its step is the same, as far as the poller has seen it.

        Only runs of 2 to RANKS_MAX ranks have any.
        """
        now = monotonic()
        seen = self._shown.get(run)
        return {} if seen is None else {rank: now - since for rank, (_, since) in seen.rank_steps.items()}

    def _whole(self) -> str:
        # A run that hangs makes no events, so its age is computed here.
        now = monotonic()
        runs = [to_json(listed_view(_with_age(seen, now))) for seen in self._shown.values()]
        return _event(runs, [], self.error, full=True)

    async def _round(self, age: float) -> float:
        """Make a round unless the last one began less than `age` seconds ago. Return the CPU time that it took."""
        async with self._turn:
            began = monotonic()
            if began - self._made < age:
                return 0.0
            self._made = began
            changed, found, error, took = await self._threads.read(self._look)
            gone = sorted(self._shown.keys() - found.keys())
            news = bool(changed or gone) or error != self.error or not self.feed.begun
            self._shown, self.error = found, error
            if news:
                self.feed.publish(_event([seen.text for seen in changed], gone, error, full=False))
            return took

    def _look(self) -> tuple[list[_Seen], dict[str, _Seen], str | None, float]:
        """Return the runs that changed, all runs, the error if any, and the CPU time. To be called in a thread."""
        began = time.thread_time()
        error = None
        try:
            self._folders.look()
        except (OSError, FolderRefusedError) as refused:
            error = str(refused)
            if not is_short(refused):  # where no descriptor is left, the known runs may well live
                self._folders = _Folders()
        now = monotonic()
        found = dict(self._folders.seen)
        memories = _MEMORY_LOOKS
        changed = []
        for seen in found.values():
            try:
                news = _look_at(seen, now)
                if memories and now >= seen.memory_due and seen.summary["ended"] is None:
                    memories -= 1
                    seen.memory_due = now + _MEMORY
                    news = _look_at_memory(seen) or news
            except OSError as refused:
                if not is_short(refused) or not seen.summary:
                    raise
                error = str(refused)
                continue  # the pages show the run as it was: it may well live
            if news:
                seen.text = to_json(listed_view(_with_age(seen, now)))
                changed.append(seen)
        return changed, found, error, time.thread_time() - began


def _look_at(seen: _Seen, now: float) -> bool:
    """Return whether the run has published something new."""
    look = seen.run._snapshot()
    if look == seen.look and seen.summary and not (look is not None and look.waits()):
        return False
    before, seen.look = seen.summary, look
    # Clients ask for a run by the name of its folder. A copied or renamed folder still holds the old name.
    seen.summary = seen.run._as_dict(look, now) | {"id": seen.run.folder.name}
    ranks = seen.summary["ranks"]
    seen.summary["present"] = present_view(ranks)
    if seen.summary["step"] != seen.step:
        seen.step, seen.step_since = seen.summary["step"], now
    if 1 < len(ranks) <= RANKS_MAX:
        for rank in ranks:
            if seen.rank_steps.get(rank["rank"], (-1, 0.0))[0] != rank["step"]:
                seen.rank_steps[rank["rank"]] = rank["step"], now
    return seen.summary != before


def _look_at_memory(seen: _Seen) -> bool:
    """Return whether the worker's memory has changed."""
    pids = [rank["pid"] for rank in seen.summary["ranks"][:1] if SparkStatus(rank["status"]).live]
    memory = None
    if pids:
        (pid,) = pids
        if pid != seen.pid:
            seen.pid_is_here = run_folder.is_worker(pid, seen.run.folder)
            seen.pid = pid
        memory = resident(pid) if seen.pid_is_here else None
    before, seen.memory = seen.memory, memory
    if before is None or memory is None:
        return before != memory
    return abs(before - memory) >= _MEMORY_STEP


def _with_age(seen: _Seen, now: float) -> dict[str, Any]:
    live = SparkStatus(seen.summary["status"]).live
    return seen.summary | {
        "memory": seen.memory if live else None,
        "since_checkpoint": round(now - seen.step_since, 3) if live else None,
    }


def _event(runs: list[str], gone: list[str], error: str | None, *, full: bool) -> str:
    return f'{{"runs":[{",".join(runs)}],"gone":{to_json(gone)},"full":{to_json(full)},"error":{to_json(error)}}}'
