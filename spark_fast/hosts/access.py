"""How a relay comes to the job's store: with all that its host puts there signed, if the job has a secret."""

import time
from collections.abc import Callable
from pathlib import Path

from spark_fast.hosts import state_files
from spark_fast.hosts.authentic import AuthenticStore, Refusals, UnsignedStore
from spark_fast.hosts.secret import REMEDY, SIGNED, read_key
from spark_fast.hosts.session import Entrance
from spark_fast.hosts.state_files import HostPlace
from spark_fast.hosts.store import Store, StoreGoneError, open_store

__all__ = ["StoreAccess"]

_TELL = 10.0
"""Seconds between two words about values in the store that no host has signed."""


class StoreAccess:
    """Opens the job's store, as often as a relay needs a connection. One thread uses it.

    folder: of the run.
    place: of the host in its job.
    ring: wakes the thread that uses this.
    alive: whether a rank of this host lives.

    Attributes:
        timeout: seconds that a call to the store may take.
    """

    def __init__(self, folder: Path, place: HostPlace, ring: Callable[[], None], alive: Callable[[], bool]) -> None:
        self.timeout = min(2.0, place.bound / 2)
        self._folder = folder
        self._place = place
        self._ring = ring
        self._alive = alive
        self._entrance: Entrance | None = None
        self._refusals = Refusals()
        self._told = 0
        self._told_at = 0.0

    def open(self) -> Store:
        """Open the store. Raises StoreGoneError."""
        place = self._place
        if place.protection != SIGNED:
            return UnsignedStore(self._open_raw(), f"{place.unused}; {REMEDY}" if place.unused else REMEDY)
        if self._entrance is None:
            with state_files.opened(self._folder) as fd:
                key = read_key(fd, place.key_id, self._folder / state_files.HOSTS)
            if key is None:
                raise StoreGoneError("the key of this start of the job is gone from the run's folder")
            self._entrance = Entrance(
                self._folder, place.first, key, self._open_raw, self._ring, self._alive, self.timeout
            )
        return AuthenticStore(self._open_raw(), self._entrance, self._refusals)

    def _open_raw(self) -> Store:
        return open_store(self._place.address, self.timeout)

    @property
    def lost(self) -> bool:
        """Whether the thread that answers other hosts has lost its connection."""
        return self._entrance is not None and self._entrance.lost

    def check(self, awaited: str | None) -> None:
        """Begin a new session if this host has to, and raise StoreGoneError then, as each other host does for itself.

        awaited: the key of the next request, which the other hosts wait for.
        """
        if self._entrance is None or not self._entrance.must_renew:
            return
        raw = self._open_raw()
        try:
            self._entrance.renew(raw, awaited)
        finally:
            raw.close()
        raise StoreGoneError("a host has come back: the hosts of the job meet anew")

    def tell_refusals(self) -> str:
        """Tell clients of values in the store that no host has signed. Return what the relay's log is to say: a line
        for the first one, else an empty text. Raises OSError.
        """
        count, first, now = self._refusals.count, self._refusals.first, time.monotonic()
        if count == self._told or (self._told and now - self._told_at < _TELL):
            return ""
        with state_files.opened(self._folder, create=True) as fd:
            state_files.write_object(fd, state_files.UNSIGNED, {"count": count, "first": first})
        known, self._told, self._told_at = self._told, count, now
        if known:
            return ""
        what = f"a value under {first} in the job's store was signed by no host, and is ignored"
        return f"{what}; {state_files.UNSIGNED} counts them"

    def end(self) -> None:
        """Leave the job for good, before its last word is told: no rank of this host lives any more."""
        if self._entrance is not None:
            self._entrance.end()

    def close(self) -> None:
        """Let go of the connection that answers other hosts. The stores that were opened are closed one by one."""
        if self._entrance is not None:
            self._entrance.close()
