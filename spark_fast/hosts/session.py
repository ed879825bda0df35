"""How the hosts of a job come into one session, so that what was signed before it counts no more.

The host of rank 0 leads. It draws the session's identifier and names it in the store. Every other host knocks: it signs
a nonce, which it has drawn for this, and the leader answers with a signature over that nonce. Only an answer to its own
nonce brings a host into a session. Keys, where s is the session:

    session        names the session
    hello/<s>/<t>  a host knocks: t counts from 1
    welcome/<n>    the answer to nonce n

A host that is started again keeps its session, as a file in its run folder, as long as the store names it. A session
admits each host once. The leader begins a new one where a host knocks for the second time: that host has ended, has
lost its folder, or was shown two requests under one number. The leader also begins a new one where the store names none
or another one, since it has been emptied. Then all others knock. So what an ended host has said for the last time is
never heard of the host that follows it.

Several sessions at the same time can do no harm: a request needs a word, signed in its session, of every host.
"""

import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spark_fast.errors import StoreError
from spark_fast.hosts import state_files
from spark_fast.hosts.authentic import FORGOTTEN, MARKER, Session
from spark_fast.hosts.messages import whole
from spark_fast.hosts.secret import REMEDY, key_id, tag
from spark_fast.hosts.store import Store, StoreGoneError
from spark_fast.runfiles import private_files

__all__ = ["Entrance"]

_ADMITTED = "admitted"
_DECIDED = "decided.json"
_ADMITTED_MAX = 64 << 20

_NONCE = 16
_TAG = 32
_LISTEN = 20.0
"""Seconds after which a wait for the next host that knocks begins anew."""
_TICKETS = 1 << 20
"""Places where hosts knock, in one session."""


@dataclass
class _Knock:
    """How this host has knocked: at the session `ident`, with this nonce, at the place `ticket`."""

    ident: str
    nonce: bytes
    ticket: int


