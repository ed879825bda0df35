"""How a relay opens the job's store. If the job has a secret, all values of this host are signed there."""

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
"""Seconds between two reports of values in the store that no host has signed."""


class StoreAccess:
    """Opens the job's store, as often as a relay needs a connection. One thread uses it.

    folder: the run folder.
    place: where the host stands in its job.
    ring: wakes the thread that uses this object.
    alive: tells whether a rank of this host lives.

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
        """Whether the thread that admits other hosts to the session has lost its connection."""
        return self._entrance is not None and self._entrance.lost

    def check(self, awaited: str | None) -> None:
        """Begin a new session if this host has to. Then raise StoreGoneError: every host has to enter the new session.

        awaited: the key of the next request, for which the other hosts wait.
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
        """Publish for clients how many values in the store no host has signed.

        Return a line for the relay's log at the first such value, else an empty text. Raises OSError.
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
        """Leave the job for good, before the host's last word is told: none of its ranks lives any more."""
        if self._entrance is not None:
            self._entrance.end()

    def close(self) -> None:
        """Close the connection over which other hosts are admitted. Stores from open() are closed one by one."""
        if self._entrance is not None:
            self._entrance.close()
