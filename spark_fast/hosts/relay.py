"""The relay: a process that carries requests between the job's store and one host's ranks.

`python -m spark_fast.hosts FOLDER` runs it, on a run folder and on the store that `place.json` in there names. It
follows the rules of `protocol`. Each host has one relay. The host's first rank starts it, and it ends with the host's
last rank, or with the run folder. It keeps its state in the store and in files, so it may be killed at any time:
whoever needs it next starts it again.

Bell: a named pipe in the run folder. A byte in it wakes the relay.
"""

import math
import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from spark_fast import _core
from spark_fast.errors import FolderRefusedError, SegmentError
from spark_fast.hosts import state_files
from spark_fast.hosts.access import StoreAccess
from spark_fast.hosts.local import RunFolder
from spark_fast.hosts.messages import Member
from spark_fast.hosts.protocol import Relay, Steps
from spark_fast.hosts.requests import times_of
from spark_fast.hosts.state_files import HostPlace, read_place
from spark_fast.hosts.store import Store, StoreGoneError, StoreSlowError
from spark_fast.plain_text import printable
from spark_fast.runfiles.descriptors import open_own

__all__ = ["main"]

_Result = TypeVar("_Result")

LOG_MAX = 256 << 10
_LINGER = 3.0
"""Seconds without a living rank after which the relay ends. An elastic launcher starts the next ranks sooner."""
_LINGER_ASKED = 60.0
"""The same while a sender on this host waits for a fate, or a controller here looks at the other hosts' ranks."""
_ASSUME = 10.0
"""Seconds to wait until all ranks of the host have joined. Then the relay assumes that they follow the first one."""
_LOOK = 1.0
"""Seconds between two checks whether a rank lives."""
_LOOK_ENDING = 0.2
"""The same once no rank lives. Each check then also reads the other hosts' states, if a controller here looks."""
_LISTEN = 20.0
"""Seconds after which a wait for the next request begins anew: each wait costs the store some 20 µs."""
_AWAIT = 1.0
"""The same for what the other hosts tell of an open request."""
_AGAIN = 0.5
"""Seconds between two attempts to reach the store."""


def drive(steps: Steps[_Result]) -> _Result:
    """Make the calls that a relay's steps yield, sending each result back. Return what the steps return."""
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
    """A thread that waits for keys, over a connection of its own, and rings the bell when all of them are there.

    store: the connection.
    turn: seconds after which a wait begins anew. expect() may take so long to have an effect.
    """

    def __init__(self, store: Store, bell: int, turn: float) -> None:
        self._bell = bell
        self._turn = turn
        self._changed = threading.Condition()
        self._keys: tuple[str, ...] = ()
        self._news: dict[str, bytes] = {}
        self._over = False
        self.gone = False
        self._store = store
        threading.Thread(target=self._listen, name="spark_fast listener", daemon=True).start()

    def expect(self, keys: tuple[str, ...]) -> None:
        """Wait for these keys from now on."""
        with self._changed:
            self._keys = keys
            self._changed.notify()

    def news(self) -> dict[str, bytes]:
        """Return the values that were found since the last call, by their keys."""
        with self._changed:
            found, self._news = self._news, {}
        return found

    def close(self) -> None:
        """End the thread once its current wait is over."""
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
"""The byte that this process puts into the bell. Other processes put another one: they may have left a request."""


def _ring(bell: int) -> None:
    with suppress(BlockingIOError):
        os.write(bell, _FROM_INSIDE)