class Entrance:
    """A host's way into the session. See authentic.Gate. One thread calls it; the leader has another that answers.

    folder: of the host's run.
    first: the host's lowest rank. That of rank 0 leads.
    key: of this start of the job.
    connect: opens the store once more, for the thread that answers.
    ring: wakes the thread that calls this.
    alive: whether a rank of this host lives. A host without one enters no new session.
    timeout: seconds that enter() waits for the leader, each time.

    Attributes:
        first: as above.
        session: the session that this host is in; None before it is in one.
    """

    def __init__(
        self,
        folder: Path,
        first: int,
        key: bytes,
        connect: Callable[[], Store],
        ring: Callable[[], None],
        alive: Callable[[], bool],
        timeout: float,
    ) -> None:
        self._folder = folder
        self.first = first
        self._key = key
        self._connect = connect
        self._ring = ring
        self._alive = alive
        self._timeout = timeout
        self._knock: _Knock | None = None
        self._door: _Door | None = None
        self._admitted: dict[int, bytes] = {}
        self._last_decided: dict[str, Any] | None = None
        self.session = self._load()

    # --- authentic.Gate ---

    def enter(self, raw: Store) -> Session:
        """Come into the session that the store names. Raises StoreGoneError while that can't be done."""
        marker = raw.get(MARKER)
        known = self.session is not None and marker == self.session.marker
        if not known and not self._alive():
            raise StoreGoneError("the hosts of the job meet anew, and no rank of this one lives")
        if self.first == 0:
            return self._lead(raw, known)
        if self.session is not None and known:
            return self.session
        if marker is None:
            marker = raw.wait(MARKER, self._timeout)
        if marker is None:
            unsigned = raw.get("job") is not None
            reason = (
                "it has no secret" if unsigned else "it has passed no checkpoint, or does not reach the job's store"
            )
            raise StoreGoneError(f"no word yet of the host of rank 0: {reason}")
        self.session = self._knock_at(raw, marker)
        self._save(self.session)
        return self.session

    def decided(self, session: Session, number: int, about: bytes, payload: bytes) -> bytes:
        """Keep what this host decides of a request, and return it; if it has decided before, return that."""
        this = {"session": session.ident, "number": number, "about": about.hex()}
        with state_files.opened(self._folder, create=True) as fd:
            if self._last_decided is None:
                self._last_decided = state_files.read_object(fd, _DECIDED, self._folder / state_files.HOSTS) or {}
            before = self._last_decided
            if before | this == before and isinstance(before.get("decision"), str):
                return str(before["decision"]).encode()
            decision = this | {"decision": payload.decode()}
            state_files.overwrite_object(fd, _DECIDED, decision)
            self._last_decided = decision
        return payload

    def abandon(self, session: Session) -> None:
        """Leave this session, so that all hosts meet anew: this one knocks again, or leads a new one."""
        if self.session is session:
            self.session = None
            self.end()

    # --- the life of a session ---

    @property
    def must_renew(self) -> bool:
        """Whether this host leads, and has to begin a new session."""
        return self._door is not None and self._door.knocked_again

    @property
    def lost(self) -> bool:
        """Whether the thread that answers has lost its connection to the store."""
        return self._door is not None and self._door.gone

    def renew(self, raw: Store, awaited: str | None = None) -> None:
        """Begin a new session, which this host leads.

        awaited: the key of the next request, which wakes the hosts that wait for it in the session before.
        """
        self._close_door()
        before = self.session
        session = Session(self._key, secrets.token_hex(16))
        with state_files.opened(self._folder, create=True) as fd, suppress(FileNotFoundError):
            os.unlink(_ADMITTED, dir_fd=fd)
        self._admitted = {}
        self._save(session)
        self.session = session
        raw.set(MARKER, session.marker)
        if before is not None and awaited is not None:
            raw.compare_set(before.place(awaited), None, before.seal(awaited, FORGOTTEN, b""))

    def end(self) -> None:
        """Leave the session for good: no rank of this host lives any more."""
        with state_files.opened(self._folder, create=True) as fd, suppress(FileNotFoundError):
            os.unlink(state_files.SESSION, dir_fd=fd)

    def close(self) -> None:
        """Let go of the store. enter() may follow."""
        self._close_door()

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None

    # --- the leader ---

    def _lead(self, raw: Store, known: bool) -> Session:
        if not known:
            self.renew(raw)
        assert self.session is not None
        if self._door is None:
            answer = partial(self._answer, self._admitted)
            self._door = _Door(self._connect(), self.session.ident, answer, self._ring)
        return self.session

    def _answer(self, admitted: dict[int, bytes], store: Store, ident: str, hello: bytes) -> bool:
        """Answer a host that knocks at the session `ident`. Return whether it was admitted there before, with another
        nonce.

        admitted: to that session.
        """
        first, nonce, said = hello[:8], hello[8 : 8 + _NONCE], hello[8 + _NONCE :]
        if len(said) != _TAG or not hmac.compare_digest(said, tag(self._key, "hello", ident, first, nonce)):
            return False
        rank = int.from_bytes(first, "big")
        if rank == 0:
            return False
        known = admitted.get(rank)
        if known is not None and known != nonce:
            return True
        if known is None:
            line = json.dumps([ident, rank, nonce.hex()]).encode() + b"\n"
            with state_files.opened(self._folder, create=True) as fd:
                private_files.append_line(fd, _ADMITTED, line)
            admitted[rank] = nonce
        store.set(f"welcome/{nonce.hex()}", tag(self._key, "welcome", ident, first, nonce))
        return False

    # --- the others ---

    def _knock_at(self, raw: Store, marker: bytes) -> Session:
        ident = marker[:-_TAG].decode(errors="replace")
        session = Session(self._key, ident)
        if not hmac.compare_digest(marker, session.marker):
            raise StoreGoneError(
                "the host of rank 0 has another secret than this one, or another user writes into the job's store: "
                f"{REMEDY}"
            )
        if self._knock is None or self._knock.ident != ident:
            self._knock = _Knock(ident, secrets.token_bytes(_NONCE), 1)
        knock, first = self._knock, self.first.to_bytes(8, "big")
        hello = first + knock.nonce + tag(self._key, "hello", ident, first, knock.nonce)
        self._put(raw, knock, hello)
        place = f"welcome/{knock.nonce.hex()}"
        answer = raw.wait(place, self._timeout)
        if answer is None or not hmac.compare_digest(answer, tag(self._key, "welcome", ident, first, knock.nonce)):
            raise StoreGoneError("the host of rank 0 has not answered this one yet")
        raw.delete(place)
        self._knock = None
        return session

    def _put(self, raw: Store, knock: _Knock, hello: bytes) -> None:
        """Put it where the leader looks: at the first place that is free."""
        if raw.get(f"hello/{knock.ident}/{knock.ticket}") == hello:
            return
        taken, free = 0, 1
        while free < _TICKETS and raw.get(f"hello/{knock.ident}/{free}") is not None:
            taken, free = free, 2 * free
        while free - taken > 1:
            middle = (taken + free) // 2
            if raw.get(f"hello/{knock.ident}/{middle}") is None:
                free = middle
            else:
                taken = middle
        end = time.monotonic() + self._timeout
        while raw.compare_set(f"hello/{knock.ident}/{free}", None, hello) != hello:
            free += 1
            if time.monotonic() >= end:
                raise StoreGoneError("too many hosts come at once, or another user writes into the job's store")
        knock.ticket = free

    # --- what is kept ---

    def _load(self) -> Session | None:
        """The session of the process before this one; None if it was in none, or in one of another start of the job."""
        shown = self._folder / state_files.HOSTS
        with state_files.opened(self._folder, create=True) as fd:
            found = state_files.read_object(fd, state_files.SESSION, shown) or {}
            ident = found.get("session")
            if not isinstance(ident, str) or found.get("key") != key_id(self._key):
                return None
            if self.first == 0:
                self._admitted = _read_admitted(fd, ident, shown)
        return Session(self._key, ident)

    def _save(self, session: Session) -> None:
        with state_files.opened(self._folder, create=True) as fd:
            state_files.write_object(fd, state_files.SESSION, {"session": session.ident, "key": key_id(self._key)})


