"""What the runs publish, looked at by one poller for all pages.

Each round looks for new run folders only if their parent has changed, and at the control file of each known run through
a descriptor that stays open. What a round finds is turned into JSON once, whatever the number of pages. Where there are
so many runs that a round takes long, rounds are further apart: they take a twentieth of a core at the most.
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
"""Ranks of a run up to which it is kept for each since when its step is the same."""

_log = logging.getLogger(__name__)

_WATCHED = 0.5
"""Seconds between rounds while a page looks."""
_UNWATCHED = 5.0
"""While none does: whoever comes then learns for how long a run has been at its step."""
_SHARE = 20
"""Rounds take one part in so many of a core at the most."""
_FRESH = 0.25
_MEMORY = 5.0
"""Seconds between two looks at a worker's memory."""
_MEMORY_LOOKS = 100
"""Such looks in one round at the most."""
_MEMORY_STEP = 1 << 20
"""Bytes by which it has to differ to be worth an event."""
_SETTLED = 0.05
"""A folder that was changed less than so many seconds ago may be changed again without its time telling."""

_Signature = tuple[int, int, int]


@dataclass
class _Seen:
    """A run, as it was last seen."""

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
    """The run folders: which have come, and which have gone."""

    def __init__(self) -> None:
        self.seen: dict[str, _Seen] = {}
        self._homes: dict[Path, _Signature | None] = {}
        self._unusable: dict[str, _Signature | None] = {}
        self._where: dict[str, Path] = {}
        """The folder of runs that has the run of this name."""

    def look(self) -> None:
        """Brings `seen` up to date. Raises OSError, FolderRefusedError if the folder of runs can't be read."""
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
            # Of a lack of descriptors the folder says nothing: it is tried again.
            self._unusable[name] = None if is_short(error) else signature
        else:
            del self._unusable[name]


def _signature(folder: str | int, home: int | None = None) -> _Signature | None:
    """What tells that nothing came into a folder or went; None if that can't be told yet."""
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
        """Makes rounds until it is cancelled."""
        while True:
            try:
                took = await self._round(0.0)
            except Exception:
                # Whatever is wrong with one run is no reason to show the others no more.
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
        """Makes the next round at once: something was asked for, or a page has come."""
        self._wanted.set()

    async def look(self) -> None:
        """Makes a round now."""
        await self._round(0.0)

    async def summaries(self) -> list[dict[str, Any]]:
        """All runs, by the time at which they began; none as it was more than a quarter of a second ago."""
        await self._round(_FRESH)
        now = monotonic()
        found = [_with_age(seen, now) for seen in self._shown.values()]
        return sorted(found, key=lambda summary: (summary["started"], summary["id"]))

    async def summary(self, run: str) -> dict[str, Any] | None:
        """One of them; None if there is no such run."""
        await self._round(_FRESH)
        if run not in self._shown:
            await self._round(0.0)
        seen = self._shown.get(run)
        return None if seen is None else _with_age(seen, monotonic())

    def since_checkpoints(self, run: str) -> dict[int, float]:
        """Of the ranks of a run that has several, and RANKS_MAX at the most: the seconds for which the step of each is
        the same, as far as that was seen."""
        now = monotonic()
        seen = self._shown.get(run)
        return {} if seen is None else {rank: now - since for rank, (_, since) in seen.rank_steps.items()}

    def _whole(self) -> str:
        # A run that hangs makes no events: how long it has done so is told anew.
        now = monotonic()
        runs = [to_json(listed_view(_with_age(seen, now))) for seen in self._shown.values()]
        return _event(runs, [], self.error, full=True)

    async def _round(self, age: float) -> float:
        """Makes a round unless one was begun within `age` seconds; the CPU time that it took."""
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
        """In a thread: the runs that changed, all runs, what is wrong, and the CPU time."""
        began = time.thread_time()
        error = None
        try:
            self._folders.look()
        except (OSError, FolderRefusedError) as refused:
            error = str(refused)
            if not is_short(refused):  # then the runs that were seen may well live
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
                continue  # it is shown as it was: it may well live
            if news:
                seen.text = to_json(listed_view(_with_age(seen, now)))
                changed.append(seen)
        return changed, found, error, time.thread_time() - began


def _look_at(seen: _Seen, now: float) -> bool:
    """Whether the run has published something new."""
    look = seen.run._snapshot()
    if look == seen.look and seen.summary and not (look is not None and look.waits()):
        return False
    before, seen.look = seen.summary, look
    # By the name of its folder it is asked for; a folder that was copied or renamed still holds the old one.
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
    """Whether the worker's memory has changed."""
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
