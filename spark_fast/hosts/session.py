"""How the hosts of a job enter one session, so that nothing that was signed before it counts any more.

The host of rank 0 leads. It draws the session's identifier and names it in the store. Every other host knocks: it draws
a nonce and puts it into the store, signed. The leader admits the host by a signature over that nonce. A host enters a
session only by an answer to its own nonce.

    marker  the session's identifier and its signature: how the store names the session
    ticket  the number of the key at which a host knocks
    door    the leader's thread that waits for hosts to knock, and answers them

Keys, where s is the session's identifier, t a ticket and n a nonce:

    session        the marker
    hello/<s>/<t>  a host knocks; t counts from 1
    welcome/<n>    the leader's answer to the nonce

A host that is started again keeps its session, in a file of its run folder, as long as the store names it. A session
admits each host once. The leader begins a new session if a host knocks for the second time: that host has ended, has
lost its folder, or was shown two requests under one number. The leader also begins a new session if the store, because
it was emptied, names none or another one. Then the hosts meet anew: all others knock. So an ended host's last word is
never taken for a word of the host that follows it.

Several sessions at the same time do no harm: a request needs a word of every host, signed in the request's session.
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
"""Seconds after which the door's wait for the next host begins anew."""
_TICKETS = 1 << 20
"""The most tickets of a session."""


@dataclass
class _Knock:
    """How this host has knocked: at which session, with which nonce, and at which ticket."""

    ident: str
    nonce: bytes
    ticket: int


class Entrance:
    """How a host enters the session: see authentic.Gate. One thread calls it; the leader's door is another thread.

    folder: the host's run folder.
    first: the host's lowest rank. The host of rank 0 leads.
    key: the key of this start of the job.
    connect: opens another connection to the store, for the door.
    ring: wakes the thread that calls this object.
    alive: tells whether a rank of this host lives. A host without one enters no new session.
    timeout: seconds that enter() waits for each word of the leader.

    Attributes:
        first: the host's lowest rank.
        session: the session that this host is in; None before it has entered one.
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
        """Enter the session that the store names; as its leader, begin it if need be.

        Raises StoreGoneError while that can't be done.
        """
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
        """Keep this host's decision on a request, and return it. If there is an earlier one, return that."""
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
        """Leave this session, so that all hosts meet anew: this host knocks again, or leads a new session."""
        if self.session is session:
            self.session = None
            self.end()

    # --- the life of a session ---

    @property
    def must_renew(self) -> bool:
        """Whether this host leads and has to begin a new session, since a host has knocked for the second time."""
        return self._door is not None and self._door.knocked_again

    @property
    def lost(self) -> bool:
        """Whether the door has lost its connection to the store."""
        return self._door is not None and self._door.gone

    def renew(self, raw: Store, awaited: str | None = None) -> None:
        """Begin a new session, which this host leads.

        awaited: the key of the next request. A value there wakes the hosts that wait for it in the session before.
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
        """Leave the session for good, since no rank of this host lives any more."""
        with state_files.opened(self._folder, create=True) as fd, suppress(FileNotFoundError):
            os.unlink(state_files.SESSION, dir_fd=fd)

    def close(self) -> None:
        """Close the door, and so its connection. enter() opens it again."""
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
        """Admit a host that knocks at the session `ident`, unless it was admitted there with another nonce before.

        Return whether it was. A value that no host of the job has signed is ignored.

        admitted: the nonces of the hosts that this session has admitted, by their lowest ranks.
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
        """Put the knock where the door waits: at the first free ticket."""
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
        """Return the session that the last relay was in; None if in none, or in one of another start of the job.

        Also reads whom the session has admitted, if this host leads.
        """
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
    """Return the nonces of the hosts that a session has admitted, by their lowest ranks."""
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
    """A thread of the leader that answers the hosts that knock, over a connection of its own.

    Attributes:
        knocked_again: whether a host has knocked that was admitted before.
        gone: whether the connection is lost.
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
        """End the thread, at the latest when its current wait is over."""
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
        except Exception as error:  # also if the folder is gone: the process then ends by itself
            self.gone = True
            self._ring()
            if not isinstance(error, StoreGoneError):
                raise
        finally:
            self._store.close()
