"""The process that carries requests between the job's store and one host's ranks: `python -m spark_fast.hosts FOLDER`.

It does what `protocol` says, on the store that `place.json` names and on the run folder. There is one for each host,
started by the host's first rank; it ends with the last of them, or with the run folder. What it knows stands elsewhere,
so that it may be killed at any time: whoever needs it next starts it again.
"""

import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from spark_fast import _core
from spark_fast.descriptors import open_file
from spark_fast.errors import FolderRefusedError, SegmentError
from spark_fast.hosts import folder as files
from spark_fast.hosts.asking import times_of
from spark_fast.hosts.folder import HostPlace, read_place
from spark_fast.hosts.local import RunFolder
from spark_fast.hosts.protocol import Relay, Steps
from spark_fast.hosts.store import Store, StoreGoneError, open_store
from spark_fast.hosts.words import Member

__all__ = ["main"]

_Result = TypeVar("_Result")

_LINGER = 3.0
"""Seconds without a living rank after which it ends: an elastic launcher starts the next ones by then."""
_ASSUME = 10.0
"""Seconds after which the ranks that have not come yet are taken for those that follow the first."""
_LOOK = 1.0
"""Seconds between two looks whether a rank lives."""
_LISTEN = 20.0
"""Seconds after which a wait for the next request begins anew: each takes the store some 20 µs."""
_AWAIT = 1.0
"""The same of what the others tell of an open request."""
_AGAIN = 0.5
"""Seconds between two tries to reach the store."""


def drive(steps: Steps[_Result]) -> _Result:
    """Carries out what a relay wants done."""
    answer: object = None
    error: StoreGoneError | None = None
    while True:
        try:
            function, arguments = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration as end:
            result: _Result = end.value
            return result
        answer = error = None
        _core.point("relay:call")
        try:
            answer = function(*arguments)
        except StoreGoneError as gone:
            error = gone