def _read_admitted(fd: int, ident: str, shown: Path) -> dict[int, bytes]:
    """The hosts that were admitted to a session: the nonce of each, by its first rank."""
    try:
        text = private_files.read_whole(fd, _ADMITTED, _ADMITTED_MAX, shown)
    except (FileNotFoundError, StoreError):
        return {}
    found = {}
    for line in text.splitlines():
        with suppress(ValueError, TypeError):
            session, rank, nonce = json.loads(line)
            if session == ident and whole(rank) is not None:
                found[int(rank)] = bytes.fromhex(nonce)
    return found


class _Door:
    """A thread of the leader that answers hosts which knock, over a connection of its own.

    Attributes:
        knocked_again: a host has knocked that was admitted before.
        gone: the connection is lost.
    """

    def __init__(
        self, store: Store, ident: str, answer: Callable[[Store, str, bytes], bool], ring: Callable[[], None]
    ) -> None:
        self._store = store
        self._ident = ident
        self._answer = answer
        self._ring = ring
        self._over = False
        self.knocked_again = False
        self.gone = False
        threading.Thread(target=self._listen, name="spark_fast door", daemon=True).start()

    def close(self) -> None:
        """End the thread, at the latest when it has heard nothing for a while."""
        self._over = True

    def _listen(self) -> None:
        ticket = 1
        try:
            while not self._over and not self.knocked_again:
                hello = self._store.wait(f"hello/{self._ident}/{ticket}", _LISTEN)
                if hello is None or self._over:
                    continue
                ticket += 1
                if self._answer(self._store, self._ident, hello):
                    self.knocked_again = True
                    self._ring()
        except Exception as error:  # the folder may be gone, too: the process then ends by itself
            self.gone = True
            self._ring()
            if not isinstance(error, StoreGoneError):
                raise
        finally:
            self._store.close()
