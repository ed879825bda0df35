"""A Store around another one, in which only the hosts of the job can write values.

Each value is signed by HMAC-SHA-256 over the session, the key, what the key is about, a version, and the payload. A
value that does not verify is foreign, and is treated as absent. What the signature covers:

    session     There is a new one for each start of the job, each emptied store and each host that comes back: see
                `session`. Its identifier also begins each key in the store, so that sessions never share a key.
    key         A value counts only under its own key.
    about       If the key has a request's number, the digest of the request that this host has read under that number.
                So an answer to one request never counts as one to another, even if the store loses a request and
                another one takes its number.
    version     If the key's writer overwrites it, a number that grows. A reader refuses a version below one that it has
                seen. Any other key has one value, with version 0.

Marker: how the store names the session. Hosts meet anew when they enter a new session.

Counters can't be signed. They may only hint that it is time to look.
"""

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from spark_fast.hosts.secret import tag
from spark_fast.hosts.store import Store, StoreGoneError

__all__ = ["FORGOTTEN", "MARKER", "AuthenticStore", "Gate", "Refusals", "Session", "UnsignedStore"]

MARKER = "session"
"""The key that holds the session's marker. It belongs to no session."""

_FORM = b"sf1"
_TAG = 32
_VERSION = 8
_HEAD = len(_FORM) + _TAG + _VERSION

_OVERWRITTEN = ("host", "state")
"""The first words of the keys that one host overwrites. The number that follows is the host's lowest rank.
All hosts overwrite `watched`, which is only a hint."""
_OF_REQUEST = re.compile(r"(?!log/|host/|state/)[a-z_]+/([1-9][0-9]{0,18})(?:/|$)")
"""Any other key with a number is about the request of that number."""
_LOG = re.compile(r"log/([1-9][0-9]{0,18})")
FORGOTTEN = b"{}"
"""What the log has in place of a request that is over. A new session's leader also ends the old log with it."""

_KEPT = 1024
"""Requests whose digests are kept: more than the store keeps."""
_TRIES = 32
"""Attempts to swap a value in while each finds another foreign value."""
_FOREIGN_PAUSE = 0.05
"""Seconds between two reads while a foreign value stands at an awaited key."""


class Refusals:
    """Counts the values that no host of the job has signed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, bytes] = {}
        self.count = 0
        self.first = ""

    def add(self, key: str, raw: bytes) -> None:
        """Count a value, once as long as it stands at the key."""
        digest = hashlib.sha256(raw).digest()  # a value may be of any length
        with self._lock:
            if self._seen.get(key) == digest:
                return
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            self._seen[key] = digest
            self.count += 1
            self.first = self.first or key


class Session:
    """A session: how its values are signed, and what this host has read in it. Threads may share it.

    job_key: the key of this start of the job.
    ident: the session's identifier, which no other session has.
    """

    def __init__(self, job_key: bytes, ident: str) -> None:
        self.ident = ident
        self.marker = ident.encode() + tag(job_key, "session", ident)
        self._key = tag(job_key, "key of a session", ident)
        self._lock = threading.Lock()
        self._versions: dict[str, int] = {}
        self._requests: dict[int, bytes] = {}

    def place(self, key: str) -> str:
        """Return the name in the store of a key of this session."""
        return f"{self.ident}/{key}"

    def seal(self, key: str, payload: bytes, about: bytes) -> bytes:
        """Return the payload with its signature."""
        version = bytes(_VERSION)
        if _is_overwritten(key):
            with self._lock:
                # From the clock, so that a relay's values are newer after it was started again.
                number = max(time.time_ns(), self._versions.get(key, 0) + 1)
                self._versions[key] = number
            version = number.to_bytes(_VERSION, "big")
        return _FORM + tag(self._key, "value", key, about, version, payload) + version + payload

    def open(self, key: str, raw: bytes, about: bytes) -> bytes | None:
        """Return the payload; None if it was not signed for this key and request, or a newer one was seen."""
        if len(raw) <= _HEAD or not raw.startswith(_FORM):
            return None
        said, version, payload = raw[len(_FORM) : _HEAD - _VERSION], raw[_HEAD - _VERSION : _HEAD], raw[_HEAD:]
        if not hmac.compare_digest(said, tag(self._key, "value", key, about, version, payload)):
            return None
        number = int.from_bytes(version, "big")
        if not _is_overwritten(key):
            return None if number else payload
        with self._lock:
            if number < self._versions.get(key, 0):
                return None
            self._versions[key] = number
        return payload

    def note(self, number: int, payload: bytes) -> None:
        """Keep the digest of the request that was read first under a number: that one is meant from now on."""
        with self._lock:
            if number not in self._requests:
                self._requests[number] = hashlib.sha256(payload).digest()
                if len(self._requests) > _KEPT:
                    del self._requests[min(self._requests)]

    def is_meant(self, key: str, payload: bytes) -> bool:
        """Return whether a verified value may stand under this key.

        In the log, that is the request that was read first under its number, or FORGOTTEN.
        """
        match = _LOG.fullmatch(key)
        return match is None or payload == FORGOTTEN or self.about(int(match[1])) == hashlib.sha256(payload).digest()

    def about(self, number: int) -> bytes | None:
        """Return the digest of the request of this number; None if this host has not read it."""
        with self._lock:
            return self._requests.get(number)


def _is_overwritten(key: str) -> bool:
    return key.partition("/")[0] in _OVERWRITTEN


class Gate(Protocol):
    """How a host enters a session: see `session`."""

    @property
    def first(self) -> int:
        """The lowest rank of this host."""

    @property
    def session(self) -> Session | None:
        """The session that this host is in; None before it has entered one."""

    def enter(self, raw: Store) -> Session:
        """Enter the session that the store names. Raises StoreGoneError while that can't be done."""

    def decided(self, session: Session, number: int, about: bytes, payload: bytes) -> bytes:
        """Keep this host's decision on a request, and return it. If there is an earlier one, return that."""

    def abandon(self, session: Session) -> None:
        """Leave this session, so that all hosts meet anew. Any thread may call it."""