class _Listener:
    """A thread with a connection of its own that waits for keys, and rings when all of them are there.

    turn: seconds after which a wait begins anew. It may go on for so long when other keys are expected.
    """

    def __init__(self, address: str, timeout: float, bell: int, turn: float) -> None:
        self._bell = bell
        self._turn = turn
        self._changed = threading.Condition()
        self._keys: tuple[str, ...] = ()
        self._news: dict[str, bytes] = {}
        self._over = False
        self.gone = False
        self._store = open_store(address, timeout)
        threading.Thread(target=self._listen, name="spark_fast listener", daemon=True).start()

    def expect(self, keys: tuple[str, ...]) -> None:
        """Wait for these keys from here on."""
        with self._changed:
            self._keys = keys
            self._changed.notify()

    def news(self) -> dict[str, bytes]:
        """Return what was found since the last call."""
        with self._changed:
            found, self._news = self._news, {}
        return found

    def close(self) -> None:
        """End the thread when its wait is over."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def _listen(self) -> None:
        heard: tuple[str, ...] = ()
        try:
            while True:
                with self._changed:
                    while not self._over and self._keys in ((), heard):
                        self._changed.wait()
                    if self._over:
                        break
                    keys = self._keys
                found = self._store.wait_many(keys, self._turn)
                there = {key: raw for key, raw in zip(keys, found, strict=True) if raw is not None}
                if len(there) == len(keys):
                    heard = keys
                    with self._changed:
                        self._news.update(there)
                    _ring(self._bell)
        except StoreGoneError:
            self.gone = True
            _ring(self._bell)
        self._store.close()


_FROM_INSIDE = b"!"
"""What this process puts into the bell, in which others put something else: they may have left a request."""


def _ring(bell: int) -> None:
    with suppress(BlockingIOError):
        os.write(bell, _FROM_INSIDE)


def _watch(local: RunFolder, bell: int) -> None:
    """A thread that rings whenever a rank of this host has published something."""
    with suppress(SegmentError, OSError):  # gone: the relay finds that out itself
        seen = local.segment.changes()
        while True:
            local.segment.wait(seen, 1.0)
            now = local.segment.changes()
            if now != seen:
                _ring(bell)
            seen = now


class _Process:
    """One relay process."""

    def __init__(self, folder: Path, place: HostPlace, bell: int) -> None:
        self._folder = folder
        self._place = place
        self._bell = bell
        self._local = RunFolder(folder)
        self._relay: Relay | None = None
        self._store: Store | None = None
        self._listeners: list[_Listener] = []  # for the next request, and for what the others tell of an open one
        self._began = self._alive_at = time.monotonic()
        self._gone_since: float | None = None
        self._reason = "the job's store was not reached yet"
        threading.Thread(target=_watch, args=(self._local, bell), name="spark_fast watcher", daemon=True).start()

    def run(self) -> None:
        """Until no rank lives. Raises what RunFolder raises when the folder is gone."""
        due, rung = 0.0, b"."
        while True:
            self._local.segment.check()
            now = time.monotonic()
            if self._local.alive():
                self._alive_at = now
            elif now - self._alive_at > _LINGER:
                with suppress(StoreGoneError):
                    if self._relay is not None and self._store is not None:
                        drive(self._relay.turn())
                        drive(self._relay.leave())
                return
            outside = bool(rung.strip(_FROM_INSIDE))
            moved = (outside or not rung) and self._read_place()
            if moved or rung or now >= due:
                try:
                    look = self._connect() or not rung
                    delay = self._turn(look, asked=look or outside)
                except StoreGoneError as error:
                    delay = self._lose(error)
                due = time.monotonic() + delay
            rung = self._wait(min(max(due - time.monotonic(), 0.0), _LOOK))

    def _read_place(self) -> bool:
        """Whether the host stands elsewhere in its job than before."""
        place = read_place(self._folder)
        if place is None or place == self._place:
            return False
        self._place = place
        self._relay = None
        self._began = time.monotonic()
        self._drop()
        return True

    def _member(self) -> Member | None:
        place = self._place
        numbers = self._local.numbers(place)
        if numbers is None:
            if time.monotonic() - self._began < _ASSUME:
                return None
            numbers = tuple(range(place.first, place.first + place.count))
        return Member(place.node, place.name, numbers, place.world_size, place.generation)

    def _connect(self) -> bool:
        """Connect to the store, unless that is done. Return whether it was not."""
        if any(listener.gone for listener in self._listeners):
            raise StoreGoneError("the connection to the job's store is lost")
        if self._store is not None:
            return False
        timeout = min(2.0, self._place.bound / 2)
        self._store = open_store(self._place.address, timeout)
        self._listeners = [
            _Listener(self._place.address, timeout, self._bell, seconds) for seconds in (_LISTEN, _AWAIT)
        ]
        if self._relay is not None:
            self._relay.move(self._store)
        return True

    def _turn(self, look: bool, asked: bool) -> float:
        if self._relay is None:
            member = self._member()
            if member is None:
                return 0.2
            assert self._store is not None
            self._relay = Relay(self._store, self._local, member, times_of(self._place))
            look = asked = True
        news = {key: raw for listener in self._listeners for key, raw in listener.news().items()}
        delay = drive(self._relay.turn(news, look=look, asked=asked))
        self._gone_since = None
        key = self._relay.next_key
        for listener, keys in zip(self._listeners, ((key,) if key else (), self._relay.awaited), strict=True):
            listener.expect(keys)
        return delay

    def _lose(self, error: StoreGoneError) -> float:
        self._drop()
        now = time.monotonic()
        if self._gone_since is None:
            self._gone_since = now
            print(f"{time.strftime('%F %T')} {error}", file=sys.stderr, flush=True)
        relay = self._relay or Relay(_NoStore(), self._local, self._unknown(), times_of(self._place))
        drive(relay.refuse(str(error), now - self._gone_since))
        return _AGAIN

    def _unknown(self) -> Member:
        place = self._place
        return Member(place.node, place.name, (place.first,), place.world_size, place.generation)

    def _drop(self) -> None:
        for listener in self._listeners:
            listener.close()
        if self._store is not None:
            self._store.close()
        self._listeners, self._store = [], None

    def _wait(self, seconds: float) -> bytes:
        """Wait for the bell, and return what was put into it; nothing if the time is over."""
        ready, _, _ = select.select([self._bell], [], [], seconds)
        if ready:
            with suppress(BlockingIOError):
                return os.read(self._bell, 4096)
        return b""


class _NoStore:
    """A store that is never reached."""

    def get(self, key: str) -> bytes | None:
        raise StoreGoneError("no store")

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        raise StoreGoneError("no store")

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        raise StoreGoneError("no store")

    def set(self, key: str, value: bytes) -> None:
        raise StoreGoneError("no store")

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        raise StoreGoneError("no store")

    def wait(self, key: str, timeout: float) -> bytes | None:
        raise StoreGoneError("no store")

    def delete(self, *keys: str) -> None:
        raise StoreGoneError("no store")

    def close(self) -> None:
        """Nothing is held."""


def main(folder: Path) -> int:
    """Runs the relay of a run folder, unless there is one. The exit status."""
    with suppress(OSError):  # where memory runs out, this is what is to go, and no training
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        with files.opened(folder, create=True) as fd:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            log = open_file(files.LOG, flags, 0o600, dir_fd=fd)
            os.dup2(log, 2)
            lock = open_file(files.LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=fd)
            if not _core.lock_file(lock, 0.0):
                return 0
            with suppress(FileExistsError):
                os.mkfifo(files.BELL, 0o600, dir_fd=fd)
            # For writing too, so that it is never at its end.
            bell = open_file(files.BELL, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=fd)
        # The threads that wait take over from one that computes for a moment, and not for 5 ms.
        sys.setswitchinterval(0.0005)
        place = read_place(folder)
        if place is None:
            print(f"{folder} is no run of several hosts", file=sys.stderr)
            return 2
        _Process(folder, place, bell).run()
    except (SegmentError, FileNotFoundError, FolderRefusedError) as error:
        print(f"{time.strftime('%F %T')} the run's folder is of no use any more: {error}", file=sys.stderr)
    return 0