def _watch(local: RunFolder, bell: int) -> None:
    """Ring the bell whenever a rank of this host has published something. Runs in a thread of its own."""
    with suppress(SegmentError, OSError):  # the run is gone: the relay finds that out itself
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
        self._listeners: list[_Listener] = []  # for the next request; for the others' words on open ones
        self._access = self._access_of(place)
        self._began = self._alive_at = time.monotonic()
        self._gone_since: float | None = None
        self._reason = "the job's store was not reached yet"
        threading.Thread(target=_watch, args=(self._local, bell), name="spark_fast watcher", daemon=True).start()

    def run(self) -> None:
        """Carry requests until no rank lives. Raises what RunFolder raises when the folder is gone."""
        due, rung, alive, look_at = 0.0, b".", False, 0.0
        while True:
            self._local.segment.check()
            now, hurried = time.monotonic(), False
            if self._local.alive():
                self._alive_at, alive = now, True
            elif now - self._alive_at > self._linger():
                self._end()
                return
            elif self._gone_since is None and now >= look_at and now - self._alive_at <= _LINGER:
                # The store may end with the job, so publish this host's last state, and read the others', before that.
                if self._relay is not None:
                    self._relay.hurry(tell=alive)
                alive, hurried, look_at = False, True, now + _LOOK_ENDING
            outside = bool(rung.strip(_FROM_INSIDE))
            moved = (outside or not rung) and self._read_place()
            if moved or hurried or rung or now >= due:
                try:
                    look = self._connect() or hurried or not rung
                    delay = self._turn(look, asked=look or outside)
                except StoreGoneError as error:
                    delay = self._lose(error)
                due = time.monotonic() + delay
                if said := self._access.tell_refusals():
                    _note(said)
            rung = self._wait(min(max(due - time.monotonic(), 0.0), _LOOK if alive else _LOOK_ENDING))

    def _linger(self) -> float:
        """Return the seconds without a living rank after which this process ends."""
        needed = self._gone_since is None and (self._local.asks() or self._local.awaits_others())
        return _LINGER_ASKED if needed else _LINGER

    def _end(self) -> None:
        """Tell the other hosts that no rank of this one lives, and tell this host's senders what is known."""
        reason = self._reason
        with suppress(StoreGoneError):
            if self._relay is not None and self._store is not None:
                drive(self._relay.turn())
                self._access.end()
                drive(self._relay.leave())
                reason = "the ranks of this host have ended"
        drive(self._refusing().refuse(reason, math.inf, over=True))
        self._local.show_unreachable()

    def _read_place(self) -> bool:
        """Start over, with new connections, if this host's place in its job has changed. Return whether it has."""
        place = read_place(self._folder)
        if place is None or place == self._place:
            return False
        self._drop()
        self._place = place
        self._relay = None
        self._began = time.monotonic()
        self._access = self._access_of(place)
        return True

    def _access_of(self, place: HostPlace) -> StoreAccess:
        self._local.protection, self._local.unused = place.protection, place.unused
        return StoreAccess(self._folder, place, partial(_ring, self._bell), self._local.alive)

    def _member(self) -> Member | None:
        place = self._place
        numbers = self._local.numbers(place)
        if numbers is None:
            if time.monotonic() - self._began < _ASSUME:
                return None
            numbers = tuple(range(place.first, place.first + place.count))
        return Member(place.node, place.name, numbers, place.world_size, place.generation)

    def _connect(self) -> bool:
        """Connect to the store, unless that is done. Return whether this call connected.

        Raises StoreGoneError if the store can't be reached, or a connection to it was lost.
        """
        if self._access.lost or any(listener.gone for listener in self._listeners):
            raise StoreGoneError("the connection to the job's store is lost")
        if self._store is not None:
            return False
        self._store = self._access.open()
        for seconds in (_LISTEN, _AWAIT):
            self._listeners.append(_Listener(self._access.open(), self._bell, seconds))
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
        self._access.check(self._relay.next_key)
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
        self._reason = str(error)
        first = self._gone_since is None
        if self._gone_since is None:
            self._gone_since = now
            _note(str(error))
        if first and isinstance(error, StoreSlowError):
            return 0.0  # it may only be slow, on a busy machine: the next attempt tells
        self._local.show_unreachable()
        drive(self._refusing().refuse(str(error), now - self._gone_since))
        return _AGAIN

    def _refusing(self) -> Relay:
        """Return the relay; before there is one, a relay without a store, which knows only this host's place."""
        if self._relay is not None:
            return self._relay
        place = self._place
        member = Member(place.node, place.name, (place.first,), place.world_size, place.generation)
        return Relay(_NoStore(), self._local, member, times_of(place))

    def _drop(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._access.close()
        if self._store is not None:
            self._store.close()
        self._listeners, self._store = [], None

    def _wait(self, seconds: float) -> bytes:
        """Wait for the bell. Return the bytes that were put into it; none if the time is over."""
        ready, _, _ = select.select([self._bell], [], [], seconds)
        if ready:
            with suppress(BlockingIOError):
                return os.read(self._bell, 4096)
        return b""


class _NoStore:
    """A store that can never be reached."""

    def get(self, key: str) -> bytes | None:
        raise StoreGoneError("no store")

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        raise StoreGoneError("no store")

    def set(self, key: str, value: bytes) -> None:
        raise StoreGoneError("no store")

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        raise StoreGoneError("no store")

    def wait(self, key: str, timeout: float) -> bytes | None:
        raise StoreGoneError("no store")

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        raise StoreGoneError("no store")

    def delete(self, *keys: str) -> None:
        raise StoreGoneError("no store")

    def close(self) -> None:
        """Do nothing: there is no connection."""


def _note(text: str, log: int = 2) -> None:
    """Write a line to the relay's log. Empty the log first if it has grown to LOG_MAX bytes.

    Other hosts and other users of the store choose some of the text. So a character that could steer a reader's
    terminal is written as an escape.
    """
    if os.fstat(log).st_size >= LOG_MAX:
        os.ftruncate(log, 0)
    os.write(log, f"{time.strftime('%F %T')} {printable(text)}\n".encode())


def main(folder: Path) -> int:
    """Run the relay of a run folder, unless one is running. Return the exit status."""
    with suppress(OSError):  # if memory runs out, kill the relay and no training
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        with state_files.opened(folder, create=True) as fd:
            log = open_own(state_files.LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, dir_fd=fd)
            os.dup2(log, 2)
            lock = open_own(state_files.LOCK, os.O_RDWR | os.O_CREAT, dir_fd=fd)
            if not _core.lock_file(lock, 0.0):
                return 0
            with suppress(FileExistsError):
                os.mkfifo(state_files.BELL, 0o600, dir_fd=fd)
            # Open it for writing too, so that a read never finds the end of the pipe.
            bell = open_own(state_files.BELL, os.O_RDWR, dir_fd=fd, pipe=True)
        # A thread that wakes up then waits 0.5 ms for one that computes, and not 5 ms.
        sys.setswitchinterval(0.0005)
        place = read_place(folder)
        if place is None:
            print(f"{folder} is no run of several hosts", file=sys.stderr)
            return 2
        _Process(folder, place, bell).run()
    except (SegmentError, FileNotFoundError, FolderRefusedError) as error:
        # Standard error may not be the relay's log yet.
        print(f"{time.strftime('%F %T')} the run's folder is of no use any more: {error}", file=sys.stderr)
    return 0