class AuthenticStore:
    """See Store, and the docstring of this module. raw: the store whose values are signed."""

    def __init__(self, raw: Store, gate: Gate, refusals: Refusals) -> None:
        self._raw = raw
        self._gate = gate
        self._refusals = refusals
        self._mine: tuple[str, bytes] | None = None  # the key at which this host has announced itself; the value

    def get(self, key: str) -> bytes | None:
        if key == "job":
            self._raw.get(MARKER)
            return self._session().ident.encode()
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        session = self._session()
        return self._verified(session, keys, self._read(session, [*keys, *_unread(session, keys)]))

    def set(self, key: str, value: bytes) -> None:
        session = self._session()
        if key.startswith("state/"):
            self._stay(session)
        about = self._about(session, key)
        if about is not None:
            self._raw.set(session.place(key), session.seal(key, value, about))

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        if key == "job":
            return self._gate.enter(self._raw).ident.encode()
        session = self._session()
        place, about = session.place(key), self._about(session, key)
        if about is None:
            return b""
        if expected is None and key.startswith("target/"):
            # A host that is killed here, and then finds its decision gone, must not make another one.
            desired = self._gate.decided(session, int(key.split("/")[1]), about, desired)
        sealed = session.seal(key, desired, about)
        stands = None if expected is None else self._raw.get(place)
        for _ in range(_TRIES):
            found = None if stands is None else self._open(session, key, stands, about)
            if found is not None and found != expected:
                return found
            if found is None and expected is not None:
                return expected
            swapped = self._raw.compare_set(place, stands, sealed)
            if swapped == sealed:
                self._note(session, key, desired, sealed)
                return desired
            # If the key has been removed meanwhile, a store returns the expected value.
            stands = swapped if swapped and swapped != stands else None
        raise StoreGoneError(f"another user keeps writing into the job's store, under {key}")

    def wait(self, key: str, timeout: float) -> bytes | None:
        return self.wait_many([key], timeout)[0]

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        session = self._session()
        end = time.monotonic() + timeout
        left = timeout
        while True:
            raws = self._raw.wait_many([session.place(key) for key in keys], left)
            found = self._verified(session, keys, dict(zip(keys, raws, strict=True)))
            left = end - time.monotonic()
            if None in raws or None not in found or left <= 0:
                return found
            time.sleep(min(_FOREIGN_PAUSE, left))  # a value that does not verify ends no wait
            left = max(end - time.monotonic(), 0.0)

    def delete(self, *keys: str) -> None:
        session = self._session()
        self._raw.delete(*map(session.place, keys))

    def close(self) -> None:
        self._raw.close()

    # --- signatures ---

    def _session(self) -> Session:
        if self._gate.session is None:
            raise StoreGoneError("this host has not met the others of its job yet")
        return self._gate.session

    def _read(self, session: Session, keys: Sequence[str]) -> dict[str, bytes | None]:
        """Read what stands at each key, in one call. Raises StoreGoneError at the end of the log if hosts meet anew.

        A host finds the end of the log before it puts a request there. In a session that is over, no host would answer
        the request.
        """
        keys = list(dict.fromkeys(keys))
        if not any(key.startswith("log/") for key in keys):
            return dict(zip(keys, self._raw.get_many([session.place(key) for key in keys]), strict=True))
        *raws, marker = self._raw.get_many([*map(session.place, keys), MARKER])
        found = dict(zip(keys, raws, strict=True))
        if marker != session.marker and any(raw is None for key, raw in found.items() if key.startswith("log/")):
            raise _met_anew()
        return found

    def _verified(self, session: Session, keys: Sequence[str], raws: Mapping[str, bytes | None]) -> list[bytes | None]:
        """Return the payload at each key, or None. Verify requests first, since the other values are about them."""
        found: dict[str, bytes | None] = {}
        for key in sorted(raws, key=lambda key: not key.startswith("log/")):
            raw = raws[key]
            found[key] = None
            if raw is not None:
                about = self._about(session, key)
                payload = None if about is None else self._open(session, key, raw, about)
                if about is None:
                    self._refusals.add(key, raw)
                elif payload is not None and not session.is_meant(key, payload):
                    # Otherwise this host would do the second request, and take the others' answers to the first one for
                    # answers to the second.
                    self._gate.abandon(session)
                    raise StoreGoneError(
                        f"another user has put one request in the place of another, under {key}: the hosts meet anew"
                    )
                found[key] = payload
        return [found[key] for key in keys]

    def _about(self, session: Session, key: str) -> bytes | None:
        """Return what a key is about: a request's digest, or b"" if no request; None if the store lacks the request."""
        if (match := _OF_REQUEST.match(key)) is None:
            return b""
        number = int(match[1])
        if session.about(number) is None:
            log = f"log/{number}"
            self._verified(session, [log], {log: self._raw.get(session.place(log))})
        return session.about(number)

    def _open(self, session: Session, key: str, raw: bytes, about: bytes) -> bytes | None:
        found = session.open(key, raw, about)
        if found is None:
            self._refusals.add(key, raw)
        else:
            self._note(session, key, found, raw)
        return found

    def _note(self, session: Session, key: str, payload: bytes, raw: bytes) -> None:
        """Keep what is needed later of a value in the store. Raises StoreGoneError if the hosts meet anew."""
        if key == f"host/{self._gate.first}":
            self._mine = session.place(key), raw
        if (match := _LOG.fullmatch(key)) is None:
            return
        if payload == FORGOTTEN:
            if self._raw.get(MARKER) != session.marker:
                raise _met_anew()
        else:
            session.note(int(match[1]), payload)

    def _stay(self, session: Session) -> None:
        """Raise StoreGoneError if the hosts meet anew. Announce this host again if another user has removed or replaced
        its announcement."""
        mine = self._mine
        marker, *stands = self._raw.get_many([MARKER] if mine is None else [MARKER, mine[0]])
        if marker != session.marker:
            raise _met_anew()
        if mine is not None and stands != [mine[1]]:
            self._raw.set(*mine)


def _met_anew() -> StoreGoneError:
    return StoreGoneError("the hosts of the job meet anew")


def _unread(session: Session, keys: Sequence[str]) -> list[str]:
    """Return the log keys of those requests that these keys are about and that this host has not read."""
    numbers = {int(match[1]) for key in keys if (match := _OF_REQUEST.match(key))}
    return [f"log/{number}" for number in numbers if session.about(number) is None]


class UnsignedStore:
    """A store that is used as it is, because this host has no secret. Raises StoreGoneError if other hosts have one.

    raw: the store that is used.
    remedy: what the user can do about that, for the error.
    """

    def __init__(self, raw: Store, remedy: str) -> None:
        self._raw = raw
        self._remedy = remedy

    def get(self, key: str) -> bytes | None:
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        if not any(map(_meets, keys)):
            return self._raw.get_many(keys)
        *found, marker = self._raw.get_many([*keys, MARKER])
        if any(raw is None for key, raw in zip(keys, found, strict=True) if _meets(key)):
            self._check_unsigned(marker)
        return found

    def set(self, key: str, value: bytes) -> None:
        self._raw.set(key, value)

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        if _meets(key):
            self._check_unsigned(self._raw.get(MARKER))
        return self._raw.compare_set(key, expected, desired)

    def wait(self, key: str, timeout: float) -> bytes | None:
        return self._raw.wait(key, timeout)

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        return self._raw.wait_many(keys, timeout)

    def delete(self, *keys: str) -> None:
        self._raw.delete(*keys)

    def close(self) -> None:
        self._raw.close()

    def _check_unsigned(self, marker: bytes | None) -> None:
        """Raise StoreGoneError if the store names a session: then other hosts sign their values."""
        if marker is not None:
            raise StoreGoneError(f"other hosts of the job have a secret, and this one has none: {self._remedy}")


def _meets(key: str) -> bool:
    """Return whether a host first meets the others at this key, or looks there for a request."""
    return key == "job" or key.startswith("log/")
